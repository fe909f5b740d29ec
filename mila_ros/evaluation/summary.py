"""summary.json: the run in numbers, for programs and for the report's tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mila_ros.evaluation.session import Usage
from mila_ros.evaluation.timeline import BudgetSample, FrameTime, Latency, flops_saved, stage_shares

# Memory is called flat by what happens after the first frames have set up what they need.
_SETTLING_NS = 2_000_000_000


def node_memory(usage: Sequence[Usage], first_ns: int, last_ns: int) -> dict[str, float]:
    """Resident MiB of the node while it played: at the start (two seconds after the first frame), end and most."""
    playing = [u for u in usage if first_ns <= u.monotonic_ns <= last_ns]
    if not playing:
        return {}
    settled = [u for u in playing if u.monotonic_ns >= first_ns + _SETTLING_NS] or playing[-1:]
    return {
        "node_rss_mb": max(u.rss_mb for u in playing),
        "node_rss_start_mb": settled[0].rss_mb,
        "node_rss_end_mb": settled[-1].rss_mb,
    }


def mean_cpu(usage: Sequence[Usage], first_ns: int, last_ns: int) -> float | None:
    """CPU of the node while it played, percent of one core."""
    values = [u.cpu_percent for u in usage if first_ns <= u.monotonic_ns <= last_ns]
    return sum(values) / len(values) if values else None


def frame_counts(frames: Sequence[FrameTime], budgets: Sequence[BudgetSample]) -> dict[str, int]:
    """What became of the frames: counted by the player, by the node, and by the recorder.

    `received`, `answered`, `dropped`, `late` and `failed` are the node's own totals; `published` is the player's;
    `complete` have all outputs in the recorder; `lost` never reached the node.
    """
    totals = budgets[-1].counts if budgets else {}
    counts = {"published": len(frames)}
    counts |= {name: totals.get(name, 0) for name in ("received", "answered", "dropped", "late", "failed")}
    counts["complete"] = sum(frame.arrived_ns is not None for frame in frames)
    counts["lost"] = max(0, counts["published"] - counts["received"])
    return counts


def build(
    frames: Sequence[FrameTime],
    budgets: Sequence[BudgetSample],
    usage: Sequence[Usage],
    metrics: Mapping[str, Mapping[str, Any]],
    judged: Mapping[str, int],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of summary.json. What is not known is null; tasks without ground truth are missing.

    Args:
        frames: of `timeline.join`; at least one.
        budgets: of the node.
        usage: of the node's process.
        metrics: by task, as `Judge.compute` gives them.
        judged: frames with ground truth, by task.
        facts: what was played, with which model, on what.
    """
    latency = Latency.of(frames)
    first = frames[0].published_ns
    last = max((f.arrived_ns or f.published_ns for f in frames), default=first)
    stages = stage_shares(budgets)
    keyframes = budgets[-1].counts.get("keyframes", 0) if budgets else 0
    summary: dict[str, Any] = {
        **facts,
        "seconds": (frames[-1].published_ns - first) * 1e-9,
        "frames": frame_counts(frames, budgets),
        "latency_ms": vars(latency),
        "flops_saved": flops_saved(budgets),
        "keyframes": keyframes,
        "stage_ms_per_frame": stages,
        **(node_memory(usage, first, last) or {"node_rss_mb": None}),
        "node_cpu_percent": mean_cpu(usage, first, last),
        **metrics,
        "judged_frames": {task: count for task, count in judged.items() if task in metrics},
    }
    return _finite(summary)


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """The same for people: a few lines for the terminal."""
    frames, latency = summary["frames"], summary["latency_ms"]
    lines = [
        f"frames     {frames['published']} published, {frames['answered']} answered, {frames['dropped']} dropped"
        + "".join(f", {frames[name]} {name}" for name in ("failed", "lost") if frames[name])
    ]
    if latency["p50"] is not None:
        lines.append(
            f"latency    p50 {latency['p50']:.1f}  p95 {latency['p95']:.1f}  p99 {latency['p99']:.1f} ms, "
            "publication to last output"
        )
    if summary["flops_saved"] is not None:
        lines.append(f"arithmetic {100 * summary['flops_saved']:.0f} % less than the slow network on every frame")
    if summary["node_rss_mb"] is not None:
        lines.append(
            f"memory     {summary['node_rss_mb']:.0f} MiB at most ({summary['node_rss_start_mb']:.0f} at the start, "
            f"{summary['node_rss_end_mb']:.0f} at the end)"
        )
    if "segmentation" in summary:
        found = summary["segmentation"]
        lines.append(f"classes    mIoU {found['miou']:.3f}, pixel accuracy {found['pixel_accuracy']:.3f}")
    if "depth" in summary:
        found = summary["depth"]
        lines.append(f"depth      RMSE {found['rmse']:.3f} m, abs rel {found['abs_rel']:.3f}, d1 {found['delta1']:.3f}")
    if "normals" in summary:
        found = summary["normals"]
        lines.append(f"normals    mean {found['mean_deg']:.1f}, median {found['median_deg']:.1f} degrees")
    return lines
