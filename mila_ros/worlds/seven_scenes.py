"""A sequence of 7-Scenes as it is published -> a recording.

    frame-000000.color.png   640 x 480
    frame-000000.depth.png   16 bit, millimetres, 65535 unknown, as the depth camera sees it
    frame-000000.pose.txt    4 x 4, camera to world (not needed)

Source: Shotton et al., "Scene Coordinate Regression Forests for Camera Relocalization in RGB-D Images", CVPR 2013.
Neither camera was calibrated. For the depth camera the authors give 585 pixels; both pictures do not lie on each other,
and COLOR is what fits best in one sequence, by how edges of depth lie on those of pictures, both cameras assumed in one
place.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.frames import Frame, Intrinsics
from mila_ros.worlds.leftovers import whole_or_nothing
from mila_ros.worlds.rendered_bag import FRAME_ID, Form, transform, write_frame, write_millimetres
from mila_ros.worlds.world import read_picture

DEPTH = Intrinsics(fx=585.0, fy=585.0, cx=320.0, cy=240.0, width=640, height=480)
COLOR = Intrinsics(fx=526.0, fy=526.0, cx=312.0, cy=240.0, width=640, height=480)
DEPTH_TOPIC = "/camera/depth/image_rect"
DEPTH_INFO = "/camera/depth/camera_info"
DEPTH_FRAME_ID = "camera_depth_optical_frame"
_RATE = 30.0
_START_NS = 1_000_000_000
_UNKNOWN = 65535
_LAYOUT = "expected frame-NNNNNN.color.png and frame-NNNNNN.depth.png, as in a sequence of 7-Scenes (seq-01, ...)"


def record(folder: Path, out: Path, quality: int = 95) -> int:
    """Writes pictures (JPEG), depth, both cameras' camera_info and the transform between them; how many frames.

    Raises:
        UserError: no sequence, a picture is missing or damaged, or `out` exists.
    """
    names = sorted(path.name.removesuffix(".color.png") for path in folder.glob("frame-*.color.png"))
    if not names:
        raise UserError(f"{folder} has no frame-*.color.png; {_LAYOUT}")
    for name in names:
        if not (folder / f"{name}.depth.png").is_file():
            raise UserError(f"{folder / name}.depth.png is missing; {_LAYOUT}")
    form = Form(quality=quality)
    bag = BagWriter(out)
    with whole_or_nothing(out), bag:
        bag.add_topic("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
        apart = transform(bag, np.eye(4), _START_NS, FRAME_ID, DEPTH_FRAME_ID)
        bag.write_message("/tf_static", apart, _START_NS)
        for number, name in enumerate(tqdm(names, "7-Scenes", unit="frame")):
            stamp = _START_NS + round(number * 1e9 / _RATE)
            rgb = np.ascontiguousarray(read_picture(folder / f"{name}.color.png"))
            _check(rgb, (DEPTH.height, DEPTH.width, 3), np.uint8, folder / f"{name}.color.png")
            write_frame(bag, Frame(rgb=rgb, intrinsics=COLOR, stamp_ns=stamp), form, truth=False)
            depth = read_picture(folder / f"{name}.depth.png", cv2.IMREAD_UNCHANGED)
            _check(depth, (DEPTH.height, DEPTH.width), np.uint16, folder / f"{name}.depth.png")
            millimetres = np.where(depth == _UNKNOWN, 0, depth).astype(np.uint16)
            write_millimetres(bag, DEPTH_TOPIC, millimetres, stamp, DEPTH_FRAME_ID)
            bag.write_message(DEPTH_INFO, bag.messages.camera_info(DEPTH, stamp, DEPTH_FRAME_ID), stamp)
    return len(names)


def _check(pixels: npt.NDArray[np.generic], shape: tuple[int, ...], kind: type, path: Path) -> None:
    if pixels.shape != shape or pixels.dtype != kind:
        raise UserError(f"{path} is {pixels.shape}, {pixels.dtype}; expected {shape}, {np.dtype(kind)}; {_LAYOUT}")
