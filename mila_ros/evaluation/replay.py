"""One recording evaluated: what `mila evaluate` does with each, and what it leaves in the recording's folder.

metrics.json   everything that was measured (layout: docs/evaluation.md)
sums.npz       what the totals over several recordings are made of
report.html    the same for people
predictions/   the answers, as a recording
live/          what `mila demo` leaves, where the recording was also played through the node
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mila_ros.errors import UserError
from mila_ros.evaluation import machine
from mila_ros.evaluation.demo import main as demo
from mila_ros.evaluation.every_frame import EveryFrame, EveryFramePass
from mila_ros.evaluation.ground_truth import GroundTruth, read_label_map
from mila_ros.evaluation.pictures import class_colours
from mila_ros.evaluation.predictions import Predictions
from mila_ros.evaluation.real_time import RealTimeRun
from mila_ros.evaluation.registration_check import check_recording
from mila_ros.evaluation.replay_report import render
from mila_ros.evaluation.results import prepare
from mila_ros.models.checkpoint import load_model, resolve
from mila_ros.models.flops import Flops
from mila_ros.runtime.engine import Engine
from mila_ros.worlds.bags import Bag, Pinhole

SCHEMA = "mila_ros/evaluation/2"
WAYS = ("every-frame", "real-time", "live")
USUAL_WAYS = ("every-frame", "real-time")
REAL_TIME_SECONDS = 60.0
OURS = ("metrics.json", "sums.npz", "report.html", "predictions", "live")


@dataclass(frozen=True)
class ReplaySettings:
    """What to evaluate and how. All values are plain, so that another process can be told."""

    model: str = "indoor"
    ways: tuple[str, ...] = USUAL_WAYS
    intervals: tuple[int, ...] = (10,)
    """Frames from keyframe to keyframe, every frame."""
    period: float = 0.333
    """Seconds from keyframe to keyframe, in real time."""
    device: str = "auto"
    precision: str = "auto"
    backend: str = "auto"
    output_scale: float = 0.5
    """Size of the answers, which is that of the judging, as a share of the picture's; the node's default."""
    max_pixels: int = 307_200
    """Larger pictures count as shrunk to this many pixels; the node's default."""
    seconds: float | None = None
    """Of the recording, from its start; None: all of it, in real time the first REAL_TIME_SECONDS."""
    label_map: str | None = None
    topics: dict[str, str] = field(default_factory=dict)
    """By kind (color, depth, labels, normals, camera_info), where those found by themselves are not meant."""
    fov_deg: float | None = None
    camera: Pinhole | None = None
    """Of the colour pictures as recorded, in place of camera_info."""
    depth_camera: Pinhole | None = None
    """Of the depth pictures: they are registered by both."""
    tolerance_s: float = 0.01
    predictions: bool = True


def evaluate_bag(path: Path, out: Path, settings: ReplaySettings, key: dict[str, str] | None = None) -> dict[str, Any]:
    """Evaluate one recording; returns what is in metrics.json.

    What a former evaluation has left in `out` is removed once this one can begin. Ctrl-C ends it early, with a report
    on what was replayed until then.

    Args:
        path: of the recording.
        out: folder for the results.
        settings: what to do.
        key: `run_key` of these, where it is known.

    Raises:
        UserError: the recording, the model or the label map cannot be used.
    """
    key = run_key(path, settings) if key is None else key
    model = load_model(settings.model)
    config = model.config
    label_map = None if settings.label_map is None else read_label_map(Path(settings.label_map), config.classes)
    engine = Engine(
        model,
        settings.device,
        settings.precision,
        settings.output_scale,
        settings.max_pixels,
        backend=settings.backend,
        say=lambda sentence: print(sentence, file=sys.stderr),
    )

    def truth() -> GroundTruth:
        return GroundTruth(config.tasks, config.classes, label_map)

    def open_bag() -> Bag:
        return Bag(
            path,
            fov_deg=settings.fov_deg,
            camera=settings.camera,
            depth_camera=settings.depth_camera,
            tolerance_s=settings.tolerance_s,
            **settings.topics,
        )

    with open_bag() as bag:
        first = next(bag.frames(), None)
        if first is None:
            raise UserError(f"{path}: no picture of {bag.color_topic} can be read")
        height, width = first.rgb.shape[:2]
        try:
            with engine.fast_thread():
                engine.warm_up(height, width)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        flops = engine.flops(engine.seen_size(height, width), config.tasks)
        found: dict[str, Any] = {
            "schema": SCHEMA,
            "key": key,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "bag": _described(bag, path, (height, width), settings.depth_camera is not None),
            "model": {
                "name": resolve(settings.model).stem,
                "tasks": list(config.tasks),
                "classes": list(config.classes),
                "sha256": key["model"],
            },
            "device": str(engine.device),
            "precision": engine.precision,
            "backend": engine.backend,
            "settings": asdict(settings),
            "machine": machine.hardware(),
            "versions": machine.versions(),
            "notes": _registration_notes(bag, settings.depth_camera is not None),
            "interrupted": True,
        }
    with open_bag() as bag:
        moved = check_recording(bag)
    if moved:
        found["notes"].append(moved)
    prepare(out, OURS)
    table = class_colours(config.palette, len(config.classes))
    every: EveryFrame | None = None
    if "every-frame" in settings.ways:
        with open_bag() as bag:
            every = _every_frame(bag, engine, settings, truth(), out, found, table)
        found["every_frame"] = _every_frame_values(every, flops)
        sums = {f"{method}|{name}": v for method, parts in every.sums.items() for name, v in parts.items()}
        np.savez_compressed(out / "sums.npz", **sums)  # type: ignore[arg-type]
        if len(settings.ways) > 1:  # also now: whatever happens to what follows, this much is there
            _write(out, found, every, config.classes, table)
    interrupted = every is not None and every.interrupted
    if "real-time" in settings.ways and not interrupted:
        found["real_time"] = {"methods": {}}
        seconds = settings.seconds or REAL_TIME_SECONDS
        for name, period in (("slow", None), ("mila", settings.period)):
            run = RealTimeRun(engine, period, truth(), seconds, (height, width)).play(open_bag, f"real time, {name}")
            found["real_time"]["methods"][name] = run.to_dict()
            _note_strange(found, run.strange_labels)
            interrupted |= run.interrupted
            if interrupted:
                break
    if "live" in settings.ways and not interrupted:
        found["live"] = _live(path, out / "live", settings)
    found["interrupted"] = interrupted
    _write(out, found, every, config.classes, table)
    return found


def _live(path: Path, out: Path, settings: ReplaySettings) -> dict[str, Any]:
    """Play the recording through the node, over DDS; the summary of that."""
    arguments = ["--bag", str(path), "--model", settings.model, "--out", str(out)]
    parameters = {
        "device": settings.device,
        "precision": settings.precision,
        "backend": settings.backend,
        "keyframe.period": f"{settings.period:f}",
        "output_scale": f"{settings.output_scale:f}",
        "max_pixels": str(settings.max_pixels),
    }
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    if settings.fov_deg is not None:
        arguments += ["--fov", str(settings.fov_deg)]
    if settings.seconds is not None:
        arguments += ["--seconds", str(settings.seconds)]
    demo(arguments)
    found: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found


def run_key(path: Path, settings: ReplaySettings) -> dict[str, str]:
    """What the numbers depend on: checksums of recording and model, and the settings. Equal keys, equal numbers.

    Raises:
        UserError: there is no such recording or model.
    """
    values = json.dumps(asdict(settings) | {"model": None}, sort_keys=True)
    if settings.label_map is not None:
        values += checksum(Path(settings.label_map))
    return {
        "bag": checksum(path),
        "model": checksum(resolve(settings.model)),
        "settings": hashlib.sha256(values.encode()).hexdigest(),
    }


def checksum(path: Path) -> str:
    """SHA-256 of a file, or of a recording's files in the order of their names.

    Raises:
        UserError: there is nothing.
    """
    files = [path] if path.is_file() else sorted(f for f in path.glob("*") if f.is_file())
    if not files:
        raise UserError(f"{path} holds no files" if path.is_dir() else f"there is nothing at {path}")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _described(bag: Bag, path: Path, size: tuple[int, int], stated: bool) -> dict[str, Any]:
    """stated: whoever evaluates has said what the depth camera is."""
    kinds = {"color": bag.color_topic, "camera_info": bag.camera_info_topic, "depth": bag.depth_topic}
    kinds |= {"labels": bag.labels_topic, "normals": bag.normals_topic}
    return {
        "name": path.name,
        "seconds": bag.duration,
        "frames": bag.color_count,
        "width": size[1],
        "height": size[0],
        "topics": {kind: topic for kind, topic in kinds.items() if topic},
        "depth_registered_here": _registered_by(bag, stated) is not None,
        "truncated": bag.truncated,
    }


def _registered_by(bag: Bag, stated: bool) -> str | None:
    """What depth of another camera was put into the picture by, in words; None: it was not."""
    if bag.depth_topic is None or not (stated or bag.registration):
        return None
    camera = "the depth camera that was stated" if stated else "camera_info"
    return f"{camera} and /tf_static" if bag.registration else camera


def _registration_notes(bag: Bag, stated: bool) -> list[str]:
    if bag.registration_problem:
        return [bag.registration_problem]
    by = _registered_by(bag, stated)
    if by is None:
        return []
    return [
        f"{bag.depth_topic} is another camera's: its readings were put where the colour camera would have seen them, "
        f"by {by}"
    ]


def _note_strange(found: dict[str, Any], labels: set[int]) -> None:
    if labels:
        mapped = found["settings"]["label_map"] is not None
        why = "not in the label map" if mapped else "no classes of the model (name what they mean with --label-map)"
        text = f"labels {sorted(labels)} are {why}: frames that have them are not judged for segmentation"
        if text not in found["notes"]:
            found["notes"].append(text)


def _every_frame(
    bag: Bag, engine: Engine, settings: ReplaySettings, truth: GroundTruth, out: Path, found: dict[str, Any], table: Any
) -> EveryFrame:
    predictions = None
    if settings.predictions:
        predictions = Predictions(out / "predictions", bag, table, settings.seconds)
    try:
        add = predictions.add if predictions else None
        run = EveryFramePass(engine, settings.intervals, truth, bag.color_count, add)
        every = run.run(bag, settings.seconds)
    finally:
        if predictions:
            predictions.close()
    found["bag"] |= {
        "damaged_frames": bag.bad_frames,
        "without_partner": {
            kind: every.frames - count for kind, count in every.with_truth.items() if kind in found["bag"]["topics"]
        },
        "truncated": bag.truncated,
    }
    if predictions and predictions.problem:
        found["notes"].append(predictions.problem)
    if every.ended_early:
        found["notes"].append(f"The replay ended before the recording does: {every.ended_early}")
    _note_strange(found, every.strange_labels)
    for name, method in every.methods.items():
        interval, ages = int(name.partition("/")[2] or 1), {int(age) for age in method.get("by_distance", {})}
        if ages - {0} and ages < set(range(min(interval, every.frames))):
            found["notes"].append(
                f"ground truth is so sparse that {name} was judged only {', '.join(map(str, sorted(ages)))} frames "
                f"after its keyframe, not at every age up to {interval - 1}: its numbers stand for those"
            )
        if ages == {0} and name != "mila/1":
            found["notes"].append(
                f"all judged frames of {name} are keyframes: its numbers say nothing about the frames between; "
                "choose an interval that does not fit the spacing of the ground truth"
            )
    return every


def _every_frame_values(every: EveryFrame, flops: Flops) -> dict[str, Any]:
    methods = {}
    for name, values in every.methods.items():
        interval = int(name.partition("/")[2] or 0)
        cost = flops.amortised(interval) if interval else flops.slow_frame
        methods[name] = values | {"gflops": cost / 1e9, "flops_saved": 1 - cost / flops.slow_frame}
    return {
        "frames": every.frames,
        "output": {"width": every.size[1], "height": every.size[0]},
        "seconds": every.seconds,
        "network_share": every.network_share,
        "milliseconds": every.milliseconds,
        "methods": methods,
    }


def _write(out: Path, found: dict[str, Any], every: EveryFrame | None, classes: tuple[str, ...], table: Any) -> None:
    """metrics.json first: a page that cannot be drawn must not lose the numbers."""
    partial = out / "metrics.json.partial"
    partial.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(out / "metrics.json")
    (out / "report.html").write_text(render(found, every, classes, table), encoding="utf-8")


def read_sums(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """sums.npz, by method."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as file:
        for name in file.files:
            method, _, part = name.partition("|")
            found.setdefault(method, {})[part] = file[name]
    return found


def finished(out: Path, key: Mapping[str, str]) -> dict[str, Any] | None:
    """The results in a folder if they are complete and of this key."""
    try:
        found: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = found.get("schema") == SCHEMA and found.get("key") == dict(key)
    return found if same and not found.get("interrupted") else None
