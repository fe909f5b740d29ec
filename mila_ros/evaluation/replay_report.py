"""report.html of a replay: one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mila_ros.evaluation import pictures, plots, replay_plots
from mila_ros.evaluation.every_frame import EveryFrame, Shown, error_maps
from mila_ros.evaluation.moments import nearest
from mila_ros.evaluation.report import METRICS, TASKS, environment

_WIDEST = 400  # pixels of a picture in the page


def render(found: Mapping[str, Any], every: EveryFrame | None, classes: Sequence[str], table: pictures.Rgb) -> str:
    """The page of a metrics.json. every: for its pictures."""
    methods = found.get("every_frame", {}).get("methods", {})
    runs = found.get("real_time", {}).get("methods", {})
    return (
        environment()
        .get_template("replay_report.html.j2")
        .render(
            title=_title(found),
            tiles=tiles(methods, runs),
            methods=list(methods),
            rows=rows(methods),
            runs=runs,
            run_rows=rows(runs),
            agreement={name: agreement_text(m["agreement"]) for name, m in methods.items() if m.get("agreement")},
            consistency={
                name: consistency_text(m["consistency"]) for name, m in methods.items() if m.get("consistency")
            },
            costs=[(name, m["gflops"], m["flops_saved"]) for name, m in methods.items()],
            groups=_groups(every, classes, table) if every is not None else [],
            gradient=pictures.depth_gradient(),
            classes=class_rows(methods, classes),
            plots={name: svg and Markup(svg) for name, svg in _plots(found, methods, runs).items()},
            tables=_tables(found),
            live=found.get("live"),
            notes=_notes(found),
        )
    )


def _title(found: Mapping[str, Any]) -> str:
    bag = found["bag"]
    seen = found.get("every_frame", {}).get("frames", bag["frames"])
    frames = f"{bag['frames']} frames" if seen >= bag["frames"] else f"the first {seen} of {bag['frames']} frames"
    return f"{bag['name']}: {frames}, {bag['seconds']:.1f} s, through model {found['model']['name']}"


def tiles(methods: Mapping[str, Any], runs: Mapping[str, Any]) -> list[dict[str, str]]:
    """The numbers at the top, of the first MILA method."""
    found: list[dict[str, str]] = []

    def tile(value: str, unit: str, name: str, remark: str) -> None:
        found.append({"value": value, "unit": unit, "name": name, "remark": remark})

    name = next((m for m in methods if m != "slow"), None)
    if name is not None:
        method, slow = methods[name], methods["slow"]
        tile(f"{100 * method['flops_saved']:.0f}", "%", "arithmetic saved", f"{name} against slow on every frame")
        for task, key, text, unit, factor, digits, _ in METRICS:
            if (task, key) in (("segmentation", "miou"), ("depth", "rmse"), ("normals", "mean_deg")):
                value = method["metrics"].get(task, {}).get(key)
                if value is not None:
                    other = f"{slow['metrics'][task][key] * factor:.{digits}f} {unit} slow on every frame"
                    tile(f"{value * factor:.{digits}f}", unit, f"{TASKS[task]}", f"{text}; {other}")
    for name, run in runs.items():
        if run["age_ms"].get("p50") is not None:
            frames = run["frames"]
            tile(
                f"{run['age_ms']['p50']:.0f}",
                "ms",
                f"old answers, {name}",
                f"real time: {frames['answered']} of {frames['arrived']} answered",
            )
    return found


def rows(methods: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a metric, a cell a method: value, its interval, and the change against "slow"."""
    found = []
    for task, key, text, unit, factor, digits, better in METRICS:
        cells = []
        for name, method in methods.items():
            value = method["metrics"].get(task, {}).get(key)
            if value is None:
                cells.append(None)
                continue
            interval = method["intervals"].get(task, {}).get(key)
            base = methods.get("slow", {}).get("metrics", {}).get(task, {}).get(key)
            cells.append(
                {
                    "value": f"{value * factor:.{digits}f} {unit}".replace(" °", "°"),
                    "interval": interval and f"{interval[0] * factor:.{digits}f} to {interval[1] * factor:.{digits}f}",
                    "change": None if name == "slow" or not base else f"{100 * (value / base - 1):+.1f} %",
                }
            )
        if any(cells):
            better_text = "higher is better" if better == "up" else "lower is better"
            found.append({"task": TASKS[task], "text": text, "cells": cells, "better": better_text})
    return found


def class_rows(methods: Mapping[str, Any], classes: Sequence[str]) -> list[tuple[str, list[float]]]:
    """(class, IoU a method) of the classes that occur in the ground truth, best first."""
    values = [m["metrics"].get("segmentation", {}).get("iou") for m in methods.values()]
    if not values or any(v is None for v in values):
        return []
    per_class = zip(classes, *values, strict=False)
    known = [(name, list(ious)) for name, *ious in per_class if all(iou is not None for iou in ious)]
    return sorted(known, key=lambda row: -row[1][-1])


def agreement_text(values: Mapping[str, Any]) -> str:
    """How far from the slow network, for the tasks that there are."""
    said = []
    if "segmentation" in values:
        said.append(f"{100 * values['segmentation']['pixel_accuracy']:.1f} % of pixels")
    if "depth" in values:
        said.append(f"depth {100 * values['depth']['abs_rel']:.1f} % apart")
    if "normals" in values:
        said.append(f"normals {values['normals']['mean_deg']:.1f}° apart")
    return "; ".join(said)


def consistency_text(values: Mapping[str, Any]) -> str:
    """How much changes along the motion, for the tasks that there are."""
    said = []
    if "segmentation_agreement" in values:
        said.append(f"{100 * values['segmentation_agreement']:.1f} % of pixels")
    if "depth_change" in values:
        said.append(f"depth {100 * values['depth_change']:.1f} %")
    if "normals_deg" in values:
        said.append(f"normals {values['normals_deg']:.1f}°")
    return "; ".join(said)


def _groups(every: EveryFrame, classes: Sequence[str], table: pictures.Rgb) -> list[dict[str, Any]]:
    """Strips of pictures: some spread over the recording, and the worst."""
    shown = [*every.evenly, *every.worst]
    depths = [s.answers["depth"] for s in shown if "depth" in s.answers]
    farthest = pictures.depth_range(depths + [s.truth["depth"] for s in shown if "depth" in s.truth])
    titles = (("Spread over the recording", every.evenly), ("Worst frames", every.worst))
    groups = []
    for title, frames in titles:
        if frames:
            columns = [_column(each, table, farthest, every.first_ns) for each in frames]
            names = [name for name in _ROWS if any(name in column["pictures"] for column in columns)]
            groups.append(
                {
                    "title": title,
                    "heads": [column["head"] for column in columns],
                    "rows": [(name, [column["pictures"].get(name) for column in columns]) for name in names],
                    "legend": pictures.legend(
                        [s.answers["segmentation"] for s in frames if "segmentation" in s.answers], classes, table
                    ),
                    "farthest": farthest if depths else None,
                }
            )
    return groups


_ROWS = ("Camera", *(f"{name}{kind}" for name in TASKS.values() for kind in ("", ", ground truth", ", error")))


def _column(shown: Shown, table: pictures.Rgb, farthest: float, start_ns: int) -> dict[str, Any]:
    size = next(iter(shown.answers.values())).shape[:2]
    factor = min(1.0, _WIDEST / size[1])
    size = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    rgb = pictures.fitted(shown.rgb, size)
    answers = {task: nearest(values, size) for task, values in shown.answers.items()}
    truth = {task: nearest(values, size) for task, values in shown.truth.items()}
    found = {"Camera": pictures.data_uri(rgb)}
    errors = error_maps(answers, truth)
    for task, name in TASKS.items():
        if task in answers:
            found[name] = pictures.data_uri(pictures.task_picture(task, answers[task], rgb, table, farthest))
        if task in truth:
            found[f"{name}, ground truth"] = pictures.data_uri(
                pictures.task_picture(task, truth[task], rgb, table, farthest)
            )
        if task in errors:
            found[f"{name}, error"] = pictures.data_uri(pictures.error_picture(errors[task]))
    age = "keyframe" if shown.distance == 0 else f"{shown.distance} after the keyframe"
    return {"head": f"{(shown.stamp_ns - start_ns) * 1e-9:.1f} s, {age}", "pictures": found}


def _plots(found: Mapping[str, Any], methods: Mapping[str, Any], runs: Mapping[str, Any]) -> dict[str, str | None]:
    drawn: dict[str, str | None] = dict.fromkeys(("distance", "time", "ranges", "calibration", "stages", "ages"))
    with plots.styled():
        if methods:
            stamps = methods["slow"]["over_time"].get("stamp_ns", [0])
            drawn["distance"] = replay_plots.by_distance(methods)
            drawn["time"] = replay_plots.over_time(methods, stamps[0])
            drawn["ranges"] = replay_plots.by_depth_range(methods)
            drawn["calibration"] = replay_plots.calibration(methods)
            drawn["stages"] = replay_plots.stage_times(found["every_frame"]["milliseconds"])
        if runs:
            drawn["ages"] = replay_plots.answer_ages(runs)
    return drawn


def _tables(found: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    bag, key, settings = found["bag"], found["key"], found["settings"]
    chosen = {
        "model": f"{found['model']['name']}, SHA-256 {key['model'][:12]}",
        "recording": f"{bag['name']}, SHA-256 {key['bag'][:12]}",
        "pictures": f"{bag['width']}x{bag['height']}",
        **bag["topics"],
        "device": f"{found['device']}, {found['precision']}, {found['backend']}",
        "keyframes": f"each {', '.join(map(str, settings['intervals']))} frames; in real time each "
        f"{settings['period']:g} s",
    }
    if "every_frame" in found:
        output = found["every_frame"]["output"]
        chosen["answers"] = f"{output['width']}x{output['height']}"
    return {"Settings": chosen, "Machine": found["machine"], "Versions": found["versions"]}


def _notes(found: Mapping[str, Any]) -> list[str]:
    bag, notes = found["bag"], list(found.get("notes", []))
    if bag.get("truncated"):
        notes.append(f"The recording is damaged: {bag['truncated']}. What could be read was used.")
    if bag.get("damaged_frames"):
        notes.append(f"{bag['damaged_frames']} frames could not be decoded and were left out.")
    for kind, count in bag.get("without_partner", {}).items():
        if count:
            notes.append(f"{count} frames have no {kind} of the same stamp; they are not judged for it.")
    if "every_frame" in found:
        judged = found["every_frame"]["methods"]["slow"]["judged_frames"]
        if judged:
            counts = ", ".join(f"{TASKS[task].lower()} {count}" for task, count in judged.items())
            notes.append(f"Frames judged: {counts}. Answers and ground truth are compared at the size of the answers.")
        elif not {"depth", "labels", "normals"} & bag["topics"].keys():
            notes.append("The recording has no ground truth: only agreement, consistency and time are reported.")
        if "normals" in judged and "normals" not in bag["topics"]:
            notes.append("Normals are judged against planes fitted to depth (21 pixels), which are noisy themselves.")
    if found.get("interrupted"):
        notes.append("The evaluation was interrupted: the numbers are those of what was replayed until then.")
    return notes
