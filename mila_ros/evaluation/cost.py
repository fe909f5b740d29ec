"""What a way to answer costs: arithmetic of the mean and of the worst frame, and, if asked for, milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from mila_ros.evaluation.carriers import Carrier
from mila_ros.models.flops import Flops

T = TypeVar("T")
GIGA = 1e9


def gflops(method: str, flops: Flops, carriers: Mapping[str, Carrier]) -> dict[str, float]:
    """`gflops` and `gflops_worst` of a frame, of networks alone.

    Args:
        method: "slow", "fast", "CARRIER@D" (a frame between keyframes) or "CARRIER/K" (the mean over an interval).
        flops: of the model.
        carriers: by name.
    """
    if method in ("slow", "fast"):
        cost = float(flops.slow_frame if method == "slow" else flops.alone_frame)
        return {"gflops": cost / GIGA, "gflops_worst": cost / GIGA}
    name, interval = split(method)
    between = carriers[name].frame_flops(flops)
    if interval is None:
        return {"gflops": between / GIGA, "gflops_worst": between / GIGA}
    # Only what looks keyframes up prepares them for it.
    keyframe = flops.slow + flops.heads_slow if name == "mila" else flops.slow_frame
    mean = flops.amortised(interval) if name == "mila" else (keyframe + (interval - 1) * between) / interval
    return {"gflops": mean / GIGA, "gflops_worst": max(keyframe, between if interval > 1 else 0.0) / GIGA}


def split(method: str) -> tuple[str, int | None]:
    """Carrier and interval (None: at a distance) of "CARRIER@D" or "CARRIER/K"."""
    name, _, interval = method.partition("/")
    return (name, int(interval)) if interval else (name.partition("@")[0], None)


class Clock:
    """Milliseconds of the parts of a frame; parts that several methods share are run and measured once.

    Args:
        device: on which they run. The first frame is not counted: it sets things up.
        on: off, parts are run and nothing is measured.
    """

    def __init__(self, device: torch.device, on: bool) -> None:
        self._device, self.on = device, on
        self._parts: dict[str, float] = {}
        self._frames: dict[str, list[float]] = {}
        self._first = True

    def __call__(self, part: str, call: Callable[[], T]) -> T:
        """Run a part of the current frame."""
        if not self.on:
            return call()
        self._finish()
        begin = time.perf_counter()
        result = call()
        self._finish()
        self._parts[part] = (time.perf_counter() - begin) * 1e3
        return result

    def repeat(self, part: str, name: str) -> None:
        """Count a part of this frame once more, under another name."""
        if self.on:
            self._parts[name] = self._parts[part]

    def frame(self, parts: Mapping[str, tuple[str, ...]]) -> None:
        """The frame is over: which parts made up each method's answer; those that did not run cost nothing."""
        first, self._first = self._first, False
        if self.on and not first:
            for method, names in parts.items():
                spent = sum(self._parts.get(name, 0.0) for name in names)
                self._frames.setdefault(method, []).append(spent)
        self._parts = {}

    def compute(self, method: str) -> dict[str, Any]:
        """`ms` and `ms_worst` of a frame, or nothing when off."""
        frames = self._frames.get(method)
        return {} if not frames else {"ms": float(np.mean(frames)), "ms_worst": float(np.max(frames))}

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
