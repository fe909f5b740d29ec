"""NYU Depth v2 as it is published -> the folder that `nyuv2:FOLDER` reads (nyuv2.py).

Three files are needed: `nyu_depth_v2_labeled.mat` (2.8 GB) and `splits.mat`, from the page of the data set
(https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html), and `classMapping40.mat` of Gupta et al. (CVPR 2013), which
tells to which of the 40 classes each of the 894 labels belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.worlds.frames import IGNORE
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.leftovers import whole_or_nothing
from mila_ros.worlds.nyuv2 import DEPTH_UNIT
from mila_ros.worlds.rendered_bag import encoded

FRAMES, SPLITS, MAPPING = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
SPLIT_NAMES = {"train": "trainNdxs", "test": "testNdxs"}
_SIZE = (480, 640)
_QUALITY = 95


def unpack(folder: Path, out: Path, split: str = "train") -> int:
    """Writes rgb/NNNN.jpg, depth8/NNNN.png and label40/NNNN.png, numbers as published (from 1); how many frames.

    Depth is the in-filled one. Labels are NYU-40's ids from 0, without "other prop", which is unlabelled here.

    Args:
        folder: where the three files are.
        out: a new or empty folder.
        split: "train" (795 frames), "test" (654) or "all".

    Raises:
        UserError: a file is missing, damaged or not what its name says, or `out` is not empty.
    """
    h5py, io = _libraries()
    paths = {name: folder / name for name in (FRAMES, SPLITS, MAPPING)}
    if missing := [name for name, path in paths.items() if not path.is_file()]:
        raise UserError(f"{folder} lacks {', '.join(missing)}; needed are {', '.join(paths)} ({_SOURCES})")
    classes = _mapping(io, paths[MAPPING])
    numbers = _numbers(io, paths[SPLITS], split)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder; name another one or remove it")
    try:
        with whole_or_nothing(out), h5py.File(paths[FRAMES], "r") as source:
            _check(source, paths[FRAMES], max(numbers))
            for kind in ("rgb", "depth8", "label40"):
                (out / kind).mkdir(parents=True, exist_ok=True)
            for number in tqdm(numbers, "nyuv2", unit="frame"):
                _write(source, number, classes, out)
    except OSError as error:
        raise UserError(
            f"{paths[FRAMES]} cannot be read to its end, or {out} not be written: {error}; is the download complete?"
        ) from error
    return len(numbers)


_SOURCES = "mila_ros/worlds/nyuv2_published.py says where they come from"


def _libraries() -> tuple[ModuleType, Any]:
    try:
        import h5py
        from scipy import io
    except ImportError as error:
        raise UserError(f"MATLAB files need the Python package {error.name}: pip install h5py scipy") from error
    return h5py, io


def _matrix(io: Any, path: Path, name: str) -> npt.NDArray[Any]:
    """One variable of a MATLAB file of version 5, flat."""
    try:
        found = io.loadmat(path, variable_names=[name])
    except (OSError, ValueError, TypeError, NotImplementedError, io.matlab.MatReadError) as error:
        raise UserError(f"{path} cannot be read as a MATLAB file: {error}") from error
    if name not in found:
        raise UserError(f"{path} has no variable {name}: it is another file than the published one")
    return np.asarray(found[name]).reshape(-1)


def _mapping(io: Any, path: Path) -> npt.NDArray[np.uint8]:
    """Published label (0: unlabelled) -> id."""
    values = _matrix(io, path, "mapClass")
    known = len(load_labels("nyu40").classes)
    if not len(values) or values.min() < 1 or values.max() > known + 1:
        raise UserError(f"{path}: mapClass must hold classes 1 to {known + 1}")
    ids = np.full(len(values) + 1, IGNORE, np.uint8)
    ids[1:] = np.where(values <= known, values - 1, IGNORE)
    return ids


def _numbers(io: Any, path: Path, split: str) -> Sequence[int]:
    names = SPLIT_NAMES.values() if split == "all" else [SPLIT_NAMES[split]]
    numbers = sorted(int(number) for name in names for number in _matrix(io, path, name))
    if not numbers or numbers[0] < 1:
        raise UserError(f"{path}: frames are counted from 1")
    return numbers


def _check(source: Any, path: Path, last: int) -> None:
    """MATLAB keeps columns together, so that sizes are the other way round here."""
    height, width = _SIZE
    for name, size in (("images", (3, width, height)), ("depths", (width, height)), ("labels", (width, height))):
        if name not in source:
            raise UserError(f"{path} has no variable {name}: it is another file than the published one")
        shape = source[name].shape
        if shape[1:] != size or shape[0] < last:
            raise UserError(f"{path}: {name} is {shape}; expected at least {last} frames of {size}")


def _write(source: Any, number: int, classes: npt.NDArray[np.uint8], out: Path) -> None:
    rgb, depth, labels = (source[name][number - 1].T for name in ("images", "depths", "labels"))
    if labels.max() >= len(classes):
        raise UserError(f"frame {number} has the label {labels.max()}, {MAPPING} knows {len(classes) - 1}")
    if not np.isfinite(depth).all():
        raise UserError(f"frame {number}: depth is not a number in places; `depths` is in-filled as published")
    depth8 = np.clip(np.round(depth / DEPTH_UNIT - 0.5), 0, 255).astype(np.uint8)
    pictures: list[tuple[str, npt.NDArray[Any], list[int]]] = [
        (f"rgb/{number:04d}.jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]),
        (f"depth8/{number:04d}.png", depth8, []),
        (f"label40/{number:04d}.png", classes[labels], []),
    ]
    for name, pixels, options in pictures:
        (out / name).write_bytes(encoded(name[-4:], pixels, options))
