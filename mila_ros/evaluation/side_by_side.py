"""`mila report`: several metrics.json side by side, and which differences exceed their intervals."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mila_ros.errors import UserError
from mila_ros.evaluation.replay import SCHEMA
from mila_ros.evaluation.report import METRICS


def main(argv: list[str]) -> int:
    """Entry of `mila report`.

    Raises:
        UserError: a file is missing or is no evaluation, or they have nothing in common.
    """
    parser = argparse.ArgumentParser(prog="mila report", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="METRICS.json", help="of `mila evaluate`")
    parser.add_argument("--method", default=None, metavar="NAME", help="of each file (the first one that is not slow)")
    parser.add_argument("--way", choices=("every_frame", "real_time"), default="every_frame", help="(every_frame)")
    options = parser.parse_args(argv)
    runs = [read(path) for path in options.files]
    columns = [pick(run, path, options.way, options.method) for run, path in zip(runs, options.files, strict=True)]
    print(compare(columns))
    bags = {run["key"]["bag"] for run in runs}
    if len(bags) > 1:
        print("note: these are evaluations of different recordings")
    return 0


def read(path: Path) -> dict[str, Any]:
    """A metrics.json, or the one of a folder."""
    file = path / "metrics.json" if path.is_dir() else path
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or "key" not in found:
        raise UserError(f"{file} is no evaluation of one recording (schema {SCHEMA}), as `mila evaluate` writes it")
    return found


def pick(run: Mapping[str, Any], path: Path, way: str, method: str | None) -> tuple[str, Mapping[str, Any]]:
    """A column: its heading and a method's values."""
    methods = run.get(way, {}).get("methods", {})
    name = method or next((m for m in methods if m != "slow"), next(iter(methods), None))
    if name is None or name not in methods:
        raise UserError(f"{path} has no method {name!r} in {way}; it has {', '.join(methods) or 'none'}")
    return f"{run['bag']['name']}, {run['model']['name']}, {name}", methods[name]


def compare(columns: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The table. A star marks a value whose interval does not touch that of the first column."""
    lines = [f"{chr(65 + index)}: {title}" for index, (title, _) in enumerate(columns)]
    lines += ["", f"{'metric':<34}" + "".join(f"{chr(65 + i):>26}" for i in range(len(columns)))]
    base = columns[0][1]
    told = False
    for task, key, _, unit, factor, digits, _ in METRICS:
        values = [method["metrics"].get(task, {}).get(key) for _, method in columns]
        if all(value is None for value in values):
            continue
        cells = []
        for value, (_, method) in zip(values, columns, strict=True):
            interval = method["intervals"].get(task, {}).get(key)
            first = base["intervals"].get(task, {}).get(key)
            text = "-" if value is None else f"{value * factor:.{digits}f}"
            if interval and value is not None:
                text += f" ({interval[0] * factor:.{digits}f}-{interval[1] * factor:.{digits}f})"
            differs = bool(interval and first and (interval[0] > first[1] or interval[1] < first[0]))
            told |= differs
            cells.append(f"{text + (' *' if differs else '  '):>26}")
        lines.append(f"{f'{task} {key}, {unit}':<34}" + "".join(cells))
    lines.append("")
    known = all(method["intervals"] for _, method in columns)
    if told:
        lines.append("* its 95 % interval does not touch that of A")
    else:
        lines.append("no difference exceeds the 95 % intervals" if known else "there are too few frames for intervals")
    return "\n".join(lines)
