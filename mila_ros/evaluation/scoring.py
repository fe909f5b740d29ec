"""Judges what the node said against ground truth, with the metrics of `mila compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mila_ros.evaluation.metrics import TaskMetrics
from mila_ros.evaluation.moments import Moment
from mila_ros.worlds.frames import IGNORE


class Judge:
    """Accumulates metrics over moments.

    Args:
        tasks: of the model.
        classes: of the model, by id.
    """

    def __init__(self, tasks: Sequence[str], classes: Sequence[str]) -> None:
        self._tasks, self._classes = tuple(tasks), tuple(classes)
        self._metrics = TaskMetrics(self._tasks, len(classes))
        self.frames = dict.fromkeys(self._tasks, 0)
        """Frames with ground truth, by task."""
        self.strange_labels: set[int] = set()
        """Ids in the ground truth that the model has no class for. Then segmentation is not judged."""

    def add(self, moment: Moment) -> None:
        """Judge one frame; tasks without ground truth or answer are left out."""
        answers: dict[str, torch.Tensor] = {}
        truth: dict[str, torch.Tensor | None] = {}
        for task in self._tasks:
            if task not in moment.answers or task not in moment.truth:
                continue
            if task == "segmentation":
                ids = {int(value) for value in np.unique(moment.truth[task])} - {IGNORE}
                strange = {value for value in ids if value >= len(self._classes)}
                self.strange_labels |= strange
                if strange:
                    continue
            answers[task] = torch.from_numpy(moment.answers[task].copy())
            truth[task] = torch.from_numpy(moment.truth[task].copy())
            self.frames[task] += 1
        self._metrics.update(answers, truth)

    def compute(self) -> dict[str, dict[str, Any]]:
        """Metrics by task, as `mila compare` names them; only of tasks that could be judged."""
        results = {}
        for task, values in self._metrics.compute().items():
            unusable = task == "segmentation" and self.strange_labels
            if self.frames[task] and not unusable and next(iter(values.values())) is not None:
                results[task] = values
        return results
