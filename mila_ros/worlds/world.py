"""Where frames with ground truth come from: one interface for every data set, and one way to name it.

`KIND:FOLDER`, for example `nyuv2:data/nyu` or `bag:recording`. What each folder must hold, the file of that name says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import yaml

from mila_ros.encoded import ImageError, Limit, imdecode
from mila_ros.errors import UserError
from mila_ros.worlds.frames import Frame, Intrinsics
from mila_ros.worlds.labels import load_labels

_SAME_SHAPE = 0.02
"""How far the aspect of pictures may differ from their camera's."""
_MOST_PIXELS = 200_000_000


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

    motion: str = "carried"
    """How its camera moves (motion.MOTIONS), for views that are made from stills."""

    labelled: Sequence[int] | None = None
    """Indices of the frames with ground truth; None: all."""

    any_classes: bool = False
    """Whether the layout says nothing about classes: its labels are whatever network they are for."""
    reads_labels: bool = True
    """Whether labels are wanted; where they are not, they may be of any classes."""

    def __init__(self, folder: Path, split: str = "all", classes: Sequence[str] = ()) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.names)

    def with_truth(self) -> Sequence[Frame]:
        """The frames that have ground truth, still decoded one at a time."""
        return self if self.labelled is None else _Some(self, self.labelled)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        """Decoded anew each time.

        Raises:
            UserError: a file is damaged, or holds what cannot be; names it and says what is expected.
        """
        raise NotImplementedError


class _Some(Sequence[Frame]):
    def __init__(self, world: World, indices: Sequence[int]) -> None:
        self._world, self._indices = world, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        return self._world[self._indices[index]]


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


def open_world_for(text: str, split: str, classes: Sequence[str], tasks: Sequence[str]) -> World:
    """As `open_world`, for a network that knows these classes and tasks.

    Raises:
        UserError: also where the classes are another data set's, or no task has ground truth.
    """
    world = open_world(text, split)
    if not set(tasks) & set(world.tasks):
        raise UserError(f"{text} has ground truth for {list(world.tasks)}, the model answers {list(tasks)}")
    classes = tuple(classes)
    if "segmentation" not in tasks:
        world.reads_labels = False
    if "segmentation" not in tasks or "segmentation" not in world.tasks or world.classes == classes:
        return world
    if world.any_classes:
        return open_world(text, split, classes)
    for kind in kinds().values():
        if classes == load_labels(kind.label_set).classes:
            raise UserError(
                f"the model knows the classes of {kind.label_set} ({', '.join(classes[:3])}, ...), {text} has "
                f"those of {world.label_set} ({', '.join(world.classes[:3])}, ...): choose the model (in training, "
                "`labels`) that belongs to it"
            )
    return open_world(text, split, classes)  # somebody's own classes in a known layout


def kinds() -> dict[str, type[World]]:
    """Every data set by the name of its layout; each is made from a folder, a split and names of classes."""
    from mila_ros.worlds.bag_world import BagWorld
    from mila_ros.worlds.camvid import CamVid
    from mila_ros.worlds.cityscapes import Cityscapes
    from mila_ros.worlds.nyuv2 import NyuV2
    from mila_ros.worlds.rendered_clips import RenderedClips
    from mila_ros.worlds.rgbd import RgbdFolder

    return {
        "bag": BagWorld,
        "camvid": CamVid,
        "cityscapes": Cityscapes,
        "nyuv2": NyuV2,
        "rendered": RenderedClips,
        "rgbd": RgbdFolder,
    }


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
        values = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        # YAML takes 5e2 for a word.
        numbers = {key: int(value) if key in ("width", "height") else float(value) for key, value in values.items()}
        camera = Intrinsics(**numbers)  # type: ignore[arg-type]
        if min(camera.width, camera.height, camera.fx, camera.fy) <= 0:
            raise ValueError("fx, fy, width and height must be above 0")
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected fx, fy, cx, cy, width and height as numbers: {error}") from error
    return camera


def camera_of(camera: Intrinsics, size: Sequence[int], folder: Path) -> Intrinsics:
    """A folder's camera for its pictures of (height, width).

    Raises:
        UserError: they have another shape, so it cannot be theirs.
    """
    height, width = size[:2]
    if abs(width * camera.height / (height * camera.width) - 1) > _SAME_SHAPE:
        raise UserError(
            f"pictures of {folder} are {width}x{height}, its camera is one of {camera.width}x{camera.height}: give "
            "fx, fy, cx, cy, width and height of the camera that took them in its camera.yaml"
        )
    return camera.scaled(width, height)


def held_out_of(path: Path) -> dict[str, bool]:
    """Frames that a list keeps from training, and whether each is judged (`-NAME`: it is not); `#` begins a comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    marked = [name for line in lines if not line.startswith("#") for name in line.split()]
    return {name.removeprefix("-"): not name.startswith("-") for name in marked}


def of_split(pictures: Mapping[str, Path], held_out: Mapping[str, bool], split: str) -> dict[str, Path]:
    """The pictures of train, validation (held out and judged), held-out or all, by name; held_out: `held_out_of`."""
    wanted = {
        "all": lambda name: True,
        "train": lambda name: name not in held_out,
        "validation": lambda name: held_out.get(name, False),
        "held-out": lambda name: name in held_out,
    }[split]
    return {name: path for name, path in pictures.items() if wanted(name)}


def check_held_out(listed: Iterable[str], pictures: Iterable[str], path: Path) -> None:
    """Raise UserError where a folder's own list names no picture of it: that one would be trained on."""
    unknown = sorted(set(listed) - set(pictures))
    if unknown:
        more = ", ..." if len(unknown) > 3 else ""
        raise UserError(
            f"{path} names {', '.join(unknown[:3])}{more}, of which there is no picture: "
            "names are those of the files without folder and ending"
        )


def read_picture(path: Path, flag: int = cv2.IMREAD_COLOR, size: tuple[int, ...] | None = None) -> np.ndarray:
    """A picture file as OpenCV decodes it, whole and as it lies in the file, without turning it; colours as RGB.

    Args:
        path: of the file.
        flag: OpenCV's.
        size: (height, width) that it must have, those of the picture that it belongs to.

    Raises:
        UserError: it cannot be decoded, or has another size.
    """
    try:
        picture = imdecode(np.fromfile(path, np.uint8), flag, path.suffix, Limit("picture", _MOST_PIXELS))
    except (OSError, ImageError) as error:
        raise UserError(f"{path} cannot be read as a picture: it is damaged or half downloaded ({error})") from error
    if size is not None and picture.shape[:2] != size:
        raise UserError(f"{path} is {picture.shape[:2]}, its picture {size}: they differ in size")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if picture.ndim == 3 and picture.shape[2] == 3 else picture


def read_bytes(path: Path, size: tuple[int, ...]) -> np.ndarray:
    """A picture file that holds a number of 8 bits a pixel, (height, width) uint8.

    Raises:
        UserError: it cannot be decoded, has another size, or holds other values.
    """
    values = read_picture(path, cv2.IMREAD_UNCHANGED, size)
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():  # grey, written as colours
        values = values[..., 0]
    if values.ndim != 2 or values.dtype != np.uint8:
        channels = 1 if values.ndim == 2 else values.shape[2]
        raise UserError(f"{path}: expected 8 bit in one channel; it is {values.dtype} in {channels}")
    return np.ascontiguousarray(values)


def picture_files(folder: Path) -> dict[str, Path]:
    """The jpg and png files of a folder by name without suffix, in order."""
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in (".jpg", ".jpeg", ".png")}


def check_labels(labels: np.ndarray, classes: int, path: Path, unlabelled: int = 255) -> None:
    """Raise UserError where a labelled picture has a value that is no class."""
    wrong = (labels >= classes) & (labels != unlabelled)
    if wrong.any():
        raise UserError(
            f"{path} has the value {int(labels[wrong].max())}: labels must be 0..{classes - 1} or {unlabelled}"
        )
