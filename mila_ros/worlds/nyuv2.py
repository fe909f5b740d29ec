"""NYU Depth v2, labelled frames, as a folder of pictures.

    rgb/NNNN.jpg      640 x 480 (or png)
    depth8/NNNN.png   8 bit, in-filled depth: metres = (value + 0.5) * 9.99547 / 255
    label40/NNNN.png  8 bit, NYU-40 ids from 0; 255 unlabelled

Source: Silberman et al., "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012; the 40 classes are
those of Gupta et al., CVPR 2013. Normals are not part of it: they are fitted to the depth (geometry.py).

Own pictures in the same layout may bring two files of their own: `camera.yaml` (fx, fy, cx, cy, width, height, in
pixels; without it: the Kinect's) and `validation.txt` (names that are not trained on; without it: those of NYUv2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mila_ros.errors import UserError
from mila_ros.paths import config_path
from mila_ros.worlds.frames import Frame, Intrinsics
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

KINECT = Intrinsics(fx=518.86, fy=519.47, cx=325.58, cy=253.74, width=640, height=480)
DEPTH_UNIT = 9.99547 / 255
LAYOUT = "expected FOLDER/rgb/NNNN.jpg, FOLDER/depth8/NNNN.png and FOLDER/label40/NNNN.png"


SPLITS = ("train", "validation", "held-out", "all")


def held_out_names(folder: Path | None = None) -> dict[str, bool]:
    """Frames that are never trained on, and whether each is judged (`-NAME`: it is not).

    Args:
        folder: whose `validation.txt` is read if it has one; otherwise config/splits/nyuv2_validation.txt.
    """
    own = None if folder is None else folder / "validation.txt"
    return held_out_of(own if own is not None and own.is_file() else config_path("splits/nyuv2_validation.txt"))


class NyuV2(World):
    """Frames of the folder in the order of their names.

    Args:
        folder: see the module's docstring for its layout.
        split: "train", "validation" (held-out frames, at most 8 of a room), "held-out" (all of these) or "all".
        classes: names of the labels, if they are others than NYU-40's.

    Raises:
        UserError: the folder or a file of it is missing or damaged.
    """

    label_set = "nyu40"
    tasks = ("segmentation", "depth", "normals")

    def __init__(self, folder: str | Path, split: str = "all", classes: Sequence[str] = ()) -> None:
        self.folder = Path(folder).expanduser()
        self.classes = tuple(classes) or load_labels(self.label_set).classes
        if not (self.folder / "rgb").is_dir():
            raise UserError(f"{self.folder} is not an NYUv2 folder: it has no rgb/; {LAYOUT}")
        pictures = picture_files(self.folder / "rgb")
        if split != "all":
            if split not in SPLITS:
                raise UserError(f'split must be one of {", ".join(SPLITS)}; got "{split}"')
            held_out = held_out_names(self.folder)
            if (own := self.folder / "validation.txt").is_file():
                check_held_out(held_out, pictures, own)
            pictures = of_split(pictures, held_out, split)
        if not pictures:
            raise NoFramesError(
                f"{self.folder}/rgb has no pictures of the split {split} (list names to hold out in its "
                f"validation.txt); {LAYOUT}"
            )
        self.camera = read_camera(self.folder, KINECT)
        self.pictures = pictures
        self.names = list(pictures)
        for name in self.names:
            for kind in ("depth8", "label40"):
                path = self.folder / kind / f"{name}.png"
                if not path.is_file():
                    raise UserError(f"{path} is missing beside {self.pictures[name]}; {LAYOUT}")

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        name = self.names[index]
        rgb = read_picture(self.pictures[name])
        raw = read_bytes(self.folder / "depth8" / f"{name}.png", rgb.shape[:2])
        labels = read_bytes(self.folder / "label40" / f"{name}.png", rgb.shape[:2])
        check_labels(labels, len(self.classes), self.folder / "label40" / f"{name}.png")
        depth = ((raw.astype(np.float32) + 0.5) * DEPTH_UNIT).astype(np.float32)
        intrinsics = camera_of(self.camera, rgb.shape, self.folder)
        return Frame(
            rgb=rgb,
            intrinsics=intrinsics,
            depth=depth,
            labels=labels,
            normals=fitted_normals(depth, intrinsics),
            name=name,
        )
