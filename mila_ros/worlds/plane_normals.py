"""Surface normals of a depth picture, by fitting a plane around each pixel."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mila_ros.worlds.frames import Intrinsics

_NEAREST = 1e-3
"""Metres; what is nearer was not measured."""
_KNOWN_SHARE = 0.25
"""Of the window's pixels."""


def fitted_normals(
    depth: npt.NDArray[np.float32],
    intrinsics: Intrinsics,
    window: int = 21,
    tolerance: float = 0.03,
    size: tuple[int, int] | None = None,
) -> npt.NDArray[np.float32]:
    """Normals by fitting a plane to inverse depth around each pixel.

    On a plane, 1/z is linear in pixel coordinates: 1/z = a x + b y + c with (x, y, 1) the pixel's ray, and (a, b, c)
    is along the normal. Neighbours are weighted equally over the window, what lies beyond the picture not at all; where
    the fit misses the centre's depth or the window's depths by more than `tolerance` (relative), an edge runs through
    the window and there is no answer. Sums over windows are OpenCV's box filter's, whose cost does not grow with them.

    Args:
        depth: (H, W), metres; NaN or <= 0 where unknown.
        intrinsics: of this picture.
        window: side of the fitted square in pixels, odd.
        tolerance: largest relative root-mean-square misfit.
        size: (h, w), to answer for the nearest pixels of such a picture alone, which is faster; None: for all.

    Returns:
        (h, w, 3), float32: unit vectors in the optical frame that face the camera; NaN where no plane fits.
    """
    height, width = depth.shape
    known = np.isfinite(depth) & (depth > _NEAREST)
    weight = known.astype(np.float64)
    inverse = np.zeros_like(weight)
    np.divide(1.0, depth, out=inverse, where=known)
    x = (np.arange(width) - intrinsics.cx) / intrinsics.fx
    y = ((np.arange(height) - intrinsics.cy) / intrinsics.fy)[:, None]
    chosen = ... if size is None or size == depth.shape else np.ix_(_nearest(size[0], height), _nearest(size[1], width))

    def total(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # In double precision, or running sums would cancel.
        square, outside = (window, window), cv2.BORDER_CONSTANT
        return cv2.boxFilter(values, cv2.CV_64F, square, normalize=False, borderType=outside)[chosen]

    count = total(weight)
    share = 1.0 / np.maximum(count, 1.0)
    wx, wy, zx, zy = weight * x, weight * y, inverse * x, inverse * y
    # Centred moments: better conditioned than the raw normal equations.
    mx, my, mz = total(wx) * share, total(wy) * share, total(inverse) * share
    cxx = total(wx * x) * share - mx * mx
    cxy = total(wx * y) * share - mx * my
    cyy = total(wy * y) * share - my * my
    czx, czy = total(zx) * share - mz * mx, total(zy) * share - mz * my
    czz = total(inverse * inverse) * share - mz * mz
    scale = 1.0 / np.maximum(cxx * cyy - cxy * cxy, 1e-18)
    a = (czx * cyy - czy * cxy) * scale
    b = (czy * cxx - czx * cxy) * scale
    c = mz - a * mx - b * my
    rows, columns = np.broadcast_to(y, depth.shape)[chosen], np.broadcast_to(x, depth.shape)[chosen]
    at_centre, inverse = a * columns + b * rows + c, inverse[chosen]
    valid = known[chosen] & (count > _KNOWN_SHARE * window * window)
    valid &= np.sqrt(np.maximum(czz - a * czx - b * czy, 0.0)) < tolerance * np.maximum(mz, 1e-6)
    valid &= np.abs(at_centre - inverse) < 2 * tolerance * np.maximum(inverse, 1e-6)
    valid &= at_centre > 0  # a surface seen from behind cannot be seen: such a fit is an artefact
    towards = np.where(valid, -1.0 / np.maximum(np.sqrt(a * a + b * b + c * c), 1e-12), np.nan)
    return np.stack([a * towards, b * towards, c * towards], axis=-1).astype(np.float32)


def _nearest(wanted: int, there: int) -> npt.NDArray[np.int64]:
    """Which of a line's pixels remain where a picture is resized by the nearest one."""
    line = np.arange(there, dtype=np.float32)[None]
    return cv2.resize(line, (wanted, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0].astype(np.int64)
