"""`mila demo`: plays a clip through the node over DDS and leaves a report, a summary and a recording."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mila_ros.errors import UserError
from mila_ros.evaluation import machine, report, summary
from mila_ros.evaluation.inputs import DEFAULT_FOV, DemoInput, bag_input, camera_input, default_clip, video_input
from mila_ros.evaluation.judging import Judged, judge_run
from mila_ros.evaluation.processes import orderly_end
from mila_ros.evaluation.results import prepare
from mila_ros.evaluation.session import CAMERA, NODE, Session, run_session
from mila_ros.evaluation.timeline import BudgetSample, FrameTime, join, read_answers, read_budgets, read_failure
from mila_ros.models.checkpoint import read_header, resolve
from mila_ros.models.config import ModelConfig
from mila_ros.ros.arguments import check_parameters
from mila_ros.worlds.bag_storage import open_storage

MODEL = "indoor"
CAMERA_SECONDS = 10.0
# Frames whose pictures are recorded during the run, 1.3 MB each at 640x480; of longer ones only each n-th is.
RECORDED_FRAMES = 450
# What a former run may have left; nothing else in the folder is touched.
_OURS = ("report.html", "summary.json", "recording", "outputs", "logs")


def main(argv: Sequence[str]) -> int:
    """Play, measure, report.

    Raises:
        UserError: nothing was started, because the input or the model cannot be used; one of the programs failed;
            or the recording is cut off (then the report on what could be read is there).
    """
    options = _parser().parse_args(argv)
    check_parameters(options.param)
    model = resolve(options.model)
    config, _ = read_header(model)
    given = _given(options)
    if options.seconds is not None and not 0 < options.seconds <= 3600:
        raise UserError(f"--seconds {options.seconds:g}: between 0 and 3600")
    seconds = options.seconds or (CAMERA_SECONDS if given.kind == "camera" else None)
    out = options.out
    prepare(out, _OURS)
    with orderly_end():
        session = run_session(
            given,
            str(model),
            config.tasks,
            out,
            seconds=seconds,
            every=_every(given, seconds),
            parameters=options.param,
            domain=options.domain,
            say=lambda text: print(text, flush=True),
        )
        print("judging and writing the report", flush=True)
        found, warnings = _report(given, session, config, model, out, options.param)
    print("\n".join([*summary.sentences(found), *(f"note       {text}" for text in warnings)]))
    print(f"report     {out / 'report.html'}")
    print(f"recording  {out / 'outputs'} (opens in Foxglove)", flush=True)
    if session.played["truncated"]:
        raise UserError(f"{session.played['truncated']} The report covers what could be read")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="mila demo", description=__doc__)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--bag", type=Path, metavar="PATH", help="rosbag2 folder, .mcap, .db3 (default: bundled clip)")
    source.add_argument("--video", type=Path, metavar="FILE", help="a video file")
    source.add_argument("--camera", metavar="N", help="a webcam: 0 for /dev/video0, or a device's path")
    add("--model", default=MODEL, help=f"name of a shipped model or a checkpoint file (default {MODEL})")
    add("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="folder for the results (default out/demo)")
    add("--seconds", type=float, metavar="S", help=f"stop after about S seconds (webcam: {CAMERA_SECONDS:g})")
    add(
        "--fov",
        type=float,
        metavar="DEG",
        help=f"horizontal field of view where the input has no calibration (default {DEFAULT_FOV:g})",
    )
    add("-p", "--param", action="append", default=[], metavar="NAME:=VALUE", help="a parameter of the node")
    add("--domain", type=int, metavar="ID", help="ROS_DOMAIN_ID of the run (default: a random one)")
    return parser


def _given(options: argparse.Namespace) -> DemoInput:
    if options.video is not None:
        return video_input(options.video, options.fov)
    if options.camera is not None:
        return camera_input(options.camera, options.seconds or CAMERA_SECONDS, options.fov)
    return bag_input(options.bag if options.bag is not None else default_clip(), options.fov)


def _every(given: DemoInput, seconds: float | None) -> int:
    """Of which n-th frames to record the pictures."""
    expected = given.frames or 300
    if seconds is not None:
        expected = min(expected, round(30 * seconds))
    return max(1, math.ceil(expected / RECORDED_FRAMES))


def _report(
    given: DemoInput, session: Session, config: ModelConfig, model: Path, out: Path, parameters: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Write report, summary and recording; returns the summary, and what went otherwise than expected."""
    if not session.published:
        raise UserError(f"no picture of {given.image_topic} was played; see {out / 'logs/play.log'}")
    frames = join(session.published, session.arrivals, CAMERA)
    storage = open_storage(session.recording)
    try:
        budgets, answers = read_budgets(storage, NODE, CAMERA), read_answers(storage, NODE, CAMERA)
        failure = read_failure(storage, NODE, CAMERA)
    finally:
        storage.close()
    judged = judge_run(given, session, config, out / "outputs")
    facts = {
        "source": given.source,
        "model": model.stem,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine.hardware(),
        "versions": machine.versions(),
    }
    found = summary.build(frames, budgets, session.usage, judged.metrics, judged.frames, facts)
    if budgets:
        last = budgets[-1]
        found |= {"device": last.device, "precision": last.precision, "backend": last.backend, "mode": last.mode}
    warnings = _warnings(session, frames, found, judged, failure)
    evidence = report.Evidence(
        title=f"{_title(given)}, through model {model.stem}, {time.strftime('%d %B %Y, %H:%M')}",
        summary=found,
        frames=frames,
        answers=answers,
        budgets=budgets,
        usage=session.usage,
        moments=judged.chosen,
        classes=config.classes,
        palette=config.palette,
        cores=machine.cores(),
        settings=_settings(given, session, budgets, frames, judged, parameters),
        machine=facts["machine"] | _load(session),
        versions=facts["versions"],
        notes=[*_notes(given, session, found, judged), *warnings],
    )
    (out / "report.html").write_text(report.render(evidence), encoding="utf-8")
    (out / "summary.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(session.recording.parent)
    return found, warnings


def _title(given: DemoInput) -> str:
    if given.kind == "camera":
        return f"Webcam {given.source.partition(':')[2]}"
    name = Path(given.source).name
    return f"Video {name}" if given.kind == "video" else f"Recording {name}"


def _settings(
    given: DemoInput,
    session: Session,
    budgets: Sequence[BudgetSample],
    frames: Sequence[FrameTime],
    judged: Judged,
    parameters: Sequence[str],
) -> dict[str, str]:
    seconds = (frames[-1].published_ns - frames[0].published_ns) * 1e-9
    rate = (len(frames) - 1) / seconds if seconds > 0 else math.nan
    found = {"source": given.source, "topic": given.image_topic, "played": f"{len(frames)} frames at {rate:.1f} Hz"}
    if judged.chosen:
        moment = judged.chosen[0]
        size = next(iter(moment.answers.values())).shape
        found["frame"] = f"{moment.rgb.shape[1]}x{moment.rgb.shape[0]} pixels"
        found["outputs"] = f"{size[1]}x{size[0]} pixels"
    if given.fov_deg is not None:
        found["field of view"] = f"{given.fov_deg:g}° assumed (no calibration)"
    if budgets:
        last = budgets[-1]
        found |= {
            "device": f"{last.device}, {last.precision}, {last.backend}",
            "mode": last.mode,
            "keyframe period": f"{last.keyframe_period:.3g} s",
            "keyframes": str(last.counts.get("keyframes", 0)),
        }
    if parameters:
        found["parameters"] = ", ".join(parameters)
    return found


def _load(session: Session) -> dict[str, str]:
    if session.load_before is None:
        return {}
    return {"load before the start": f"{session.load_before:.1f} (programs that wanted to run, mean of a minute)"}


def _notes(given: DemoInput, session: Session, found: dict[str, Any], judged: Judged) -> list[str]:
    """What a reader must know about the numbers."""
    notes = [
        "Latency runs from just before the picture is handed to DDS until the last of its outputs has arrived in "
        "another process, by one clock; player, node and recorder share the machine."
    ]
    if judged.kept_every * session.stored_every > 1:
        every = _ordinal(judged.kept_every * session.stored_every)
        notes.append(f"The recording in outputs/ has the pictures of every {every} frame; times are of all frames.")
    if "normals" in found and "normals" not in given.truth:
        notes.append(
            "The recording has no normals; the true ones are planes fitted to its depth over 21 x 21 pixels, left out "
            "at edges. They are noisy themselves."
        )
    if "depth" in found:
        notes.append("Depth is judged where the recording has a reading between 0.1 and 80 m.")
    if "segmentation" in found:
        notes.append("The recording's labels are taken to be ids of the model's own classes.")
    return notes


def _warnings(
    session: Session, frames: Sequence[FrameTime], found: dict[str, Any], judged: Judged, failure: str | None
) -> list[str]:
    """What went otherwise than a reader would think; also said on the terminal."""
    notes = list(session.notes)
    if failure is not None:
        notes.append(f"{found['frames']['failed']} of the frames could not be answered; the last one: {failure}.")
    if session.load_before is not None and session.load_before > 0.5 * machine.cores():
        notes.append(
            f"The machine was busy before the demo started (load {session.load_before:.1f} on {machine.cores()} "
            "cores): times are worse than it can do."
        )
    if judged.misregistered:
        notes.append(judged.misregistered)
    if judged.strange_labels:
        notes.append(
            f"Segmentation is not judged: the recording has labels that the model has no class for "
            f"({', '.join(map(str, sorted(judged.strange_labels)[:10]))})."
        )
    if not any(task in found for task in report.TASKS):
        notes.append("There is no ground truth to judge against.")
    stamps = {frame.stamp_ns for frame in frames}
    if len(stamps) < len(frames):
        notes.append(
            f"{len(frames) - len(stamps)} pictures share their stamp with another: their latency is not certain."
        )
    if not found["keyframes"]:
        notes.append("The slow network finished no keyframe in this time: every answer is the fast network's alone.")
    if found["frames"]["lost"]:
        lost = found["frames"]["lost"]
        notes.append(f"{lost} published {'frame' if lost == 1 else 'frames'} never reached the node.")
    if session.arrivals["lost_messages"]:
        notes.append(f"{session.arrivals['lost_messages']} messages were not stored: the disk was too slow.")
    return notes


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
