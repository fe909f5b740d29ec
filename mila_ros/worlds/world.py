"""Where frames with ground truth come from: one interface for every data set, and one way to name it.

`KIND:FOLDER`, for example `nyuv2:data/nyu` or `bag:recording`. What each folder must hold, the file of that name says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import yaml

from mila_ros.errors import UserError
from mila_ros.worlds.frames import Frame, Intrinsics


class NoFramesError(UserError):
    """There is nothing of the split that was asked for; the data set itself is in order."""


class World(Sequence[Frame]):
    """Frames in order, all of one size, each with whatever ground truth exists."""

    tasks: tuple[str, ...]
    """For which there is ground truth."""
    label_set: str
    """Of the data set whose layout this is (config/labels/NAME.yaml)."""
    classes: tuple[str, ...]
    """Names of its labels: the label set's, unless others were given."""
    names: list[str]
    """Of the frames, for messages."""
    videos: Sequence[range] = ()
    """Indices of frames that follow one another at a camera's rate; frames in none of them are stills."""

    def __init__(self, folder: Path, split: str = "all", classes: Sequence[str] = ()) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        """Decoded anew each time.

        Raises:
            UserError: a file is damaged, or holds what cannot be; names it and says what is expected.
        """
        raise NotImplementedError


def open_world(text: str, split: str = "all", classes: Sequence[str] = ()) -> World:
    """The frames of `KIND:FOLDER`.

    Args:
        text: kind and folder.
        split: a part that the data set knows; "all"; or "train" and "validation" for the two parts of every data set.
        classes: names of the labels, where they are not those of the data set that the layout comes from.

    Raises:
        UserError: an unknown kind or split, or the folder is not as expected.
    """
    kind, _, folder = text.partition(":")
    known = kinds()
    if kind not in known or not folder:
        raise UserError(f'data "{text}": expected KIND:FOLDER, the kind one of {", ".join(known)}')
    return known[kind](Path(folder).expanduser(), split, classes)


def kinds() -> dict[str, type[World]]:
    """Every data set by the name of its layout; each is made from a folder, a split and names of classes."""
    from mila_ros.worlds.bag_world import BagWorld
    from mila_ros.worlds.camvid import CamVid
    from mila_ros.worlds.cityscapes import Cityscapes
    from mila_ros.worlds.nyuv2 import NyuV2
    from mila_ros.worlds.rgbd import RgbdFolder

    return {"bag": BagWorld, "camvid": CamVid, "cityscapes": Cityscapes, "nyuv2": NyuV2, "rgbd": RgbdFolder}


C = TypeVar("C", Intrinsics, None)


def read_camera(folder: Path, usual: C) -> Intrinsics | C:
    """The camera of `FOLDER/camera.yaml` (fx, fy, cx, cy, width, height in pixels), or the usual one without it.

    Raises:
        UserError: the file holds something else.
    """
    path = folder / "camera.yaml"
    if not path.is_file():
        return usual
    try:
        return Intrinsics(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError) as error:
        raise UserError(f"{path}: expected fx, fy, cx, cy, width and height as numbers: {error}") from error


def read_picture(path: Path, flag: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """A picture file as OpenCV decodes it; colours as RGB.

    Raises:
        UserError: it cannot be decoded.
    """
    picture = cv2.imread(str(path), flag)
    if picture is None:
        raise UserError(f"{path} cannot be read as a picture: it is damaged or half downloaded")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if picture.ndim == 3 else picture


def check_labels(labels: np.ndarray, classes: int, path: Path, unlabelled: int = 255) -> None:
    """Raise UserError where a labelled picture has a value that is no class."""
    wrong = (labels >= classes) & (labels != unlabelled)
    if wrong.any():
        raise UserError(
            f"{path} has the value {int(labels[wrong].max())}: labels must be 0..{classes - 1} or {unlabelled}"
        )
