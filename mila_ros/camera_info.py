"""What a CameraInfo says about the pictures that come with it: their focal length, cut and scaled as they are.

Works on any object with the fields of sensor_msgs/CameraInfo: a live rclpy message, one read from a bag by rosbags,
or a plain namespace in a test. image_geometry's PinholeCameraModel is not on PyPI, and knows neither pictures that
were resized after calibration nor what is wrong with a message.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mila_ros.encoded import ImageError


class CameraInfoError(ImageError):
    """The CameraInfo cannot be used; its text says why and what to do."""


class Window(NamedTuple):
    """Which part of a camera's full picture is shown, and how large: u = (u_full + 0.5 - x) * sx - 0.5."""

    x: int
    y: int
    sx: float
    sy: float
    width: int
    height: int

    def intrinsics(self, fx: float, fy: float, cx: float, cy: float) -> tuple[float, float, float, float]:
        """Of the picture, from those of the full one."""
        return fx * self.sx, fy * self.sy, (cx + 0.5 - self.x) * self.sx - 0.5, (cy + 0.5 - self.y) * self.sy - 0.5


def window(msg: Any, size: tuple[int, int] | None = None) -> Window:
    """What pictures of `size` (height, width) show of the camera that a CameraInfo describes.

    K and P are for the full resolution, whatever region of interest and binning the driver has set (sensor_msgs,
    CameraInfo); pictures may be resized on top. Without `size`: as the message itself says.
    Raises CameraInfoError where the pictures have another shape, so cannot be of this camera.
    """
    width, height = int(msg.width), int(msg.height)
    if size is not None and (width <= 0 or height <= 0):
        height, width = size
    if width <= 0 or height <= 0:
        raise CameraInfoError(f"camera_info gives a picture size of {width}x{height}; fill in width and height")
    x, y, w, h, region = 0, 0, width, height, ""
    roi = getattr(msg, "roi", None)
    if roi is not None and roi.width > 0 and roi.height > 0 and size != (height, width):
        x, y, w, h = int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)
        region = f" (the region of interest of a {width}x{height} camera)"
        if x + w > width or y + h > height:
            raise CameraInfoError(f"camera_info's region of interest, {w}x{h} at {x}, {y}, leaves {width}x{height}")
    if size is None:
        size = (h // max(1, getattr(msg, "binning_y", 1)), w // max(1, getattr(msg, "binning_x", 1)))
    if size == (h, w):
        return Window(x, y, 1.0, 1.0, w, h)
    sx, sy = size[1] / w, size[0] / h
    if not 0.98 < sx / sy < 1.02 and not _binned(msg, w, h, size):
        raise CameraInfoError(
            f"camera_info is for pictures of {w}x{h}{region}, but they are {size[1]}x{size[0]}: another "
            "shape, so cropped or from another camera; publish the camera_info that belongs to them"
        )
    return Window(x, y, sx, sy, size[1], size[0])


def _binned(msg: Any, width: int, height: int, size: tuple[int, int]) -> bool:
    """Whether a picture has another shape because pixels were joined in one direction more than in the other."""
    bx, by = max(1, getattr(msg, "binning_x", 1)), max(1, getattr(msg, "binning_y", 1))
    return bx != by and abs(size[1] - width / bx) <= 1 and abs(size[0] - height / by) <= 1


def intrinsics(
    msg: Any, size: tuple[int, int] | None = None, rectified: bool = False
) -> tuple[float, float, float, float, int, int]:
    """(fx, fy, cx, cy, width, height) in pixels of the pictures that a CameraInfo came with.

    From K, or from P, the camera of the rectified picture; from the other one where the first is not filled in.
    size: (height, width) of the pictures, when they may be scaled or cut (see `window`).
    Raises CameraInfoError where there is no usable focal length, or where the pictures have another shape.
    """
    shown = window(msg, size)
    width, height = int(msg.width) or shown.width, int(msg.height) or shown.height
    k = np.asarray(getattr(msg, "k", getattr(msg, "K", ())), dtype=np.float64).reshape(-1)
    p = np.asarray(getattr(msg, "p", getattr(msg, "P", ())), dtype=np.float64).reshape(-1)
    wanted = {"K": k[[0, 4, 2, 5]] if k.size == 9 else k[:0], "P": p[[0, 5, 2, 6]] if p.size == 12 else p[:0]}
    problems = {}
    for name in ("P", "K") if rectified else ("K", "P"):
        problem = _focal_problem(wanted[name], width, height)
        if problem is None:
            fx, fy, cx, cy = (float(value) for value in wanted[name])
            return *shown.intrinsics(fx, fy, cx, cy), shown.width, shown.height
        problems[name] = f"{name} {problem}"
    raise CameraInfoError(
        f"camera_info is not usable: {problems['K']}; {problems['P']}. Calibrate the camera or fill in K"
    )


def is_rectified(topic: str) -> bool:
    """Whether a topic's pictures are rectified, by the names that image_proc and drivers give them.

    image_rect, image_rect_color, rect/image and the like; not where the last part says raw or the like.
    """
    parts = [set(part.split("_")) for part in topic.removesuffix("/compressed").strip("/").split("/")]
    if "raw" in parts[-1]:
        return False
    return any({"rect", "rectified"} & words for words in parts[-2:])


def _focal_problem(values: npt.NDArray[np.float64], width: int, height: int) -> str | None:
    """What is wrong with (fx, fy, cx, cy), in words; None if nothing is."""
    if values.size != 4:
        return "is missing"
    if not np.isfinite(values).all():
        return "holds NaN or infinity"
    fx, fy = float(values[0]), float(values[1])
    if fx == 0 and fy == 0:
        return "is zero (an uncalibrated camera)"
    if fx < 0 or fy < 0 or not (0.05 < fx / width < 100 and 0.05 < fy / height < 100):
        angle = math.degrees(2 * math.atan2(width / 2, fx))
        return f"has fx = {fx:g}, fy = {fy:g} for {width}x{height} pixels: {angle:.3g} degrees of view"
    return None
