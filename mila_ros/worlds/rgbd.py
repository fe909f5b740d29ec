"""Frames of any RGB-D camera, as a folder of pictures.

    camera.yaml          fx, fy, cx, cy, width, height, in pixels
    rgb/NAME.jpg         (or png)
    depth/NAME.png       16 bit, millimetres, 0 unknown; aligned to the colour camera (REP 118)
    labels/NAME.png      8 bit, optional: class ids, 255 unlabelled
    validation.txt       optional: names to judge by and never to train on (-NAME: neither)

Normals are fitted to depth. Frames are taken for stills.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mila_ros.errors import UserError
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.plane_normals import fitted_normals
from mila_ros.worlds.world import (
    NoFramesError,
    World,
    camera_of,
    check_held_out,
    check_labels,
    held_out_of,
    of_split,
    picture_files,
    read_bytes,
    read_camera,
    read_picture,
)

_LAYOUT = "expected FOLDER/camera.yaml, FOLDER/rgb/NAME.jpg (or png) and FOLDER/depth/NAME.png"


class RgbdFolder(World):
    """Frames of the folder in the order of their names.

    Args:
        folder: see the module's docstring for its layout.
        split: "train", "validation" or "all".
        classes: names of the labels, if they are others than NYU-40's.

    Raises:
        UserError: the folder or a file of it is missing.
    """

    label_set = "nyu40"
    any_classes = True

    def __init__(self, folder: Path, split: str = "all", classes: Sequence[str] = ()) -> None:
        self.folder = folder
        self.classes = tuple(classes) or load_labels(self.label_set).classes
        if not (folder / "rgb").is_dir() or not (folder / "depth").is_dir():
            raise UserError(f"{folder} is not a folder of RGB-D frames: {_LAYOUT}")
        camera = read_camera(folder, None)
        if camera is None:
            raise UserError(f"{folder}/camera.yaml is missing: depth in metres needs the focal length; {_LAYOUT}")
        self.camera = camera
        if split not in ("train", "validation", "all"):
            raise NoFramesError(f'a folder of frames has the splits train, validation and all, not "{split}"')
        listed = folder / "validation.txt"
        held_out = held_out_of(listed) if listed.is_file() else {}
        pictures = picture_files(folder / "rgb")
        check_held_out(held_out, pictures, listed)
        self._pictures = of_split(pictures, held_out, split)
        if not self._pictures:
            raise NoFramesError(f"{folder} has no pictures of the split {split} (names in validation.txt); {_LAYOUT}")
        self.names = list(self._pictures)
        labelled = (folder / "labels").is_dir()
        self.tasks = ("segmentation", "depth", "normals") if labelled else ("depth", "normals")
        for name in self.names:
            for kind in ("depth", "labels") if labelled else ("depth",):
                if not (folder / kind / f"{name}.png").is_file():
                    raise UserError(f"{folder / kind / name}.png is missing beside {self._pictures[name]}; {_LAYOUT}")

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        name = self.names[index]
        rgb = np.ascontiguousarray(read_picture(self._pictures[name]))
        size = rgb.shape[:2]
        path = self.folder / "depth" / f"{name}.png"
        raw = read_picture(path, cv2.IMREAD_UNCHANGED)
        if raw.dtype != np.uint16 or raw.shape != size:
            raise UserError(
                f"{path}: expected 16 bit, {size[1]}x{size[0]} like its picture; it is {raw.dtype}, {raw.shape}"
            )
        depth = (raw / 1000).astype(np.float32)
        labels = None
        if "segmentation" in self.tasks and self.reads_labels:
            path = self.folder / "labels" / f"{name}.png"
            labels = read_bytes(path, size)
            check_labels(labels, len(self.classes), path)
        camera = camera_of(self.camera, size, self.folder)
        normals = fitted_normals(depth, camera)
        depth[raw == 0] = np.nan
        return Frame(rgb=rgb, intrinsics=camera, depth=depth, labels=labels, normals=normals, name=name)
