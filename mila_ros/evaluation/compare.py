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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.evaluation.carriers import CARRIERS, Seen, make_carrier
from mila_ros.evaluation.metrics import TaskMetrics, frame_tensors
from mila_ros.evaluation.videos import compare_videos
from mila_ros.models.checkpoint import load_model, resolve
from mila_ros.models.flops import count_flops
from mila_ros.models.fuse import fuse_for_inference
from mila_ros.models.mila import Mila
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.geometry import moved_view, without_holes
from mila_ros.worlds.motion import random_motion
from mila_ros.worlds.world import open_world_for

DISTANCES = (1, 5, 10)


def earlier_view(image: Tensor, frame: Frame, intrinsics: Tensor, distance: int, seed: int) -> Tensor:
    """The picture that the keyframe's camera took `distance` frames of motion ago: (1, 3, H, W)."""
    metres = np.zeros(frame.rgb.shape[:2], np.float32) if frame.depth is None else frame.depth
    depth = without_holes(torch.from_numpy(metres).to(image.device)[None])
    generator = torch.Generator().manual_seed(seed)
    motion = random_motion(torch.tensor([float(distance)]), generator)
    return moved_view(image, depth, intrinsics, motion.to(image.device))


@torch.inference_mode()
def compare_frames(
    model: Mila,
    frames: Iterable[Frame],
    device: torch.device,
    distances: Sequence[int] = DISTANCES,
    carriers: Sequence[str] = ("mila",),
) -> dict[str, dict[str, Any]]:
    """Metrics by method: "slow", "fast" (without a keyframe) and "CARRIER@D" for each carrier and distance D.

    Args:
        model: on `device`, in evaluation mode.
        frames: stills; where no depth is known, a wall 10 m away is assumed for the keyframe's view.
        distances: frames between keyframe and frame.
        carriers: names of ways to answer from a keyframe (carriers.py).
    """
    tasks, classes = model.config.tasks, len(model.config.classes)
    made = {name: make_carrier(name, model) for name in carriers}
    names = ["slow", "fast", *(f"{name}@{d}" for name in carriers for d in distances)]
    totals = {name: TaskMetrics(tasks, classes) for name in names}
    size = (0, 0)
    for index, frame in enumerate(frames):
        image, intrinsics, truth = frame_tensors(frame, device)
        size = (image.shape[-2], image.shape[-1])
        focal = intrinsics[:, 0]
        totals["slow"].update(model.answer(model.features(image), tasks, focal, size, confidence=False), truth)
        glance = model.glance(image)
        totals["fast"].update(model.answer(glance, tasks, focal, size, confidence=False), truth)
        for distance in distances:
            memories: dict[str, Any] = dict.fromkeys(carriers)
            for keyframe in reversed(range(model.config.frames)):  # the oldest first
                ago = distance + keyframe * (distance + 1)
                view = earlier_view(image, frame, intrinsics, ago, seed=1000 * index + distance)
                seen = Seen(view, model.features(view), model.glance(view))
                memories = {name: carrier.remember(seen, memories[name]) for name, carrier in made.items()}
            for name, carrier in made.items():
                features = carrier.carry(Seen(image, None, glance), memories[name])
                answer = model.answer(features, tasks, focal, size, confidence=False)
                totals[f"{name}@{distance}"].update(answer, truth)
    if size == (0, 0):
        raise UserError("there are no frames to compare on")
    flops = count_flops(model, *size)
    cost: dict[str, float] = {"slow": flops.slow_frame, "fast": flops.fast + flops.heads}
    results: dict[str, dict[str, Any]] = {}
    for name, total in totals.items():
        carrier_name, _, distance = name.partition("@")
        if distance:
            cost[name] = made[carrier_name].frame_flops(flops)
        results[name] = total.compute() | {"gflops": cost[name] / 1e9}
        if carrier_name == "mila":
            # A keyframe every `distance` + 1 frames puts the last frame before the next one at this distance.
            results[name]["gflops_amortised"] = flops.amortised(int(distance) + 1) / 1e9
    return results


COLUMNS = (
    ("mIoU %", "segmentation", "miou", 100.0),
    ("acc %", "segmentation", "pixel_accuracy", 100.0),
    ("RMSE m", "depth", "rmse", 1.0),
    ("abs rel", "depth", "abs_rel", 1.0),
    ("d1 %", "depth", "delta1", 100.0),
    ("normal °", "normals", "mean_deg", 1.0),
    ("median °", "normals", "median_deg", 1.0),
)


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Results as a table for the terminal; a dash where a metric does not exist."""
    lines = ["  ".join([f"{'method':<9}", *(f"{title:>8}" for title, *_ in COLUMNS), f"{'GFLOPs':>8}"])]
    for name, result in results.items():
        cells = []
        for _, task, key, factor in COLUMNS:
            value = result.get(task, {}).get(key)
            cells.append(f"{'-':>8}" if value is None else f"{value * factor:8.3f}")
        lines.append("  ".join([f"{name:<9}", *cells, f"{result['gflops']:8.2f}"]))
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Entry of `mila compare`."""
    parser = argparse.ArgumentParser(prog="mila compare", description=__doc__.split("\n\n")[0])
    layouts = "nyuv2:, camvid:, cityscapes: or rgbd:FOLDER, bag:RECORDING (layouts: mila_ros/worlds)"
    parser.add_argument("--data", required=True, help=layouts)
    splits = "a part of it: train, validation, held-out (nyuv2), or all (default)"
    parser.add_argument("--split", default="all", help=splits)
    parser.add_argument("--model", default="indoor", help="a shipped model's name or a checkpoint file")
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
        nargs="+",
        choices=CARRIERS,
        default=["mila"],
        help="how to answer from a keyframe: mila (default); reuse: its features as they are; flow: warped by DIS flow",
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args(argv)
    if min(options.distances) < 1 or min(options.intervals) < 1:
        raise UserError("distances and intervals are counted in frames from 1")
    try:
        device = torch.device(options.device)
        model = fuse_for_inference(load_model(options.model)).to(device, memory_format=torch.channels_last)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device "{options.device}" is not usable here: {error}') from error
    world = open_world_for(options.data, options.split, model.config.classes, model.config.tasks)
    if world.videos:
        results, judged = compare_videos(model, world, device, options.distances, options.intervals, options.methods)
        how = "X@D: keyframe D of the video's frames ago; X/K: every K-th of them a keyframe"
    else:
        frames = world.with_truth()
        shown = tqdm(frames, desc="compare", unit="frame", file=sys.stderr)
        results, judged = compare_frames(model, shown, device, options.distances, options.methods), len(frames)
        how = "X@D: keyframe D frames of motion away (synthesised view)"
    print(format_table(results))
    print(
        f"{judged} frames; {how}; normals are judged against planes fitted to depth; depth and labels over all known "
        "pixels of the full picture; GFLOPs are those of networks, of a frame between keyframes"
    )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "data": options.data,
            "split": options.split,
            "frames": judged,
            "model": resolve(options.model).name,
            "methods": results,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0
