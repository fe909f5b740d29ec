"""`mila compare`: the slow network on every frame against MILA at growing distance from its keyframe.

A labelled still serves as video: the keyframe is the view of a camera that was `distance` frames of motion away
(geometry.moved_view), so parallax is real and the labelled picture itself stays untouched. Motion is drawn per frame
and distance from a fixed seed; the same command gives the same numbers. On labelled video keyframes are earlier frames
(videos.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.evaluation import cost
from mila_ros.evaluation.carriers import CARRIERS, Seen, make_carrier
from mila_ros.evaluation.compare_clips import compare_clips, format_clips
from mila_ros.evaluation.comparison_plot import check_kind, draw
from mila_ros.evaluation.comparison_table import add_changes, format_table
from mila_ros.evaluation.metrics import TaskMetrics, frame_tensors
from mila_ros.evaluation.videos import compare_videos
from mila_ros.models.checkpoint import load_model, read_header, resolve
from mila_ros.models.flops import count_flops
from mila_ros.models.fuse import fuse_for_inference
from mila_ros.models.mila import Mila
from mila_ros.models.networks import Features
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.geometry import moved_view, without_holes
from mila_ros.worlds.motion import random_motion
from mila_ros.worlds.world import open_world_for

DISTANCES = (1, 5, 10)


def earlier_view(
    image: Tensor, frame: Frame, intrinsics: Tensor, distance: int, seed: int, motion: str = "carried"
) -> Tensor:
    """The picture that the keyframe's camera took `distance` frames of motion ago: (1, 3, H, W).

    motion: how it moved (motion.MOTIONS).
    """
    metres = frame.depth if frame.depth is not None else frame.assumed_depth
    metres = np.zeros(frame.rgb.shape[:2], np.float32) if metres is None else metres
    depth = without_holes(torch.from_numpy(metres).to(image.device)[None])
    generator = torch.Generator().manual_seed(seed)
    moved = random_motion(torch.tensor([float(distance)]), generator, motion)
    return moved_view(image, depth, intrinsics, moved.to(image.device))


@torch.inference_mode()
def compare_frames(
    model: Mila,
    frames: Iterable[Frame],
    device: torch.device,
    distances: Sequence[int] = DISTANCES,
    carriers: Sequence[str] = ("mila",),
    timed: bool = False,
    motion: str = "carried",
) -> dict[str, dict[str, Any]]:
    """Metrics by method: "slow", "fast" (without a keyframe) and "CARRIER@D" for each carrier and distance D.

    Args:
        model: on `device`, in evaluation mode.
        frames: stills; where no depth is known, a wall 10 m away is assumed for the keyframe's view.
        distances: frames between keyframe and frame.
        carriers: names of ways to answer from a keyframe (carriers.py); none: the slow network alone.
        timed: also measure milliseconds (cost.py).
        motion: how the camera moved to the still (motion.MOTIONS).
    """
    tasks, classes = model.config.tasks, len(model.config.classes)
    made = {name: make_carrier(name, model) for name in carriers}
    parts = {"slow": ("slow", "answer slow")} | ({"fast": ("fast", "answer fast")} if carriers else {})
    for method in (f"{name}@{d}" for name in carriers for d in distances):
        parts[method] = (*made[cost.split(method)[0]].needs, f"carry {method}", f"answer {method}")
    totals = {name: TaskMetrics(tasks, classes) for name in parts}
    clock = cost.Clock(device, timed)
    size = (0, 0)
    for index, frame in enumerate(frames):
        image, intrinsics, truth = frame_tensors(frame, device)
        size = (image.shape[-2], image.shape[-1])
        carried: dict[str, Features] = {"slow": clock("slow", partial(model.features, image))}
        if carriers:
            carried["fast"] = clock("fast", partial(model.glance, image))
            now = Seen(image, None, carried["fast"])
        for distance in distances if carriers else ():
            memories: dict[str, Any] = dict.fromkeys(carriers)
            for keyframe in reversed(range(model.config.frames)):  # the oldest first
                ago = distance + keyframe * (distance + 1)
                view = earlier_view(image, frame, intrinsics, ago, 1000 * index + distance, motion)
                seen = Seen(view, model.features(view), model.glance(view))
                memories = {name: carrier.remember(seen, memories[name]) for name, carrier in made.items()}
            for name, carrier in made.items():
                method = f"{name}@{distance}"
                carried[method] = clock(f"carry {method}", partial(carrier.carry, now, memories[name]))
        for method, features in carried.items():
            ask = partial(model.answer, features, tasks, intrinsics[:, 0], size, confidence=False)
            totals[method].update(clock(f"answer {method}", ask), truth)
        clock.frame(parts)
    if size == (0, 0):
        raise UserError("there are no frames to compare on")
    flops = count_flops(model, *size)
    results: dict[str, dict[str, Any]] = {}
    for method, total in totals.items():
        results[method] = total.compute() | cost.gflops(method, flops, made) | clock.compute(method)
        if method.startswith("mila@"):
            # A keyframe every `distance` + 1 frames puts the last frame before the next one at this distance.
            results[method]["gflops_amortised"] = flops.amortised(int(method.partition("@")[2]) + 1) / cost.GIGA
    return results


def main(argv: list[str]) -> int:
    """Entry of `mila compare`."""
    options = _options(argv)
    if options.task == "clips":
        return _clips(options)
    if options.data is None:
        raise UserError("--data is missing: KIND:FOLDER, for example nyuv2:FOLDER or rendered:1")
    if min(options.distances) < 1 or min(options.intervals) < 1:
        raise UserError("distances and intervals are counted in frames from 1")
    files = [resolve(model) for model in options.model]
    if len({file.stem for file in files}) < len(files):
        raise UserError("models are told apart by their file's name: give each another one")
    if options.plot:
        check_kind(options.plot)
    results: dict[str, dict[str, Any]] = {}
    remembered = max(read_header(file)[0].frames for file in files)
    for file in files:
        found, judged, how = _compared(file, options, remembered)
        add_changes(found)
        # One model's methods need no name before them.
        results |= found if len(files) == 1 else {f"{file.stem} {method}": result for method, result in found.items()}
    print(format_table(results))
    normals = "" if options.data.startswith("rendered:") else "normals are judged against planes fitted to depth; "
    print(
        f"\n{judged} frames; {how}; {normals}depth and labels over all known pixels of the full picture; change: mean "
        "over tasks that have ground truth, against the same model's slow network on every frame; GFLOPs are those of "
        "networks"
    )
    if options.json:
        report = {
            "data": options.data,
            "split": options.split,
            "frames": judged,
            "model": ", ".join(file.name for file in files),
            "methods": results,
        }
        _write(options.json, report)
    if options.plot:
        draw(results, options.plot, f"{options.data.rstrip('/').rpartition('/')[2]}, {judged} frames")
    return 0


def _clips(options: argparse.Namespace) -> int:
    """Video classification in place of dense tasks."""
    meant = {"--data": options.data, "--plot": options.plot, "--time": options.time or None}
    useless = [name for name, value in meant.items() if value is not None]
    if useless or options.device != "cpu":
        raise UserError(
            f"--task clips runs on the CPU, on clips of its own: leave out {', '.join(useless) or '--device'}"
        )
    if len(options.model) > 1:
        raise UserError("--task clips takes the features of one model's backbone: name one --model")
    results = compare_clips(options.model[0], options.seeds, options.clips, max(8, options.clips // 3), options.epochs)
    print(format_clips(results))
    if options.json:
        _write(options.json, {"task": "clips", "model": options.model[0], "methods": results})
    return 0


def _write(path: Path, report: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _compared(file: Path, options: argparse.Namespace, remembered: int) -> tuple[dict[str, dict[str, Any]], int, str]:
    """One model's results, over how many frames, and what the names of methods mean."""
    try:
        device = torch.device(options.device)
        model = fuse_for_inference(load_model(file)).to(device, memory_format=torch.channels_last)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device "{options.device}" is not usable here: {error}') from error
    world = open_world_for(options.data, options.split, model.config.classes, model.config.tasks)
    if world.videos:
        results, judged = compare_videos(
            model, world, device, options.distances, options.intervals, options.methods, options.time, remembered
        )
        return results, judged, "X@D: keyframe D of the video's frames ago; X/K: every K-th of them a keyframe"
    frames = world.with_truth()
    shown = tqdm(frames, desc="compare", unit="frame", file=sys.stderr)
    results = compare_frames(model, shown, device, options.distances, options.methods, options.time, world.motion)
    return results, len(frames), "X@D: keyframe D frames of motion away (synthesised view)"


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="mila compare", description=__doc__.split("\n\n")[0])
    layouts = "nyuv2:, camvid:, cityscapes: or rgbd:FOLDER, bag:RECORDING (layouts: mila_ros/worlds), rendered:SEED"
    parser.add_argument("--data", help=layouts)
    tasks = "dense (default): segmentation, depth, normals; clips: alignment and LAPS at classifying rendered clips"
    parser.add_argument("--task", choices=("dense", "clips"), default="dense", help=tasks)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="clips: trainings of each way (3)")
    parser.add_argument(
        "--clips", type=int, default=480, metavar="N", help="clips: to learn from; a third as many judge (480)"
    )
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help="clips: of each training (12)")
    splits = "a part of it: train, validation, held-out (nyuv2), or all (default)"
    parser.add_argument("--split", default="all", help=splits)
    models = "shipped models' names or checkpoint files; of several, all methods stand in one table (indoor)"
    parser.add_argument("--model", nargs="+", default=["indoor"], help=models)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--distances",
        type=int,
        nargs="+",
        default=list(DISTANCES),
        metavar="D",
        help="frames from keyframe to frame (1 5 10)",
    )
    parser.add_argument(
        "--intervals", type=int, nargs="+", default=[10], metavar="K", help="on video: every K-th frame a keyframe (10)"
    )
    parser.add_argument(
        "--methods",
        nargs="*",
        choices=CARRIERS,
        default=["mila"],
        help="answers from a keyframe: mila (default); reuse: its features as they are; flow: warped by DIS flow; "
        "none named: the slow network alone",
    )
    parser.add_argument("--time", action="store_true", help="also measure milliseconds, which differ from run to run")
    parser.add_argument("--plot", type=Path, help="draw accuracy against GFLOPs into this file (.svg, .png, .pdf)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args(argv)
