"""The report's plots, as SVG that stands inside the page and needs nothing from elsewhere."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window, whatever the desktop

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mila_ros.evaluation.session import Usage
from mila_ros.evaluation.timeline import FRAME_STAGES, BudgetSample, FrameAnswer, FrameTime, Latency, answered_in

INK, MUTED, GRID = "#1f2933", "#667585", "#e4e8ec"
ACCENT, SECOND, WARM = "#2563a8", "#0f8b7a", "#d1495b"
STAGE_COLOURS = {
    "transport and waiting": "#c5ced8",
    "decode": "#f2c14e",
    "upload": "#e98a4c",
    "fast": "#2563a8",
    "ila": "#6f9fd8",
    "heads": "#0f8b7a",
    "download": "#9cc9a3",
    "publish": "#b07aa1",
    "slow": "#d1495b",
}
STAGE_NAMES = {
    "fast": "fast network",
    "ila": "inter-frame attention",
    "slow": "slow network",
    "transport and waiting": "transport, waiting",
}
_STYLE = {
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",
}


# Beside the title, where no point can be.
_ABOVE: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1.0), "borderaxespad": 0.2}


def _figure(width: float = 5.6, height: float = 2.9) -> tuple[Figure, Axes]:
    made, (axes,) = new_figure(width, height)
    return made, axes


def new_figure(width: float, height: float, panels: int = 1, stacked: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, or one above another with a common x axis."""
    rows, columns = (panels, 1) if stacked else (1, panels)
    made, axes = plt.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False, sharex="all" if stacked else "none"
    )
    return made, list(axes.flat)


def as_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element; `name` keeps its ids apart from those of others on the page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.id": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Inside HTML neither namespaces nor metadata are needed; without them the page names no other place at all.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )


def latency_histogram(frames: Sequence[FrameTime], latency: Latency) -> str:
    """How many frames took how long."""
    values = [f.latency_ms for f in frames if f.latency_ms is not None]
    figure, axes = _figure()
    # The longest few would squeeze all others into one bar; they are counted at the edge.
    top = max(np.percentile(values, 99.5) * 1.05, (latency.p99 or 0) * 1.05) if values else 1
    axes.hist(np.clip(values, 0, top), bins=40, range=(0, top), color=ACCENT, rwidth=0.9)
    for share, value, colour in (("p50", latency.p50, INK), ("p95", latency.p95, MUTED), ("p99", latency.p99, WARM)):
        if value is not None:
            axes.axvline(value, color=colour, linewidth=1.4, linestyle=(0, (4, 2)), label=f"{share} {value:.0f} ms")
    axes.legend(**_ABOVE, ncols=3)
    axes.set(title="Latency", xlabel="ms from publication to last output", ylabel="frames", xlim=(0, top))
    axes.grid(axis="x", visible=False)
    return as_svg(figure, "histogram")


def latency_over_time(frames: Sequence[FrameTime], answers: Sequence[FrameAnswer], width: float = 11.6) -> str:
    """Latency of each frame, by what it was spent on; crosses: not answered; below: when keyframes were seen."""
    start = frames[0].published_ns
    told = {answer.stamp_ns: answer for answer in answers}
    answered = [f for f in frames if f.latency_ms is not None]
    missing = [(f.published_ns - start) * 1e-9 for f in frames if f.latency_ms is None]
    figure, axes = _figure(width)
    if answered:
        times = [(f.published_ns - start) * 1e-9 for f in answered]
        values = [f.latency_ms or 0.0 for f in answered]
        _stages_of_frames(axes, times, values, [told.get(f.stamp_ns) for f in answered])
        axes.scatter(times, values, s=5, color=INK, label="last output", zorder=3, linewidths=0)
    if missing:
        axes.scatter(
            missing, [0] * len(missing), s=22, marker="x", color=WARM, label="not answered", zorder=4, clip_on=False
        )
    keyframes = sorted({answer.keyframe_ns for answer in answers if answer.keyframe_ns is not None})
    if keyframes:
        # Along the lower edge, whatever the scale of the latencies.
        moments = [(stamp - frames[0].stamp_ns) * 1e-9 for stamp in keyframes]
        below = axes.get_xaxis_transform()
        axes.vlines(moments, 0, 0.05, transform=below, color=WARM, linewidth=2, label="keyframe", zorder=4)
    axes.set_ylim(bottom=0)
    axes.set(title="Latency over time", xlabel="s since the first frame", ylabel="ms")
    axes.margins(x=0.01)
    figure.legend(loc="outside lower center", ncols=11, handlelength=1, columnspacing=1.2)
    return as_svg(figure, "latency")


def _stages_of_frames(
    axes: Axes, times: Sequence[float], latencies: Sequence[float], told: Sequence[FrameAnswer | None]
) -> None:
    """Areas, one on another: what is left of the latency, then the stages in their order. Of frames that the node told
    of; where it did not, the areas go on from the frame before to the one after."""
    known = [(time, latency, answer.stages) for time, latency, answer in zip(times, latencies, told) if answer]
    if not known:
        return
    moments, took, stages = zip(*known)
    # The slow network is among them in synchronous mode.
    layers = {name: np.array([found.get(name, 0.0) for found in stages]) for name in (*FRAME_STAGES, "slow")}
    rest = np.maximum(0.0, np.asarray(took) - sum(layers.values()))
    layers = {"transport and waiting": rest} | {name: values for name, values in layers.items() if values.any()}
    axes.stackplot(
        moments,
        list(layers.values()),
        labels=[STAGE_NAMES.get(name, name) for name in layers],
        colors=[STAGE_COLOURS[name] for name in layers],
        linewidth=0,
    )


def where_time_went(stages: dict[str, float], mean_latency: float | None) -> str:
    """One bar: the mean latency of a frame, by what it was spent on; beside it the slow network's share."""
    figure, axes = _figure(11.6, 1.9)
    parts = {name: stages[name] for name in FRAME_STAGES if stages.get(name)}
    beside = stages.get("slow", 0.0)
    if mean_latency is not None:
        rest = mean_latency - sum(parts.values())
        parts = {"transport and waiting": max(0.0, rest), **parts}
    _stacked_bar(axes, 1, parts)
    if beside:
        _stacked_bar(axes, 0, {"slow": beside})
    total = sum(parts.values())
    axes.text(total * 1.01, 1, f"{total:.1f} ms", va="center", color=INK, fontweight="bold")
    axes.set_yticks(
        [1, 0] if beside else [1], ["a frame's way", "keyframes, per frame"] if beside else ["a frame's way"]
    )
    axes.set_ylim(-0.5 if beside else 0.4, 1.6)
    axes.set_xlim(0, max(total, beside) * 1.12)
    axes.set(title="Where each millisecond went (mean)", xlabel="ms")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=9, handlelength=1, columnspacing=1.2)
    return as_svg(figure, "where")


def _stacked_bar(axes: Axes, height: float, parts: dict[str, float]) -> None:
    left = 0.0
    total = sum(parts.values())
    for name, value in parts.items():
        axes.barh(height, value, left=left, height=0.62, color=STAGE_COLOURS[name], label=STAGE_NAMES.get(name, name))
        if value > 0.06 * total:
            dark = name in ("fast", "heads", "slow", "publish")
            axes.text(
                left + value / 2, height, f"{value:.1f}", ha="center", va="center", color="white" if dark else INK
            )
        left += value


def stages_over_time(samples: Sequence[BudgetSample], start_ns: int) -> str:
    """Per second: milliseconds of each stage for one answered frame, the slow network's on top."""
    figure, axes = _figure()
    answered = answered_in(samples)
    used = [(sample, frames) for sample, frames in zip(samples, answered) if frames]
    times = [(sample.stamp_ns - start_ns) * 1e-9 for sample, _ in used]
    base = np.zeros(len(used))
    for name in (*FRAME_STAGES, "slow"):
        runs = [sample.stages.get(name, (0, math.nan)) for sample, _ in used]
        values = np.array([count * mean / frames if count else 0.0 for (count, mean), (_, frames) in zip(runs, used)])
        if values.any():
            hatch = "///" if name == "slow" else None
            axes.bar(
                times,
                values,
                0.8,
                base,
                color=STAGE_COLOURS[name],
                label=STAGE_NAMES.get(name, name),
                hatch=hatch,
                edgecolor="white",
                linewidth=0.3,
            )
            base += values
    axes.set(title="Work for one answered frame, each second", xlabel="s since the first frame", ylabel="ms")
    axes.grid(axis="x", visible=False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", fontsize=8)
    return as_svg(figure, "stages")


def budget_over_time(samples: Sequence[BudgetSample], start_ns: int) -> str | None:
    """Arithmetic of a frame against the slow network on every frame; None where the node has not counted it."""
    known = [s for s in samples if math.isfinite(s.gflops_per_frame) and s.flops_saved < 1]
    if not known:
        return None
    figure, axes = _figure()
    times = [(s.stamp_ns - start_ns) * 1e-9 for s in known]
    reference = float(np.median([s.gflops_per_frame / (1 - s.flops_saved) for s in known]))
    axes.axhline(reference, color=WARM, linewidth=1.6, label=f"slow network on every frame: {reference:.1f}")
    axes.fill_between(times, [s.gflops_per_frame for s in known], color=SECOND, alpha=0.25, step=None)
    axes.plot(times, [s.gflops_per_frame for s in known], color=SECOND, marker="o", markersize=3.5, label="spent")
    axes.set_ylim(0, reference * 1.18)
    axes.set(title="Arithmetic of a frame", xlabel="s since the first frame", ylabel="GFLOPs")
    axes.legend(loc="center right")
    return as_svg(figure, "budget")


def keyframe_age(answers: Sequence[FrameAnswer], samples: Sequence[BudgetSample], start_ns: int) -> str | None:
    """How old the keyframe of each answered frame was; crosses: it had none. None where no frame was answered."""
    if not answers:
        return None
    figure, axes = _figure()
    known = [((a.stamp_ns - start_ns) * 1e-9, a.keyframe_age) for a in answers if a.keyframe_ns is not None]
    alone = [(a.stamp_ns - start_ns) * 1e-9 for a in answers if a.keyframe_ns is None]
    if known:
        times, ages = zip(*known)
        axes.plot(times, ages, color=SECOND, linewidth=0.8, alpha=0.6)
        axes.scatter(times, ages, s=6, color=SECOND, linewidths=0, label="a frame's", zorder=3)
    if alone:
        axes.scatter(alone, [0] * len(alone), s=22, marker="x", color=WARM, label="none", clip_on=False, zorder=4)
    # Before the first frame and after the last one it only makes the picture wide.
    meant = [s for s, frames in zip(samples, answered_in(samples)) if frames]
    if meant:
        period = [(s.stamp_ns - start_ns) * 1e-9 for s in meant], [s.keyframe_period for s in meant]
        axes.step(*period, where="pre", color=MUTED, linewidth=1.2, linestyle=(0, (4, 2)), label="period of the timer")
    axes.set_ylim(bottom=0)
    axes.set(title="Age of the keyframe", xlabel="s since the first frame", ylabel="s")
    axes.legend(**_ABOVE, ncols=3)
    return as_svg(figure, "keyframes")


def usage_over_time(usage: Sequence[Usage], start_ns: int, cores: int) -> str | None:
    """Memory and CPU of the node's process, from its start on."""
    if len(usage) < 2:
        return None
    figure, axes = _figure()
    times = [(u.monotonic_ns - start_ns) * 1e-9 for u in usage]
    axes.plot(times, [u.rss_mb for u in usage], color=ACCENT, linewidth=1.6, label="resident memory")
    axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    axes.annotate("first frame", (0, 0), xytext=(4, 4), textcoords="offset points", color=MUTED, fontsize=8)
    axes.set_ylim(0, 1.25 * max(u.rss_mb for u in usage))
    axes.set(title="Memory and CPU of the node", xlabel="s since the first frame", ylabel="MiB")
    right: Any = axes.twinx()
    right.plot(times, [u.cpu_percent for u in usage], color=WARM, linewidth=0.9, alpha=0.75, label="CPU")
    right.set_ylim(0, cores * 125)
    right.set_ylabel(f"CPU % of {cores} x 100")
    right.grid(visible=False)
    handles = axes.get_legend_handles_labels(), right.get_legend_handles_labels()
    axes.legend(handles[0][0] + handles[1][0], handles[0][1] + handles[1][1], loc="upper left", ncols=2)
    return as_svg(figure, "usage")


def styled() -> Any:
    """Context in which all plots are to be drawn."""
    return matplotlib.rc_context(_STYLE)
