"""report.html: one page that needs nothing else, made of pictures, plots and the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from mila_ros.evaluation import pictures, plots
from mila_ros.evaluation.moments import Moment, nearest
from mila_ros.evaluation.session import Usage
from mila_ros.evaluation.timeline import BudgetSample, FrameAnswer, FrameTime, Latency, stage_shares

TASKS = {"segmentation": "Segmentation", "depth": "Depth", "normals": "Normals"}
_WIDEST = 480  # pixels of a picture in the page; larger ones only make it heavy


@dataclass(frozen=True)
class Evidence:
    """Everything that a report is made of."""

    title: str
    """What was played."""
    summary: Mapping[str, Any]
    frames: Sequence[FrameTime]
    answers: Sequence[FrameAnswer]
    budgets: Sequence[BudgetSample]
    usage: Sequence[Usage]
    moments: Sequence[Moment]
    """A few, spread over the run."""
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    cores: int
    settings: Mapping[str, str]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    notes: Sequence[str] = field(default_factory=list)
    """What a reader must know about the numbers."""


def environment() -> Environment:
    """Finds the templates of pages."""
    return Environment(
        loader=PackageLoader("mila_ros.evaluation", "."),
        autoescape=select_autoescape(["j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(evidence: Evidence) -> str:
    """The page."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=evidence.title,
            tiles=tiles(evidence.summary),
            pictures=strip(evidence),
            plots={name: svg and Markup(svg) for name, svg in _plots(evidence).items()},
            metrics=metric_rows(evidence.summary),
            classes=class_rows(evidence.summary, evidence.classes),
            tables={"Settings": evidence.settings, "Machine": evidence.machine, "Versions": evidence.versions},
            notes=list(evidence.notes),
            frames=evidence.summary["frames"],
        )
    )


def tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The numbers at the top: value, unit, name, and a remark."""
    frames, latency = summary["frames"], summary["latency_ms"]
    found = [
        _tile(
            str(frames["answered"]),
            "",
            "frames answered",
            f"of {frames['published']}; {frames['dropped']} dropped for newer ones",
        )
    ]
    if latency["p50"] is not None:
        found.append(
            _tile(
                f"{latency['p50']:.0f}", "ms", "latency, median", f"p95 {latency['p95']:.0f}, p99 {latency['p99']:.0f}"
            )
        )
    if summary["flops_saved"] is not None:
        found.append(
            _tile(
                f"{100 * summary['flops_saved']:.0f}",
                "%",
                "arithmetic saved",
                "against the slow network on every frame",
            )
        )
    if summary["node_rss_mb"] is not None:
        found.append(
            _tile(
                f"{summary['node_rss_mb']:.0f}",
                "MiB",
                "memory of the node",
                f"{summary['node_rss_start_mb']:.0f} at the start, {summary['node_rss_end_mb']:.0f} at the end",
            )
        )
    if "segmentation" in summary:
        accuracy = summary["segmentation"]["pixel_accuracy"]
        found.append(
            _tile(
                f"{100 * summary['segmentation']['miou']:.1f}", "%", "mIoU", f"{100 * accuracy:.0f} % of pixels right"
            )
        )
    if "depth" in summary:
        depth = summary["depth"]
        found.append(
            _tile(f"{depth['rmse']:.2f}", "m", "depth RMSE", f"{100 * depth['delta1']:.0f} % within a factor of 1.25")
        )
    if "normals" in summary:
        normals = summary["normals"]
        found.append(
            _tile(f"{normals['mean_deg']:.0f}", "°", "normals, mean error", f"median {normals['median_deg']:.0f}°")
        )
    return found


def _tile(value: str, unit: str, name: str, remark: str) -> dict[str, str]:
    return {"value": value, "unit": unit, "name": name, "remark": remark}


# task, key, words, unit, factor, digits, and which way is better.
METRICS = (
    ("segmentation", "miou", "mean intersection over union", "%", 100.0, 1, "up"),
    ("segmentation", "pixel_accuracy", "pixels with the right class", "%", 100.0, 1, "up"),
    ("depth", "rmse", "root mean square error", "m", 1.0, 3, "down"),
    ("depth", "abs_rel", "mean error relative to the distance", "%", 100.0, 1, "down"),
    ("depth", "delta1", "pixels within a factor of 1.25", "%", 100.0, 1, "up"),
    ("depth", "delta1_scaled", "... once each picture's median is right", "%", 100.0, 1, "up"),
    ("normals", "mean_deg", "mean angle", "°", 1.0, 1, "down"),
    ("normals", "median_deg", "median angle", "°", 1.0, 1, "down"),
    ("normals", "within_11_25", "pixels within 11.25°", "%", 100.0, 1, "up"),
    ("normals", "within_30", "pixels within 30°", "%", 100.0, 1, "up"),
)


def metric_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table of metrics; empty without ground truth."""
    rows = []
    for task, key, text, unit, factor, digits, better in METRICS:
        value = summary.get(task, {}).get(key)
        if value is not None:
            rows.append(
                {
                    "task": TASKS[task],
                    "key": f"{task}.{key}",
                    "text": text,
                    "value": f"{value * factor:.{digits}f} {unit}".replace(" °", "°"),
                    "better": "higher is better" if better == "up" else "lower is better",
                    "frames": str(summary["judged_frames"][task]),
                }
            )
    return rows


def class_rows(summary: Mapping[str, Any], classes: Sequence[str]) -> list[tuple[str, float]]:
    """(class, IoU) of the classes that occur in the ground truth, best first."""
    values = summary.get("segmentation", {}).get("iou") or []
    return sorted(((name, iou) for name, iou in zip(classes, values) if iou is not None), key=lambda row: -row[1])


def strip(evidence: Evidence) -> dict[str, Any]:
    """Pictures of the moments, as the template wants them: rows of data URIs, legends."""
    table = pictures.class_colours(evidence.palette, len(evidence.classes))
    chosen = [_bounded(moment) for moment in evidence.moments]
    depths = [m.answers["depth"] for m in chosen if "depth" in m.answers]
    farthest = pictures.depth_range(depths + [m.truth["depth"] for m in chosen if "depth" in m.truth])
    rows = [
        {"name": "Camera", "task": "camera", "truth": False, "pictures": [pictures.data_uri(m.rgb) for m in chosen]}
    ]
    for task, name in TASKS.items():
        for truth in (False, True):
            arrays = [(m.truth if truth else m.answers).get(task) for m in chosen]
            if any(array is not None for array in arrays):
                drawn = [
                    None if a is None else pictures.task_picture(task, a, m.rgb, table, farthest)
                    for a, m in zip(arrays, chosen)
                ]
                images = [None if picture is None else pictures.data_uri(picture) for picture in drawn]
                rows.append({"name": name, "task": task, "truth": truth, "pictures": images})
    labels = [m.answers["segmentation"] for m in chosen if "segmentation" in m.answers]
    labels += [m.truth["segmentation"] for m in chosen if "segmentation" in m.truth]
    start = evidence.frames[0].stamp_ns
    return {
        "rows": rows,
        "times": [f"{max(0.0, (m.stamp_ns - start) * 1e-9):.1f} s" for m in chosen],
        "legend": pictures.legend(labels, evidence.classes, table),
        "gradient": pictures.depth_gradient(),
        "ticks": [f"{value:.1f}" for value in np.linspace(0, farthest, 5)],
    }


def _bounded(moment: Moment) -> Moment:
    """The moment with its camera picture as large as the outputs, and none wider than the page needs."""
    size = next(iter(moment.answers.values())).shape[:2]
    factor = min(1.0, _WIDEST / size[1])
    size = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    return Moment(
        moment.stamp_ns,
        pictures.fitted(moment.rgb, size),
        {task: nearest(pixels, size) for task, pixels in moment.answers.items()},
        {task: nearest(pixels, size) for task, pixels in moment.truth.items()},
    )


def _plots(evidence: Evidence) -> dict[str, str | None]:
    frames, budgets = evidence.frames, evidence.budgets
    latency = Latency.of(frames)
    wall, monotonic = frames[0].stamp_ns, frames[0].published_ns
    stages = stage_shares(budgets)
    with plots.styled():
        return {
            "latency": plots.latency_over_time(frames, evidence.answers),
            "histogram": plots.latency_histogram(frames, latency) if latency.p50 is not None else None,
            "where": plots.where_time_went(stages, latency.mean) if stages else None,
            "stages": plots.stages_over_time(budgets, wall) if stages else None,
            "budget": plots.budget_over_time(budgets, wall),
            "keyframes": plots.keyframe_age(evidence.answers, budgets, wall),
            "usage": plots.usage_over_time(evidence.usage, monotonic, evidence.cores),
        }
