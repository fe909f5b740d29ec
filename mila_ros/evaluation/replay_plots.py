"""Plots of a replay: metrics by age of the keyframe, over time, by distance of what is seen; where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mila_ros.evaluation.plots import ACCENT, INK, MUTED, SECOND, STAGE_COLOURS, STAGE_NAMES, WARM, as_svg, new_figure

# task, metric, title, factor: what each task is shown by.
MAIN = (
    ("segmentation", "miou", "mIoU, %", 100.0),
    ("depth", "rmse", "depth RMSE, m", 1.0),
    ("depth", "delta1", "depth within 1.25, %", 100.0),
    ("normals", "mean_deg", "normals, mean error °", 1.0),
)
_COLOURS = (ACCENT, SECOND, "#b07aa1", "#e98a4c")


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _value(metrics: Mapping[str, Any], task: str, name: str, factor: float) -> float:
    value = metrics.get(task, {}).get(name)
    return float("nan") if value is None else value * factor


def by_distance(methods: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A panel a metric: MILA by frames since the keyframe, against the slow network (line) on all frames."""
    shown = {name: m["by_distance"] for name, m in methods.items() if len(m.get("by_distance", {})) > 1}
    judged = methods["slow"]["metrics"]
    main = [entry for entry in MAIN if entry[0] in judged]
    if not shown or not main:
        return None
    fig, panels = new_figure(11.6, 2.9, len(main))
    for axes, (task, metric, title, factor) in zip(panels, main, strict=True):
        axes.axhline(_value(judged, task, metric, factor), color=WARM, linewidth=1.4, label="slow on every frame")
        for index, (name, distances) in enumerate(shown.items()):
            ages = sorted(int(age) for age in distances)
            values = [_value(distances[str(age)], task, metric, factor) for age in ages]
            axes.plot(ages, values, color=_colour(index), marker="o", markersize=3.5, label=name)
        axes.set(title=title, xlabel="frames since the keyframe")
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=6)
    return as_svg(fig, "distance")


def over_time(methods: Mapping[str, Mapping[str, Any]], first_ns: int) -> str | None:
    """Each task's main metric in the recording's course."""
    judged = methods["slow"]["metrics"]
    main = [entry for entry in (MAIN[0], MAIN[1], MAIN[3]) if entry[0] in judged]
    if not main:
        return None
    fig, panels = new_figure(11.6, 1.0 + 1.5 * len(main), len(main), stacked=True)
    for axes, (task, metric, title, factor) in zip(panels, main, strict=True):
        for index, (name, method) in enumerate(methods.items()):
            series = method["over_time"]
            times = [(stamp - first_ns) * 1e-9 for stamp in series["stamp_ns"]]
            values = [np.nan if v is None else v * factor for v in series[f"{task}.{metric}"]]
            axes.plot(times, values, color=WARM if name == "slow" else _colour(index - 1), linewidth=1.2, label=name)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(title)
        axes.margins(x=0.01)
    panels[0].set_title("Over time")
    panels[-1].set_xlabel("s since the first frame")
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=6)
    return as_svg(fig, "time")


def by_depth_range(methods: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Relative error of depth by how far away things really are."""
    shown = {name: m["by_depth_range"] for name, m in methods.items() if "by_depth_range" in m}
    if not shown:
        return None
    fig, panels = new_figure(5.6, 2.9)
    axes: Axes = panels[0]
    ranges = [name for name, values in next(iter(shown.values())).items() if values["abs_rel"] is not None]
    width = 0.8 / len(shown)
    for index, (name, values) in enumerate(shown.items()):
        at = np.arange(len(ranges)) + (index - (len(shown) - 1) / 2) * width
        heights = [100 * values[part]["abs_rel"] for part in ranges]
        axes.bar(at, heights, width * 0.92, color=WARM if name == "slow" else _colour(index - 1), label=name)
    first = next(iter(shown.values()))
    axes.set_xticks(range(len(ranges)), [f"{part}\n{100 * first[part]['share']:.0f} % of pixels" for part in ranges])
    axes.set(title="Depth error by distance", ylabel="mean relative error, %")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right")
    return as_svg(fig, "ranges")


def calibration(methods: Mapping[str, Mapping[str, Any]]) -> str | None:
    """How often answers of each confidence are right; on the dotted line, as often as they say."""
    shown = {name: m["calibration"] for name, m in methods.items() if m.get("calibration")}
    if not shown:
        return None
    fig, panels = new_figure(5.6, 2.9)
    axes: Axes = panels[0]
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1.0, linestyle=":")
    for index, (name, found) in enumerate(shown.items()):
        sure, right = (100 * np.array(found[key]) for key in ("confidence", "accuracy"))
        colour = WARM if name == "slow" else _colour(index - 1)
        axes.plot(sure, right, color=colour, marker="o", markersize=3, label=f"{name}, ECE {100 * found['ece']:.1f} %")
    axes.set(title="Confidence of classes", xlabel="confidence, %", ylabel="pixels that are right, %")
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.legend(loc="upper left")
    return as_svg(fig, "calibration")


def stage_times(milliseconds: Mapping[str, float]) -> str | None:
    """Mean time of one run of each stage; None where nothing ran."""
    if not milliseconds:
        return None
    fig, panels = new_figure(5.6, 2.9)
    axes: Axes = panels[0]
    names = [name for name in STAGE_COLOURS if name in milliseconds][::-1]
    values = [milliseconds[name] for name in names]
    axes.barh(range(len(names)), values, color=[STAGE_COLOURS[name] for name in names], height=0.66)
    for row, value in enumerate(values):
        axes.text(value, row, f" {value:.1f}", va="center", color=INK, fontsize=8.5)
    axes.set_yticks(range(len(names)), [STAGE_NAMES.get(name, name) for name in names])
    axes.set(title="One run of each stage", xlabel="ms")
    axes.set_xlim(0, max(values) * 1.15)
    axes.grid(axis="y", visible=False)
    return as_svg(fig, "stages")


def answer_ages(runs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """How old the newest answer was when a frame arrived: median to 95th percentile."""
    known = {name: run["age_ms"] for name, run in runs.items() if run["age_ms"].get("p50") is not None}
    if not known:
        return None
    fig, panels = new_figure(5.6, 1.9)
    axes: Axes = panels[0]
    for row, (name, age) in enumerate(known.items()):
        axes.barh(row, age["p50"], color=WARM if name == "slow" else ACCENT, height=0.55)
        axes.hlines(row, age["p50"], age["p95"], color=MUTED, linewidth=1.6)
        axes.text(age["p95"], row, f"  {age['p50']:.0f} ms, p95 {age['p95']:.0f}", va="center", fontsize=8.5)
    axes.set_yticks(range(len(known)), list(known))
    axes.set_xlim(0, 1.5 * max(age["p95"] for age in known.values()))
    axes.set(title="Age of the newest answer", xlabel="ms when a frame arrives")
    axes.grid(axis="y", visible=False)
    return as_svg(fig, "ages")
