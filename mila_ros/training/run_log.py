"""What a training run writes down: log.csv and validation.jsonl, each step once however often it is resumed."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mila_ros.models.config import TASKS

COLUMNS = ("step", "seconds_a_step", *TASKS, "features", "glance", "temporal", "critic", "adversary")


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
        with self.validation.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | flat) + "\n")

    def forget_after(self, step: int) -> None:
        """Leave out what a run wrote behind the step that it is resumed at: it will be written again.

        A last line that was cut off goes, too.
        """
        if self.losses.exists():
            with self.losses.open(newline="", encoding="utf-8") as file:
                rows = [r for r in csv.DictReader(file) if None not in r.values() and _step(r["step"]) <= step]
            self.losses.unlink()
            for row in rows:
                self.add_losses({name: row.get(name, "") for name in COLUMNS})  # type: ignore[misc]
        if self.validation.exists():
            lines = self.validation.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(_read(line).get("step")) <= step]
            self.validation.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


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
