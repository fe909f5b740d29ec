"""The table of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ACCURACY = (
    ("mIoU %", "segmentation.miou", 100.0, 3),
    ("acc %", "segmentation.pixel_accuracy", 100.0, 3),
    ("RMSE m", "depth.rmse", 1.0, 3),
    ("abs rel", "depth.abs_rel", 1.0, 3),
    ("d1 %", "depth.delta1", 100.0, 3),
    ("d1 med %", "depth.delta1_scaled", 100.0, 2),
    ("normal °", "normals.mean_deg", 1.0, 3),
    ("median °", "normals.median_deg", 1.0, 3),
    ("<11.25 %", "normals.within_11_25", 100.0, 2),
    ("<22.5 %", "normals.within_22_5", 100.0, 2),
    ("<30 %", "normals.within_30", 100.0, 2),
    ("change %", "relative_change", 100.0, 2),
    ("GFLOPs", "gflops", 1.0, 2),
)
STEADINESS = (
    ("VC8 %", "video_consistency.vc8", 100.0, 2),
    ("VC16 %", "video_consistency.vc16", 100.0, 2),
    ("agree %", "consistency.segmentation_agreement", 100.0, 2),
    ("depth %", "consistency.depth_change", 100.0, 2),
    ("normal °", "consistency.normals_deg", 1.0, 2),
    ("GFLOPs", "gflops", 1.0, 2),
    ("worst GF", "gflops_worst", 1.0, 2),
    ("ms", "ms", 1.0, 1),
    ("worst ms", "ms_worst", 1.0, 1),
)
_COST = ("gflops", "gflops_worst")
_JUDGED = (("segmentation", "miou", 1), ("depth", "rmse", -1), ("normals", "mean_deg", -1))
"""Of each task what the relative change is made of, and whether more of it is better."""


def relative_change(result: Mapping[str, Any], baseline: Mapping[str, Any]) -> float | None:
    """Mean relative change against a baseline, over the tasks that have ground truth; above zero is better.

    Source: Vandenhende et al., TPAMI 2021. None where no task has any.
    """
    changes = []
    for task, key, sign in _JUDGED:
        value, usual = result.get(task, {}).get(key), baseline.get(task, {}).get(key)
        if value is not None and usual:
            changes.append(sign * (value - usual) / usual)
    return sum(changes) / len(changes) if changes else None


def add_changes(results: Mapping[str, dict[str, Any]], baseline: str = "slow") -> None:
    """Give every result its `relative_change` against the baseline's."""
    for result in results.values():
        result["relative_change"] = relative_change(result, results[baseline])


def value_of(result: Mapping[str, Any], path: str) -> float | None:
    """A number of a result by its dotted name; None where there is none."""
    found: Any = result
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return None if found is None else float(found)


def format_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Results as tables for the terminal: accuracy, then, where anything of it is known, steadiness and cost."""
    telling = [path for _, path, *_ in STEADINESS if path not in _COST]
    steady = any(value_of(result, path) is not None for result in results.values() for path in telling)
    return "\n\n".join(_table(results, columns) for columns in (ACCURACY, STEADINESS)[: 1 + steady])


def _table(results: Mapping[str, Mapping[str, Any]], columns: Sequence[tuple[str, str, float, int]]) -> str:
    used = [column for column in columns if any(value_of(r, column[1]) is not None for r in results.values())]
    longest = max(9, *(len(name) for name in results))
    lines = ["  ".join([f"{'method':<{longest}}", *(f"{title:>8}" for title, *_ in used)])]
    for name, result in results.items():
        cells = []
        for _, path, factor, digits in used:
            value = value_of(result, path)
            cells.append(f"{'-':>8}" if value is None else f"{value * factor:8.{digits}f}")
        lines.append("  ".join([f"{name:<{longest}}", *cells]))
    return "\n".join(lines)
