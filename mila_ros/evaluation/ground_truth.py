"""A recording's ground truth at the size of the answers: labels mapped to the model's classes, normals from depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml

from mila_ros.errors import UserError
from mila_ros.evaluation.moments import truth_of
from mila_ros.worlds.frames import IGNORE, Frame


class GroundTruth:
    """Prepares ground truth for judging.

    Args:
        tasks: of the model.
        classes: of the model, by id.
        label_map: the recording's label -> the model's class id or IGNORE; None: they are the model's.
    """

    def __init__(
        self, tasks: Sequence[str], classes: Sequence[str], label_map: Mapping[int, int] | None = None
    ) -> None:
        self._tasks, self._classes = tuple(tasks), len(classes)
        self._table: npt.NDArray[np.uint8] | None = None
        self._mapped: set[int] = set()
        if label_map is not None:
            self._table = np.full(256, IGNORE, np.uint8)
            self._mapped = set(label_map)
            for label, known in label_map.items():
                self._table[label] = known
        self.strange_labels: set[int] = set()
        """Labels that mean nothing here: no class of the model, or not in the map. Their frames' labels are unused."""

    def of(self, frame: Frame, size: tuple[int, int]) -> dict[str, npt.NDArray[Any]]:
        """By task at `size` (h, w), by nearest neighbour; what there is no ground truth for is missing."""
        truth = truth_of(self._with_classes(frame), size)
        return {task: values for task, values in truth.items() if task in self._tasks}

    def _with_classes(self, frame: Frame) -> Frame:
        if frame.labels is None or "segmentation" not in self._tasks:
            return replace(frame, labels=None)
        found = {int(value) for value in np.unique(frame.labels)} - {IGNORE}
        known = self._mapped if self._table is not None else set(range(self._classes))
        strange = found - known
        if strange:
            self.strange_labels |= strange
            return replace(frame, labels=None)
        return frame if self._table is None else replace(frame, labels=self._table[frame.labels])


def as_tensors(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
    """With a batch dimension, as metrics take them."""
    return {task: torch.from_numpy(np.ascontiguousarray(values))[None] for task, values in arrays.items()}


def read_label_map(path: Path, classes: Sequence[str]) -> dict[int, int]:
    """A YAML file that maps labels (0..255) to names or ids of the model's classes, or to null: not judged.

    Raises:
        UserError: missing, not a mapping, or a label or class that does not exist.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the label map {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the label map {path} is not valid YAML: {error}") from error
    if not isinstance(values, dict) or not values:
        raise UserError(f"the label map {path} must map labels to classes, for example `3: chair`")
    ids = {name: index for index, name in enumerate(classes)}
    found: dict[int, int] = {}
    for label, meant in values.items():
        if type(label) is not int or not 0 <= label <= 255:
            raise UserError(f"the label map {path}: {label!r} is no label; they are whole numbers from 0 to 255")
        if meant is None:
            found[label] = IGNORE
        elif isinstance(meant, str) and meant in ids:
            found[label] = ids[meant]
        elif type(meant) is int and 0 <= meant < len(classes):
            found[label] = meant
        else:
            raise UserError(
                f"the label map {path}: label {label} means {meant!r}, which is no class of the model; "
                f"it has {', '.join(classes)}"
            )
    return found
