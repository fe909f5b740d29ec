"""What a training run writes down: log.csv and validation.jsonl, each step once however often it is resumed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mila_ros.models.config import TASKS

COLUMNS = ("step", "seconds_a_step", *TASKS, "features", "glance", "temporal", "critic", "adversary", "far", "near")


class RunLog:
    """The two files of a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.losses, self.validation = folder / "log.csv", folder / "validation.jsonl"

    def add_losses(self, row: Mapping[str, float]) -> None:
        """A line of log.csv, by `COLUMNS`; what a run has not stays empty."""
        fresh = not self.losses.exists()
        with self.losses.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=COLUMNS, restval="")
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def add_validation(self, step: int, results: Mapping[str, Mapping[str, Any]]) -> None:
        """A line of validation.jsonl: METHOD.TASK.METRIC of a comparison (compare.py)."""
        flat = {
            f"{name}.{task}.{key}": value
            for name, result in results.items()
            for task, metrics in result.items()
            if isinstance(metrics, dict)
            for key, value in metrics.items()
            if key != "iou"
        }
        kept = [line for line in self._validations() if _read(line).get("step") != step]
        _write(self.validation, "".join(f"{line}\n" for line in [*kept, json.dumps({"step": step} | flat)]))

    def _validations(self) -> list[str]:
        return self.validation.read_text(encoding="utf-8").splitlines() if self.validation.exists() else []

    def forget_after(self, step: int) -> None:
        """Leave out what a run wrote behind the step that it is resumed at: it will be written again.

        A last line that was cut off goes, too.
        """
        if self.losses.exists():
            with self.losses.open(newline="", encoding="utf-8") as file:
                rows = [r for r in csv.DictReader(file) if None not in r.values() and _step(r["step"]) <= step]
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, fieldnames=COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
            _write(self.losses, text.getvalue())
        if self.validation.exists():
            kept = [line for line in self._validations() if _step(_read(line).get("step")) <= step]
            _write(self.validation, "".join(f"{line}\n" for line in kept))


def _write(path: Path, text: str) -> None:
    """In place of what was there, whole or not at all."""
    partial = path.with_suffix(f"{path.suffix}.partial")
    partial.write_text(text, encoding="utf-8", newline="")
    partial.replace(path)


def _step(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("inf")


def _read(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
