"""CamVid, labelled pictures of drives through a town, as folders of pictures.

    SPLIT/NAME.jpg         (or png) any size
    SPLITannot/NAME.png    8 bit: 0 sky, 1 building, 2 pole, 3 road, 4 pavement, 5 tree, 6 sign, 7 fence, 8 car,
                           9 pedestrian, 10 bicyclist; 11 (one past the last class) and 255 unlabelled

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009; the 11
classes are those of SegNet (Badrinarayanan et al. 2017). A name is the drive's and the number of its 30 Hz frame
(0016E5_07959): frames of one drive at most a tenth of a second apart are a labelled video.

There is no depth, and the camera was never calibrated: without a `camera.yaml` 50 degrees of view are assumed. To make
views of a moved camera depth is guessed from the labels (street.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mila_ros.errors import UserError
from mila_ros.worlds.bags import fov_intrinsics
from mila_ros.worlds.frames import IGNORE, Frame
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.street import standing_depth
from mila_ros.worlds.world import (
    NoFramesError,
    World,
    camera_of,
    check_labels,
    picture_files,
    read_bytes,
    read_camera,
    read_picture,
)

_LAYOUT = "expected FOLDER/SPLIT/NAME.jpg (or png) and FOLDER/SPLITannot/NAME.png, for example val/ and valannot/"
_RATE = 30
_FIELD_OF_VIEW = 50.0


class CamVid(World):
    """Frames of one split or of every split found, in the order of their names.

    Args:
        folder: see the module's docstring for its layout.
        split: a folder's name ("train", "val", "test"); "validation" is "val"; "all": every one found.
        classes: names of the labels, if they are others than CamVid's.

    Raises:
        UserError: the folder or a file of it is missing.
    """

    label_set = "camvid"
    tasks = ("segmentation",)
    motion = "driven"

    def __init__(self, folder: Path, split: str = "all", classes: Sequence[str] = ()) -> None:
        self.folder = folder
        self.classes = tuple(classes) or load_labels(self.label_set).classes
        found = sorted(p.name.removesuffix("annot") for p in folder.glob("*annot") if p.is_dir())
        found = [name for name in found if (folder / name).is_dir()]
        if not found:
            raise UserError(f"{folder} is not a CamVid folder: {_LAYOUT}")
        wanted = {"validation": "val"}.get(split, split)
        if wanted != "all" and wanted not in found:
            raise NoFramesError(f'{folder} has no split "{wanted}", only {", ".join(found)}; {_LAYOUT}')
        self._pictures: list[tuple[Path, Path]] = []
        for part in found if wanted == "all" else [wanted]:
            for picture in picture_files(folder / part).values():
                annotation = folder / f"{part}annot" / f"{picture.stem}.png"
                if not annotation.is_file():
                    raise UserError(f"{annotation} is missing beside {picture}; {_LAYOUT}")
                self._pictures.append((picture, annotation))
        if not self._pictures:
            raise NoFramesError(f"{folder} has no pictures of the split {split}; {_LAYOUT}")
        self.names = [picture.stem for picture, _ in self._pictures]
        self.videos = videos(self.names, _RATE // 10)
        height, width = read_picture(self._pictures[0][0]).shape[:2]
        self.camera = read_camera(folder, fov_intrinsics(_FIELD_OF_VIEW, width, height))

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        picture, annotation = self._pictures[index]
        rgb = read_picture(picture)
        labels = read_bytes(annotation, rgb.shape[:2])
        labels[labels == len(self.classes)] = IGNORE
        check_labels(labels, len(self.classes), annotation)
        number = _number(self.names[index])
        camera = camera_of(self.camera, rgb.shape, self.folder)
        return Frame(
            rgb=np.ascontiguousarray(rgb),
            intrinsics=camera,
            labels=labels,
            assumed_depth=standing_depth(labels, self.classes, camera),
            stamp_ns=None if number is None else number[1] * 1_000_000_000 // _RATE,
            name=self.names[index],
        )


def _number(name: str) -> tuple[str, int] | None:
    """Drive and frame number of a picture's name."""
    match = re.fullmatch(r"(.+?)_\D*(\d+)", name)
    return None if match is None else (match[1], int(match[2]))


def videos(names: list[str], gap: int) -> list[range]:
    """Runs of two or more names of one drive whose numbers rise by at most `gap`."""
    runs: list[range] = []
    start = 0
    numbers = [_number(name) for name in names]
    for i in range(1, len(names) + 1):
        before, now = numbers[i - 1], numbers[i] if i < len(names) else None
        if before and now and before[0] == now[0] and 0 < now[1] - before[1] <= gap:
            continue
        if i - start > 1:
            runs.append(range(start, i))
        start = i
    return runs
