"""Cityscapes, labelled pictures of drives through cities, as folders of pictures.

    leftImg8bit_sequence/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png   the frames before a labelled one (or, without
                                                                          video, leftImg8bit/ with the labelled alone)
    gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png             ids of the data set (or ..._labelTrainIds.png)
    disparity/SPLIT/CITY/CITY_SEQUENCE_FRAME_disparity.png                16 bit, optional: (value - 1) / 256 pixels
    camera/SPLIT/CITY/CITY_SEQUENCE_FRAME_camera.json                     optional: focal length and baseline

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016; the 19 classes are
those of its benchmark. Depth is fx * baseline / disparity, where a disparity was found; normals are fitted to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mila_ros.errors import UserError
from mila_ros.worlds.frames import IGNORE, Frame, Intrinsics
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.plane_normals import fitted_normals
from mila_ros.worlds.street import standing_depth
from mila_ros.worlds.world import NoFramesError, World, check_labels, read_bytes, read_picture

_LAYOUT = (
    "expected FOLDER/leftImg8bit_sequence/SPLIT/CITY/*_leftImg8bit.png (or leftImg8bit/...) and "
    "FOLDER/gtFine/SPLIT/CITY/*_gtFine_labelIds.png"
)
_TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The data set's ids of the 19 classes of its benchmark, in their order."""
_BEFORE = 19
"""Frames of a sequence before the labelled one."""
_USUAL = Intrinsics(fx=2262.52, fy=2265.30, cx=1096.98, cy=513.137, width=2048, height=1024)
_USUAL_BASELINE = 0.209313
_RATE = 17
_FARTHEST = 80.0
"""Metres: farther, half a pixel of disparity is most of the depth."""


class Cityscapes(World):
    """Labelled frames of one split, each with the frames before it where the sequences are there.

    Args:
        folder: see the module's docstring for its layout.
        split: "train", "val" or "validation", "test"; "all": every one found.
        classes: names of the labels, if they are others than the benchmark's (label files then hold their numbers).

    Raises:
        UserError: the folder or a file of it is missing.
    """

    label_set = "cityscapes"
    motion = "driven"

    def __init__(self, folder: Path, split: str = "all", classes: Sequence[str] = ()) -> None:
        self.folder = folder
        usual = load_labels(self.label_set).classes
        self.classes = tuple(classes) or usual
        self._benchmark = self.classes == usual
        if not (folder / "gtFine").is_dir():
            raise UserError(f"{folder} is not a Cityscapes folder: {_LAYOUT}")
        found = sorted(p.name for p in (folder / "gtFine").iterdir() if p.is_dir())
        wanted = {"validation": "val"}.get(split, split)
        if wanted != "all" and wanted not in found:
            raise NoFramesError(f'{folder}/gtFine has no split "{wanted}", only {", ".join(found)}; {_LAYOUT}')
        self._frames: list[tuple[str, str]] = []  # split/city, and city_sequence_frame
        self._labelled: set[str] = set()
        self.videos: list[range] = []
        for part in found if wanted == "all" else [wanted]:
            for annotation in sorted((folder / "gtFine" / part).glob("*/*_gtFine_label*Ids.png")):
                stem = annotation.name.partition("_gtFine_")[0]
                if stem not in self._labelled:
                    self._labelled.add(stem)
                    self._append(f"{part}/{annotation.parent.name}", stem)
        if not self._frames:
            raise NoFramesError(f"{folder}/gtFine has no labelled pictures of the split {split}; {_LAYOUT}")
        self.names = [stem for _, stem in self._frames]
        self.labelled = [i for i, name in enumerate(self.names) if name in self._labelled]
        depth = (folder / "disparity").is_dir()
        self.tasks = ("segmentation", "depth", "normals") if depth else ("segmentation",)

    def _append(self, place: str, stem: str) -> None:
        """The labelled frame, after those before it."""
        match = re.fullmatch(r"(.+_\d+)_(\d{6})", stem)
        if match is None:
            raise UserError(f"{stem} is no name of a Cityscapes frame (CITY_SEQUENCE_FRAME); {_LAYOUT}")
        number = int(match[2])
        begin = len(self._frames)
        for earlier in range(max(0, number - _BEFORE), number):
            name = f"{match[1]}_{earlier:06d}"
            if self._picture(place, name, ("leftImg8bit_sequence",)) is not None:
                self._frames.append((place, name))
            else:
                del self._frames[begin:]  # a video has no holes
        self._frames.append((place, stem))
        if self._picture(place, stem, ("leftImg8bit", "leftImg8bit_sequence")) is None:
            raise UserError(f"the picture of {place}/{stem} is missing beside its labels; {_LAYOUT}")
        if len(self._frames) - begin > 1:
            self.videos.append(range(begin, len(self._frames)))

    def _picture(self, place: str, stem: str, kinds: Sequence[str]) -> Path | None:
        paths = (self.folder / kind / place / f"{stem}_leftImg8bit.png" for kind in kinds)
        return next((path for path in paths if path.is_file()), None)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        place, stem = self._frames[index]
        path = self._picture(place, stem, ("leftImg8bit", "leftImg8bit_sequence"))
        if path is None:
            raise UserError(f"the picture of {place}/{stem} is gone; {_LAYOUT}")
        rgb = np.ascontiguousarray(read_picture(path))
        size = rgb.shape[:2]
        camera, baseline = self._camera(place, stem)
        camera = camera.scaled(size[1], size[0])
        labels = self._labels(place, stem, size) if stem in self._labelled else None
        depth = self._depth(place, stem, camera, baseline) if stem in self._labelled else None
        assumed = None if labels is None else standing_depth(labels, self.classes, camera)
        if assumed is not None and depth is not None:
            assumed = np.where(np.isfinite(depth), depth, assumed)  # the sky, and what is too far to measure
        return Frame(
            rgb=rgb,
            intrinsics=camera,
            labels=labels,
            depth=depth,
            assumed_depth=assumed,
            normals=None if depth is None else fitted_normals(depth, camera),
            stamp_ns=int(stem.rpartition("_")[2]) * 1_000_000_000 // _RATE,
            name=f"{place}/{stem}",
        )

    def _labels(self, place: str, stem: str, size: tuple[int, int]) -> np.ndarray:
        base = self.folder / "gtFine" / place
        ready = base / f"{stem}_gtFine_labelTrainIds.png"
        path = ready if ready.is_file() else base / f"{stem}_gtFine_labelIds.png"
        raw = read_bytes(path, size)
        labels = raw
        if path != ready and self._benchmark:
            if raw.max() > 33:
                raise UserError(f"{path} has the value {int(raw.max())}: Cityscapes' ids are 0..33")
            table = np.full(256, IGNORE, np.uint8)
            table[list(_TRAIN_IDS)] = np.arange(len(_TRAIN_IDS))
            labels = table[raw]
        check_labels(labels, len(self.classes), path)
        return labels

    def _depth(self, place: str, stem: str, camera: Intrinsics, baseline: float) -> np.ndarray | None:
        if "depth" not in self.tasks:
            return None
        path = self.folder / "disparity" / place / f"{stem}_disparity.png"
        if not path.is_file():
            raise UserError(f"{path} is missing beside its labels; remove disparity/ to go without depth; {_LAYOUT}")
        raw = read_picture(path, cv2.IMREAD_UNCHANGED)
        if raw.dtype != np.uint16 or raw.shape != (camera.height, camera.width):
            raise UserError(f"{path}: expected 16 bit, {camera.width}x{camera.height}; it is {raw.dtype}, {raw.shape}")
        disparity = (raw.astype(np.float32) - 1) / 256
        depth = np.full(raw.shape, np.nan, np.float32)
        seen = disparity > 0
        depth[seen] = camera.fx * baseline / disparity[seen]
        depth[depth > _FARTHEST] = np.nan
        return depth

    def _camera(self, place: str, stem: str) -> tuple[Intrinsics, float]:
        path = self.folder / "camera" / place / f"{stem}_camera.json"
        if not path.is_file():
            return _USUAL, _USUAL_BASELINE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            inner = content["intrinsic"]
            fx, fy, cx, cy = (float(inner[key]) for key in ("fx", "fy", "u0", "v0"))
            return Intrinsics(fx, fy, cx, cy, 2048, 1024), float(content["extrinsic"]["baseline"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: expected intrinsic (fx, fy, u0, v0) and extrinsic (baseline): {error!r}"
            ) from error
