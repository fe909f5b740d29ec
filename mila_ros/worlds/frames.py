"""A frame of a camera with whatever ground truth exists for it: what every world hands out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IGNORE = 255
"""Label of a pixel without a class: left out of training and of every metric."""


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera after rectification: focal lengths and principal point in pixels of a width x height image."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def scaled(self, width: int, height: int) -> Intrinsics:
        """The same camera with its picture resized to width x height pixels (pixel centres at +0.5)."""
        sx, sy = width / self.width, height / self.height
        return Intrinsics(
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
            width=width,
            height=height,
        )


@dataclass(frozen=True)
class Frame:
    """One picture and its ground truth; what is not known is None.

    Axes are those of a camera's optical frame (REP 103): x right, y down, z forward.
    """

    rgb: npt.NDArray[np.uint8]
    """(H, W, 3), RGB."""
    intrinsics: Intrinsics
    depth: npt.NDArray[np.float32] | None = None
    """(H, W), metres along the optical axis; NaN where unknown (REP 118)."""
    labels: npt.NDArray[np.uint8] | None = None
    """(H, W), class ids; IGNORE where there is none."""
    assumed_depth: npt.NDArray[np.float32] | None = None
    """(H, W), metres, a guess: only to make the view of a moved camera where depth is not known."""
    normals: npt.NDArray[np.float32] | None = None
    """(H, W, 3), unit vectors that face the camera; NaN where unknown."""
    pose: npt.NDArray[np.float64] | None = None
    """(4, 4), camera to world."""
    stamp_ns: int | None = None
    name: str = ""
    """Where it comes from: a file's stem, a bag's stamp; for messages."""
