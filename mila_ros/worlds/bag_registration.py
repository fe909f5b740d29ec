"""Depth of a camera beside the colour camera, brought into the colour camera's view.

RGB-D cameras record depth from where the depth sensor is. Where its camera_info and the static transforms (/tf_static)
between both optical frames are in the recording, each reading is put where the colour camera would have seen it
(REP 118; what depth_image_proc/register does live). Nothing is made up: pixels that no reading falls on stay unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mila_ros.worlds.frames import Intrinsics

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Registration:
    """From one camera's depth pictures to another's view.

    Args:
        depth: the depth camera.
        pose: (4, 4), from the depth camera's optical frame to the colour camera's.
    """

    depth: Intrinsics
    pose: Matrix

    def apply(self, metres: npt.NDArray[np.float32], color: Intrinsics) -> npt.NDArray[np.float32]:
        """Depth (h, w) of the depth camera -> (H, W) of the colour camera; NaN where nothing is known.

        The nearest surface wins. A reading covers as many pixels of the colour picture as its own pixel is wide there,
        up to two.
        """
        camera = self.depth.scaled(metres.shape[1], metres.shape[0])
        known = np.isfinite(metres) & (metres > 0)
        z = np.where(known, metres, 0.0).astype(np.float64)
        across = (np.arange(camera.width) - camera.cx) / camera.fx
        down = ((np.arange(camera.height) - camera.cy) / camera.fy)[:, None]
        x, y, z = ((a * across + b * down + c) * z + t for a, b, c, t in self.pose[:3])
        front = (z > 1e-3) & known
        x, y, z = x[front], y[front], z[front]
        u, v = color.fx * (x / z) + color.cx, color.fy * (y / z) + color.cy
        found = np.full(color.height * color.width, np.inf)
        wide = color.fx / camera.fx > 1.05 or color.fy / camera.fy > 1.05
        for du, dv in ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)) if wide else ((0.0, 0.0),):
            column, row = np.rint(u + du).astype(np.int64), np.rint(v + dv).astype(np.int64)
            inside = (column >= 0) & (column < color.width) & (row >= 0) & (row < color.height)
            np.minimum.at(found, row[inside] * color.width + column[inside], z[inside])
        found[~np.isfinite(found)] = np.nan
        return found.reshape(color.height, color.width).astype(np.float32)


def chain(transforms: Iterable[Any], target: str, source: str) -> Matrix | None:
    """(4, 4) from `source` to `target` through static transforms; None where they are not connected.

    transforms: geometry_msgs/TransformStamped, each from its child frame to its parent.
    """
    steps: dict[str, dict[str, Matrix]] = {}
    for stamped in transforms:
        parent, child = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
        matrix = _matrix(stamped.transform)
        if matrix is not None:
            steps.setdefault(child, {})[parent] = matrix
            steps.setdefault(parent, {})[child] = np.linalg.inv(matrix)
    target, source = target.lstrip("/"), source.lstrip("/")
    reached: dict[str, Matrix] = {source: np.eye(4)}
    waiting = deque([source])
    while waiting:
        frame = waiting.popleft()
        if frame == target:
            return reached[frame]
        for other, step in steps.get(frame, {}).items():
            if other not in reached:
                reached[other] = step @ reached[frame]
                waiting.append(other)
    return None


def _matrix(transform: Any) -> Matrix | None:
    """(4, 4) of a geometry_msgs/Transform; None where its rotation is none."""
    q, t = transform.rotation, transform.translation
    x, y, z, w = (float(value) for value in (q.x, q.y, q.z, q.w))
    norm = np.sqrt(x * x + y * y + z * z + w * w)
    if not np.isfinite(norm) or norm < 1e-6:
        return None
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = [float(t.x), float(t.y), float(t.z)]
    return matrix
