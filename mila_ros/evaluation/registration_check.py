"""Whether a recording's depth lies where its picture says: edges of depth should be edges of the picture.

Recordings name depth "aligned" that is not, or carry another camera's calibration; every number made of them is then
off, and nothing tells. The depth's edges are laid over the picture's at a range of scales and shifts; where they meet
much better than as recorded, the recording is at fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mila_ros.camera_info import CameraInfoError
from mila_ros.worlds.bags import Bag, BagTruncated
from mila_ros.worlds.frames import Intrinsics

_WIDTH = 320
"""Of the pictures in which is looked."""
_SCALES = tuple(round(0.84 + 0.02 * step, 2) for step in range(17))
_REACH = 0.05
"""Largest shift, as a share of the width."""
_STEP = 0.2
"""Of log depth over four pixels that is an edge."""
_FRAMES = 24
_PAIRS = 1800
_FEWEST = 6
_BETTER = 1.35
"""How much more of the picture's edges must lie under the depth's than as recorded."""
_TELLING = 1.3
"""And than under pixels chosen blindly."""
_SMALL_SCALE, _SMALL_SHIFT = 0.03, 0.012
"""Below both it is a matter of calibration, not of another camera; shift as a share of the width."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Misregistration:
    """How depth must be moved to lie on the picture."""

    scale: float
    """About the picture's middle."""
    shift: tuple[float, float]
    """Columns and rows, in pixels of the picture."""
    better: float
    """By which factor edges meet more often than as recorded."""

    def sentence(self, camera: Intrinsics) -> str:
        """What is wrong, and what to do; camera: that of camera_info."""
        moved = f"moved by {self.shift[0]:.0f}, {self.shift[1]:.0f} pixels"
        middle = ((camera.width - 1) / 2, (camera.height - 1) / 2)
        cx, cy = (
            self.scale * (own - half) + half + by
            for own, half, by in zip((camera.cx, camera.cy), middle, self.shift, strict=True)
        )
        color = f"{camera.fx * self.scale:.0f},{camera.fy * self.scale:.0f},{cx:.0f},{cy:.0f}"
        depth = f"{camera.fx:.0f},{camera.fy:.0f},{camera.cx:.0f},{camera.cy:.0f}"
        return (
            f"Depth does not lie on the picture: its edges meet the picture's {self.better:.1f} times as often when it "
            f"is scaled by {self.scale:.2f} about the middle and {moved}. It is not registered to this camera, and is "
            "judged as recorded: errors of depth and normals are too large. If camera_info is the depth camera's, "
            f"`mila evaluate --camera {color} --depth-camera {depth}` puts it right."
        )


class RegistrationCheck:
    """Looks at some of a recording's frames.

    Args:
        expected: frames in the recording, of which a few are looked at, evenly.
    """

    def __init__(self, expected: int) -> None:
        self._every = max(1, expected // _FRAMES)
        self._number = self._used = 0
        self._width = 0
        self._size: tuple[int, int] | None = None
        self._sums: dict[float, Array] = {}

    def update(self, rgb: npt.NDArray[np.uint8], depth: npt.NDArray[np.float32] | None) -> None:
        """The next frame: picture (H, W, 3) and metres (H, W), NaN or 0 where unknown, of any equal aspect."""
        self._number += 1
        if depth is None or (self._number - 1) % self._every or self._used >= _FRAMES:
            return
        size = (_WIDTH, round(_WIDTH * rgb.shape[0] / rgb.shape[1]))
        if self._size not in (None, size):
            return  # of another shape: sums of both would mean nothing
        self._size, self._width = size, rgb.shape[1]
        picture, edges = _picture_edges(rgb, size), _depth_edges(depth, size)
        if edges.sum() < 200:
            return  # a bare wall says nothing
        self._used += 1
        reach = round(_REACH * _WIDTH)
        middle = ((size[0] - 1) / 2, (size[1] - 1) / 2)
        for scale in _SCALES:
            matrix = np.float32([[scale, 0, middle[0] * (1 - scale)], [0, scale, middle[1] * (1 - scale)]])
            moved = cv2.warpAffine(edges, matrix, size)
            inner = moved[reach:-reach, reach:-reach]
            # Mean picture edge under the depth's edges, for every shift at once.
            surface = cv2.matchTemplate(picture, inner, cv2.TM_CCORR) / max(float(inner.sum()), 1.0)
            self._sums[scale] = self._sums.get(scale, np.zeros_like(surface)) + surface

    def compute(self) -> Misregistration | None:
        """What is wrong; None: nothing, or too little was seen to tell."""
        if self._used < _FEWEST:
            return None
        reach = round(_REACH * _WIDTH)
        here = self._sums[1.0] / self._used
        recorded = float(here[reach - 1 : reach + 2, reach - 1 : reach + 2].max())
        scale = max(self._sums, key=lambda s: float(self._sums[s].max()))
        surface = self._sums[scale] / self._used
        row, column = np.unravel_index(int(surface.argmax()), surface.shape)
        best, pixels = float(surface[row, column]), self._width / _WIDTH
        # A template found to the right lies to the right: the depth must go there.
        shift = (float(column - reach) * pixels, float(row - reach) * pixels)
        small = abs(scale - 1) < _SMALL_SCALE and max(map(abs, shift)) < _SMALL_SHIFT * self._width
        if small or best < _TELLING or best < _BETTER * recorded:
            return None
        return Misregistration(scale, shift, best / recorded)


def check_recording(bag: Bag) -> str | None:
    """A sentence if the depth of a recording, of its first minute or so, does not lie on its pictures."""
    if not bag.truth_count:
        return None
    every = max(1, min(bag.truth_count, _PAIRS) // _FRAMES)
    check, number = RegistrationCheck(_FRAMES), 0
    camera: Intrinsics | None = None
    try:
        for message, partners in bag.pairs():
            if "depth" not in partners:
                continue
            frame = bag.frame(message, partners) if number % every == 0 else None
            if frame is not None:
                check.update(frame.rgb, frame.depth)
                camera = frame.intrinsics
            number += 1
            if number >= _PAIRS:
                break
    except (BagTruncated, CameraInfoError):
        pass  # the bag tells of it itself; of another shape of pictures whoever replays it does
    found = check.compute()
    return None if found is None or camera is None else found.sentence(camera)


def _picture_edges(rgb: npt.NDArray[np.uint8], size: tuple[int, int]) -> Array:
    """Strength of edges, mean 1, strong ones held down so that one bright window does not decide."""
    grey = cv2.cvtColor(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    slope = np.minimum(slope, np.float32(np.percentile(slope, 97)))
    blurred = cv2.GaussianBlur(slope, (0, 0), 1.2)
    return np.asarray(blurred / max(float(blurred.mean()), 1e-6), np.float32)


def _depth_edges(depth: npt.NDArray[np.float32], size: tuple[int, int]) -> Array:
    """1 where depth jumps between known pixels, else 0."""
    metres = cv2.resize(np.nan_to_num(depth), size, interpolation=cv2.INTER_NEAREST)
    known = cv2.erode((metres > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    logarithm = np.log(np.maximum(metres, 0.05))
    across, down = (cv2.Sobel(logarithm, cv2.CV_32F, *order) / 4 for order in ((1, 0), (0, 1)))
    return np.asarray((np.hypot(across, down) > _STEP / 2) & known, np.float32)
