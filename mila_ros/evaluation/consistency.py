"""Whether answers to consecutive frames agree along the motion between them: no ground truth is needed.

As Lai et al. (ECCV 2018) and Liu et al. (ECCV 2020) do with a flow network, here with OpenCV's DIS flow (Kroeger et
al., ECCV 2016; preset "medium") both ways; pixels where the two ways disagree (Sundaram et al., ECCV 2010) are left
out. The measure says nothing about truth: a network that always answers the same is perfectly consistent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mila_ros.optical_flow import NAME, OpticalFlow, places

LONGEST_NS = 500_000_000
"""Between two frames that are compared: after a longer pause they may show different things."""


@dataclass
class _Sums:
    pixels: dict[str, float] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)


class Consistency:
    """Accumulates over the frames of one video, for several methods at once."""

    def __init__(self) -> None:
        self._flow = OpticalFlow()
        self._before: tuple[npt.NDArray[np.uint8], dict[str, dict[str, npt.NDArray[Any]]], int] | None = None
        self._sums: dict[str, _Sums] = {}
        self.pairs = 0
        """Of frames that were compared."""

    def new_video(self) -> None:
        """What follows has nothing to do with what came before."""
        self._before = None

    def update(
        self, rgb: npt.NDArray[np.uint8], answers: Mapping[str, Mapping[str, npt.NDArray[Any]]], stamp_ns: int
    ) -> None:
        """The next frame.

        Args:
            rgb: its picture (H, W, 3).
            answers: by method and task, all of one size (h, w[, 3]).
            stamp_ns: of the frame.
        """
        size = next(iter(next(iter(answers.values())).values())).shape[:2]
        grey = cv2.cvtColor(cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        now = (grey, {method: dict(by_task) for method, by_task in answers.items()}, stamp_ns)
        before, self._before = self._before, now
        if before is None or before[0].shape != grey.shape or not 0 < stamp_ns - before[2] <= LONGEST_NS:
            return
        back, seen_in_both = self._flow.checked(grey, before[0])
        came_from = places(*grey.shape) + back
        self.pairs += 1
        for method, by_task in answers.items():
            sums = self._sums.setdefault(method, _Sums())
            for task, values in by_task.items():
                if task not in before[1].get(method, {}):
                    continue
                carried = cv2.remap(before[1][method][task], came_from, None, cv2.INTER_NEAREST)
                term = _TERMS[task](values[seen_in_both], carried[seen_in_both])
                term = term[np.isfinite(term)]
                sums.pixels[task] = sums.pixels.get(task, 0.0) + term.size
                sums.values[task] = sums.values.get(task, 0.0) + float(term.sum(dtype=np.float64))

    def compute(self) -> dict[str, dict[str, Any]]:
        """By method: `segmentation_agreement` (share of pixels), `depth_change` (relative), `normals_deg` (means).

        Also `flow`, what they were compared along, and `pairs`, of how many frames.
        """
        return {
            method: {_NAMES[task]: sums.values[task] / sums.pixels[task] for task in sums.values if sums.pixels[task]}
            | {"flow": NAME, "pairs": self.pairs}
            for method, sums in self._sums.items()
        }


def angle_between(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Degrees between unit vectors (..., 3)."""
    return np.degrees(np.arccos(np.clip(_dot(one, other), -1, 1)))


def _dot(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(..., n) twice -> (...). Component by component: NumPy is slow at sums over a short last axis."""
    total = one[..., 0] * other[..., 0]
    for k in range(1, one.shape[-1]):
        total += one[..., k] * other[..., k]
    return total


_NAMES = {"segmentation": "segmentation_agreement", "depth": "depth_change", "normals": "normals_deg"}
_TERMS = {
    "segmentation": lambda one, other: (one == other).astype(np.float32),
    "depth": lambda one, other: np.abs(one - other) / np.maximum(other, 1e-3),
    "normals": angle_between,
}
