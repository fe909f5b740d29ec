"""Pictures for people: class colours over the camera's picture, depth as colours, normals as colours."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]

IGNORED = 255
_GOLDEN = 0.618033988749895  # steps of the golden ratio never come near a hue they had


def colour_table(palette: Sequence[Sequence[int]], classes: int) -> Rgb:
    """(256, 3) RGB by class id; ids without a class are black. A missing palette is made up, each class its own hue."""
    table = np.zeros((256, 3), np.uint8)
    if len(palette) >= classes > 0:
        table[: len(palette)] = np.asarray(palette, np.uint8)
    else:
        for i in range(classes):
            rgb = colorsys.hsv_to_rgb((i * _GOLDEN) % 1.0, 0.55 + 0.4 * (i % 2), 0.95 - 0.3 * (i % 3) / 2)
            table[i] = [round(255 * value) for value in rgb]
    table[IGNORED] = 0
    return table


def segmentation_view(ids: npt.NDArray[np.uint8], table: Rgb, rgb: Rgb, opacity: float) -> Rgb:
    """Class colours (h, w) laid over the camera's picture (any size), (h, w, 3); unlabelled pixels show the picture."""
    height, width = ids.shape
    picture = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    blended = cv2.addWeighted(table[ids], opacity, picture, 1.0 - opacity, 0.0)
    unlabelled = ids == IGNORED
    if unlabelled.any():
        blended[unlabelled] = picture[unlabelled]
    return np.asarray(blended, dtype=np.uint8)


def depth_view(depth: npt.NDArray[np.float32], max_depth: float) -> Rgb:
    """Turbo colours, red near and blue at `max_depth` metres and beyond, black unknown: (h, w) -> (h, w, 3)."""
    known = np.isfinite(depth) & (depth > 0)
    near = 1.0 - np.clip(np.where(known, depth, max_depth) / max_depth, 0.0, 1.0)
    coloured = cv2.cvtColor(cv2.applyColorMap((near * 255).astype(np.uint8), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    coloured[~known] = 0
    return np.asarray(coloured, dtype=np.uint8)


def normals_view(normals: npt.NDArray[np.float32]) -> Rgb:
    """(n + 1) / 2 as red, green, blue: (h, w, 3) -> same. Optical frame: x right, y down, z forward."""
    return np.asarray(cv2.convertScaleAbs(normals + np.float32(1.0), alpha=127.5), dtype=np.uint8)
