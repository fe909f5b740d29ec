"""Optical flow by OpenCV's DIS (Kroeger et al., ECCV 2016), and where it can be trusted."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

NAME = "OpenCV DIS, preset medium, forward-backward checked"


class OpticalFlow:
    """Flow between grey pictures of one size. For one thread."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def between(self, now: npt.NDArray[np.uint8], before: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(h, w, 2), columns and rows: from each pixel to where it was in the picture before."""
        found: npt.NDArray[np.float32] = self._dis.calc(now, before, None)
        return found

    def checked(
        self, now: npt.NDArray[np.uint8], before: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """The same, and (h, w) whether a pixel was seen before: back and forth lead home (Sundaram, ECCV 2010)."""
        back, forth = self.between(now, before), self.between(before, now)
        height, width = now.shape
        came_from = places(height, width) + back
        returned = cv2.remap(forth, came_from, None, cv2.INTER_LINEAR)
        x, y = came_from[..., 0], came_from[..., 1]
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        gap = squared(back + returned)
        room = 0.01 * (squared(back) + squared(returned)) + 0.5
        return back, inside & (gap < room)


def grey(images: Tensor, size: tuple[int, int] | None = None) -> list[npt.NDArray[np.uint8]]:
    """(B, 3, H, W), RGB in 0..1 -> B grey pictures, shrunk to `size` (h, w) where that is given."""
    rgb = (images.permute(0, 2, 3, 1).float().cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8)
    pictures = rgb if size is None else [cv2.resize(each, size[::-1], interpolation=cv2.INTER_AREA) for each in rgb]
    return [np.asarray(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), dtype=np.uint8) for each in pictures]


def places(height: int, width: int) -> npt.NDArray[np.float32]:
    """(h, w, 2): column and row of each pixel."""
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([columns, rows], axis=-1)


def squared(flow: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(h, w, 2) -> (h, w), squared length."""
    length: npt.NDArray[Any] = flow[..., 0] ** 2 + flow[..., 1] ** 2
    return length
