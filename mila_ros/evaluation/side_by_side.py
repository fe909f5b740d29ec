"""`mila report`: several metrics.json side by side, and which differences exceed their intervals."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mila_ros.errors import UserError
from mila_ros.evaluation.replay import SCHEMA
from mila_ros.evaluation.report import METRICS
from mila_ros.evaluation.tally import FEWEST_BLOCKS, resamples

PAIRED, APART = "*", "+"
"""Marks of a difference that is more than chance: frame by frame on the same frames; by intervals that do not touch."""
_WITHIN = ("delta1", "delta1_scaled", "within_11_25", "within_22_5", "within_30")
_MEANS = ("pixel_accuracy", "rmse", "abs_rel", "mean_deg", *_WITHIN)


def main(argv: list[str]) -> int:
    """Entry of `mila report`.

    Raises:
        UserError: a file is missing or is no evaluation, or they have nothing in common.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="mila report", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="METRICS.json", help="of `mila evaluate`")
    which = "of each file, or one for all (the first one that is not slow)"
    parser.add_argument("--method", nargs="+", default=[None], metavar="NAME", help=which)
    parser.add_argument("--way", choices=("every_frame", "real_time"), default="every_frame", help="(every_frame)")
    options = parser.parse_args(argv)
    names = options.method * len(options.files) if len(options.method) == 1 else options.method
    if len(names) != len(options.files):
        raise UserError(f"--method names {len(names)} methods for {len(options.files)} files: one for all, or one each")
    runs = [read(path) for path in options.files]
    columns = [pick(run, path, options.way, name) for run, path, name in zip(runs, options.files, names, strict=True)]
    print(compare(columns))
    bags = {run["key"]["bag"] for run in runs}
    if len(bags) > 1:
        print("note: these are evaluations of different recordings")
    return 0


def read(path: Path) -> dict[str, Any]:
    """A metrics.json, or the one of a folder."""
    file = path / "metrics.json" if path.is_dir() else path
    if not file.exists() and (file.parent / "summary.json").exists():
        raise UserError(f"{file.parent} is a demo's folder; `mila evaluate RECORDING` makes what can be compared")
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
    """The table. A mark stands at a value that differs from the first column's by more than chance, see `differs`."""
    lines = [f"{chr(65 + index)}: {title}" for index, (title, _) in enumerate(columns)]
    lines += ["", f"{'metric':<34}" + "".join(f"{chr(65 + i):>26}" for i in range(len(columns)))]
    base = columns[0][1]
    marks: set[str] = set()
    for task, key, _, unit, factor, digits, _ in METRICS:
        values = [method["metrics"].get(task, {}).get(key) for _, method in columns]
        if all(value is None for value in values):
            continue
        cells = []
        for value, (_, method) in zip(values, columns, strict=True):
            interval = method["intervals"].get(task, {}).get(key)
            text = "-" if value is None else f"{value * factor:.{digits}f}"
            if interval and value is not None:
                text += f" ({interval[0] * factor:.{digits}f}-{interval[1] * factor:.{digits}f})"
            mark = "" if method is base else differs(base, method, task, key)
            marks.add(mark)
            cells.append(f"{f'{text} {mark:<1}':>26}")
        lines.append(f"{f'{task} {key}, {unit}':<34}" + "".join(cells))
    lines.append("")
    known = all(method["intervals"] for _, method in columns)
    if PAIRED in marks:
        lines.append(f"{PAIRED} frame by frame it differs from A (95 %)")
    if APART in marks:
        lines.append(f"{APART} its 95 % interval does not touch that of A")
    if not {PAIRED, APART} & marks:
        lines.append("no difference exceeds the 95 % intervals" if known else "there are too few frames for intervals")
    return "\n".join(lines)


def differs(base: Mapping[str, Any], method: Mapping[str, Any], task: str, key: str) -> str:
    """Whether a metric differs by more than chance: PAIRED, APART, or nothing.

    On the same frames the differences in each block of them are resampled, which is far sharper than two intervals:
    what is hard for one is hard for the other. Else, whether the two 95 % intervals do not touch.
    """
    gap = paired_difference(base, method, task, key)
    if gap is not None:
        shown = method["metrics"][task][key] - base["metrics"][task][key]
        # The mean over blocks is not quite the total's value: both must say the same.
        return PAIRED if (gap[0] > 0 and shown > 0) or (gap[1] < 0 and shown < 0) else ""
    one, other = (each["intervals"].get(task, {}).get(key) for each in (base, method))
    return APART if one and other and (other[0] > one[1] or other[1] < one[0]) else ""


def paired_difference(
    base: Mapping[str, Any], method: Mapping[str, Any], task: str, key: str
) -> tuple[float, float] | None:
    """Where the mean difference by block of frames lies in 95 % of the resamples.

    For metrics that are means over pixels, RMSE by its square; None for others (mIoU, medians), and where the two were
    not judged on the same blocks, or on too few.
    """
    one, other = (each.get("over_time", {}) for each in (base, method))
    name = f"{task}.{key}"
    if key not in _MEANS or not one.get("stamp_ns") or one["stamp_ns"] != other.get("stamp_ns"):
        return None
    if name not in one or name not in other:
        return None
    power = 2 if key == "rmse" else 1
    pairs = zip(one[name], other[name], strict=True)
    gaps = np.array([b**power - a**power for a, b in pairs if a is not None and b is not None])
    if len(gaps) < FEWEST_BLOCKS:
        return None
    low, high = np.quantile(resamples(len(gaps)) @ gaps / len(gaps), (0.025, 0.975))
    return float(low), float(high)
