"""Comparison on labelled video: keyframes are real earlier frames, as a robot would have taken them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.evaluation.carriers import Seen, make_carrier
from mila_ros.evaluation.metrics import TaskMetrics, frame_tensors
from mila_ros.models.flops import count_flops
from mila_ros.models.mila import Mila
from mila_ros.models.networks import Features
from mila_ros.worlds.world import World


@torch.inference_mode()
def compare_videos(
    model: Mila,
    world: World,
    device: torch.device,
    distances: Sequence[int],
    intervals: Sequence[int],
    carriers: Sequence[str] = ("mila",),
) -> tuple[dict[str, dict[str, Any]], int]:
    """Metrics by method: "slow", "fast", and by carrier "X@D" (a keyframe D frames ago), "X/K" (each K frames one).

    All methods are judged on the same frames: those of each video that have enough others before them.

    Args:
        model: on `device`, in evaluation mode.
        world: with videos.
        distances, intervals: D and K, in frames; intervals are left out where few frames of a video are labelled.
        carriers: names of ways to answer from a keyframe (carriers.py).

    Returns:
        the metrics, and how many frames were judged.

    Raises:
        UserError: no video is long enough.
    """
    tasks, remembered = model.config.tasks, model.config.frames
    total = sum(len(video) for video in world.videos)
    if world.labelled is not None and 2 * len(world.labelled) < total:
        # Labels at one place of each video would always be judged at the same age of the keyframe.
        intervals = ()
    made = {name: make_carrier(name, model) for name in carriers}
    names = ["slow", "fast"]
    for name in carriers:
        names += [*(f"{name}@{d}" for d in distances), *(f"{name}/{k}" for k in intervals)]
    totals = {name: TaskMetrics(tasks, len(model.config.classes)) for name in names}
    # So many frames back lies the oldest keyframe that is looked up.
    reach = max((d + (remembered - 1) * (d + 1) for d in distances), default=0)
    judged, size = 0, (0, 0)
    for video in world.videos:
        seen: dict[int, Seen] = {}  # by frame
        running: dict[str, Any] = {}  # by method: as the robot remembers it
        for index in tqdm(video, desc="compare", unit="frame", file=sys.stderr):
            image, intrinsics, truth = frame_tensors(world[index], device)
            size, focal = (image.shape[-2], image.shape[-1]), intrinsics[:, 0]
            slow, fast = model.features(image), model.glance(image)
            now = seen[index] = Seen(image, slow, fast)
            seen.pop(index - reach - 1, None)
            carried: dict[str, Features] = {"slow": slow, "fast": fast}
            for name, carrier in made.items():
                for interval in intervals:
                    method = f"{name}/{interval}"
                    if (index - video.start) % interval == 0:
                        running[method] = carrier.remember(now, running.get(method))
                        carried[method] = slow
                    else:
                        carried[method] = carrier.carry(now, running[method])
            if index - video.start < reach or all(known is None for known in truth.values()):
                continue
            for name, carrier in made.items():
                for distance in distances:
                    memory: Any = None
                    for keyframe in reversed(range(remembered)):  # the oldest first
                        memory = carrier.remember(seen[index - distance - keyframe * (distance + 1)], memory)
                    carried[f"{name}@{distance}"] = carrier.carry(now, memory)
            for name, features in carried.items():
                totals[name].update(model.answer(features, tasks, focal, size, confidence=False), truth)
            judged += 1
    if not judged:
        raise UserError(
            f"no video has a labelled frame with {reach} frames before it, which the distances {list(distances)} with "
            f"{remembered} remembered keyframe(s) ask for: choose smaller --distances"
        )
    flops = count_flops(model, *size)
    results: dict[str, dict[str, Any]] = {}
    for name, total in totals.items():
        if name in ("slow", "fast"):
            cost: float = {"slow": flops.slow_frame, "fast": flops.fast + flops.heads}[name]
        else:
            cost = made[re.split("[@/]", name)[0]].frame_flops(flops)
        if "/" in name:
            interval = int(name.split("/")[1])
            keyframe_cost = flops.slow + flops.heads_slow if name.startswith("mila") else flops.slow_frame
            cost = (keyframe_cost + (interval - 1) * cost) / interval
        results[name] = total.compute() | {"gflops": cost / 1e9}
    return results, judged
