"""Comparison on labelled video: keyframes are real earlier frames, as a robot would have taken them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.evaluation import cost
from mila_ros.evaluation.carriers import Seen, make_carrier
from mila_ros.evaluation.consistency import LONGEST_NS, Consistency
from mila_ros.evaluation.metrics import TaskMetrics, frame_tensors
from mila_ros.evaluation.video_consistency import VideoConsistency
from mila_ros.models.flops import count_flops
from mila_ros.models.mila import Mila
from mila_ros.models.networks import Features
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.world import World


@torch.inference_mode()
def compare_videos(
    model: Mila,
    world: World,
    device: torch.device,
    distances: Sequence[int],
    intervals: Sequence[int],
    carriers: Sequence[str] = ("mila",),
    timed: bool = False,
    remembered: int = 0,
) -> tuple[dict[str, dict[str, Any]], int]:
    """Metrics by method: "slow", "fast", and by carrier "X@D" (a keyframe D frames ago), "X/K" (each K frames one).

    All methods are judged on the same frames: those of each video that have enough others before them.

    Args:
        model: on `device`, in evaluation mode.
        world: with videos.
        distances, intervals: D and K, in frames; intervals are left out where few frames of a video are labelled.
        carriers: names of ways to answer from a keyframe (carriers.py); none: the slow network alone.
        timed: also measure milliseconds (cost.py).
        remembered: keyframes for which each judged frame must have a past; 0: those of the model. With the most of
            several models, all are judged on the same frames.

    Returns:
        the metrics, and how many frames were judged.

    Raises:
        UserError: no video is long enough.
    """
    tasks, own = model.config.tasks, model.config.frames
    remembered = max(remembered, own)
    total = sum(len(video) for video in world.videos)
    sparse = world.labelled is not None and 2 * len(world.labelled) < total
    if sparse:
        # Labels at one place of each video would always be judged at the same age of the keyframe.
        intervals = ()
    made = {name: make_carrier(name, model) for name in carriers}
    parts = {"slow": ("slow", "answer slow")} | ({"fast": ("fast", "answer fast")} if carriers else {})
    for name, carrier in made.items():
        for method in (*(f"{name}@{d}" for d in distances), *(f"{name}/{k}" for k in intervals)):
            # On a keyframe of an interval the slow network looks as well, and it is prepared.
            parts[method] = (*carrier.needs, f"slow {method}", f"carry {method}", f"answer {method}")
    totals = {method: TaskMetrics(tasks, len(model.config.classes)) for method in parts}
    steady, clock = Steadiness(), cost.Clock(device, timed)
    # So many frames back lies the oldest keyframe that is looked up.
    reach = max((d + (remembered - 1) * (d + 1) for d in distances), default=0)
    judged, size = 0, (0, 0)
    for video in world.videos:
        seen: dict[int, Seen] = {}  # by frame
        running: dict[str, Any] = {}  # by method: as the robot remembers it
        steady.new_video()
        for index in tqdm(video, desc="compare", unit="frame", file=sys.stderr):
            frame = world[index]
            image, intrinsics, truth = frame_tensors(frame, device)
            size = (image.shape[-2], image.shape[-1])
            slow = clock("slow", partial(model.features, image))
            carried: dict[str, Features] = {"slow": slow}
            if carriers:
                carried["fast"] = clock("fast", partial(model.glance, image))
                now = seen[index] = Seen(image, slow, carried["fast"])
                seen.pop(index - reach - 1, None)
            for name, carrier in made.items():
                for interval in intervals:
                    method = f"{name}/{interval}"
                    if (index - video.start) % interval == 0:
                        remember = partial(carrier.remember, now, running.get(method))
                        running[method] = clock(f"carry {method}", remember)
                        clock.repeat("slow", f"slow {method}")
                        carried[method] = slow
                    else:
                        carried[method] = clock(f"carry {method}", partial(carrier.carry, now, running[method]))
            if index - video.start < reach:
                clock.frame({})
                continue
            for name, carrier in made.items():
                for distance in distances:
                    memory: Any = None
                    for keyframe in reversed(range(own)):  # the oldest first
                        memory = carrier.remember(seen[index - distance - keyframe * (distance + 1)], memory)
                    method = f"{name}@{distance}"
                    carried[method] = clock(f"carry {method}", partial(carrier.carry, now, memory))
            known = any(value is not None for value in truth.values())
            answers = {}
            for method, features in carried.items() if known or not sparse else ():
                ask = partial(model.answer, features, tasks, intrinsics[:, 0], size, confidence=False)
                answers[method] = clock(f"answer {method}", ask)
                totals[method].update(answers[method], truth)
            if answers:
                steady.update(index, frame, answers)
                judged += known
                clock.frame(parts)
            else:
                clock.frame({})
    if not judged:
        raise UserError(
            f"no video has a labelled frame with {reach} frames before it, which the distances {list(distances)} with "
            f"{remembered} remembered keyframe(s) ask for: choose smaller --distances"
        )
    flops = count_flops(model, *size)
    found = steady.compute()
    results = {
        method: total.compute() | found.get(method, {}) | cost.gflops(method, flops, made) | clock.compute(method)
        for method, total in totals.items()
    }
    return results, judged


_CAMERA_NS = 33_333_333
"""Between frames that have no stamps."""


class Steadiness:
    """Video consistency (where every frame is labelled) and agreement along the motion, of all methods."""

    def __init__(self) -> None:
        self._motion, self._classes = Consistency(), VideoConsistency()
        self._last: int | None = None

    def new_video(self) -> None:
        self._motion.new_video()
        self._classes.new_video()
        self._last = None

    def update(self, index: int, frame: Frame, answers: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The next frame of the video, its index, and its answers by method and task."""
        stamp = index * _CAMERA_NS if frame.stamp_ns is None else frame.stamp_ns
        if self._last is not None and stamp - self._last > LONGEST_NS:
            self._classes.new_video()
        self._last = stamp
        arrays = {name: {task: v[0].cpu().numpy() for task, v in by.items()} for name, by in answers.items()}
        self._motion.update(frame.rgb, arrays, stamp)
        if frame.labels is None:
            self._classes.new_video()
        elif all("segmentation" in by for by in arrays.values()):
            self._classes.update({name: by["segmentation"] for name, by in arrays.items()}, frame.labels)

    def compute(self) -> dict[str, dict[str, Any]]:
        """By method: `consistency` (consistency.py) and `video_consistency` (video_consistency.py)."""
        motion, classes = self._motion.compute(), self._classes.compute()
        return {
            name: {
                key: values[name]
                for key, values in (("consistency", motion), ("video_consistency", classes))
                if name in values
            }
            for name in {**motion, **classes}
        }
