"""Metrics of dense tasks, accumulated over a whole set: sums and counts, never means of means.

Segmentation: mean intersection over union over the classes that occur in the ground truth, and pixel accuracy
(Long et al., CVPR 2015). Depth: RMSE, absolute relative error, share within a factor 1.25 (Eigen et al., NeurIPS 2014),
and the same share once each picture's median is right (Zhou et al., CVPR 2017): the shape, whatever the scale.
Normals: mean and median angle (Fouhey et al., ICCV 2013); the median is read off a histogram of 0.01 degree bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from mila_ros.worlds.frames import IGNORE, Frame

_ANGLE_BINS = 18000


class SegmentationMetrics:
    """Accumulates a confusion matrix.

    Args:
        classes: number of classes; ground truth of IGNORE is left out.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.matrix = MulticlassConfusionMatrix(classes, ignore_index=IGNORE, validate_args=False)

    def update(self, ids: Tensor, truth: Tensor) -> None:
        """Class ids and ground truth, any equal shapes."""
        self.matrix.to(ids.device).update(ids.long().flatten(), truth.long().flatten())

    def compute(self) -> dict[str, Any]:
        """`miou`, `pixel_accuracy` (0..1; None without ground truth) and `iou`, one a class (None where absent)."""
        matrix = self.matrix.confmat.double()
        hits, truth, said = matrix.diag(), matrix.sum(dim=1), matrix.sum(dim=0)
        present = truth > 0
        if not bool(present.any()):
            return {"miou": None, "pixel_accuracy": None, "iou": [None] * self.classes}
        iou = hits / (truth + said - hits).clamp(min=1)
        return {
            "miou": float(iou[present].mean()),
            "pixel_accuracy": float(hits.sum() / truth.sum()),
            "iou": [float(v) if bool(p) else None for v, p in zip(iou, present, strict=True)],
        }


class DepthMetrics:
    """Accumulates errors of metric depth over the pixels whose true depth is known, in ranges of that depth."""

    EDGES = (0.0, 1.0, 2.0, 4.0, math.inf)
    """Of the ranges, metres."""

    def __init__(self, nearest: float = 0.1, farthest: float = 80.0) -> None:
        self.nearest, self.farthest = nearest, farthest
        self.sums = np.zeros((len(self.EDGES) - 1, 5))
        """A row a range: pixels, squared error, relative error, pixels within a factor of 1.25, and those that are so
        once their picture's median is right."""

    def update(self, depth: Tensor, truth: Tensor) -> None:
        """Metres, equal shapes: pictures (B, h, w), or anything else as one picture; truth NaN (or out of the range) is
        left out."""
        if depth.ndim > 2:
            for picture, its_truth in zip(depth, truth, strict=True):
                self.update(picture, its_truth)
            return
        known = (truth > self.nearest) & (truth < self.farthest)
        d, t = (metres[known].double().cpu().numpy() for metres in (depth, truth))
        d = np.maximum(np.nan_to_num(d, nan=0.0), 1e-3)
        ranges = sum((t >= edge).astype(np.int64) for edge in self.EDGES[1:-1])
        ratio, gap = d / t, np.abs(d - t)
        scaled = ratio * (_lower_median(t) / _lower_median(d)) if len(t) else ratio
        near, near_scaled = (np.maximum(x, 1 / x) < 1.25 for x in (ratio, scaled))
        for column, term in enumerate((None, gap**2, gap / t, near, near_scaled)):
            self.sums[:, column] += np.bincount(ranges, term, minlength=len(self.sums))

    def compute(self) -> dict[str, Any]:
        """`rmse` in metres, `abs_rel`, `delta1` and `delta1_scaled` in 0..1; None without ground truth."""
        return self._of(self.sums.sum(axis=0))

    def by_range(self) -> dict[str, dict[str, Any]]:
        """As `compute`, by range of true depth, with the share of all pixels that lie in it as `share`."""
        total = max(1.0, self.sums[:, 0].sum())
        names = [f"{low:g}-{high:g} m" if math.isfinite(high) else f"{low:g}+ m" for low, high in pairwise(self.EDGES)]
        return {
            name: self._of(row) | {"share": float(row[0] / total)} for name, row in zip(names, self.sums, strict=True)
        }

    @staticmethod
    def _of(sums: npt.NDArray[np.float64]) -> dict[str, Any]:
        count, square, relative, within, scaled = (float(value) for value in sums)
        if not count:
            return dict.fromkeys(("rmse", "abs_rel", "delta1", "delta1_scaled"))
        return {
            "rmse": math.sqrt(square / count),
            "abs_rel": relative / count,
            "delta1": within / count,
            "delta1_scaled": scaled / count,
        }


def _lower_median(values: npt.NDArray[np.float64]) -> float:
    """The middle value, of two the lower one."""
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])


class NormalMetrics:
    """Accumulates angles between predicted and true unit normals."""

    def __init__(self) -> None:
        self.histogram = torch.zeros(_ANGLE_BINS, dtype=torch.float64)
        self.total = 0.0

    def update(self, normals: Tensor, truth: Tensor) -> None:
        """(..., 3) each; truth NaN is left out, answers that are no numbers are 180 degrees off.

        Raises:
            ValueError: they have not one shape.
        """
        if normals.shape != truth.shape:
            raise ValueError(f"normals {tuple(normals.shape)} cannot be judged by {tuple(truth.shape)}")
        cosine = torch.zeros(truth.shape[:-1], dtype=torch.float64, device=truth.device)
        for ours, theirs in zip(normals.unbind(dim=-1), truth.unbind(dim=-1), strict=True):
            cosine.addcmul_(ours.double(), theirs.double())
        judged = cosine[torch.isfinite(truth).all(dim=-1)]
        judged = torch.where(judged.isfinite(), judged, -1.0).clamp(-1, 1)  # no answer is as wrong as can be
        angle = torch.rad2deg(torch.arccos(judged)).cpu()
        self.total += float(angle.sum())
        bins = (angle * (_ANGLE_BINS / 180)).long().clamp(max=_ANGLE_BINS - 1)
        self.histogram += torch.bincount(bins, minlength=_ANGLE_BINS)

    def compute(self) -> dict[str, Any]:
        """`mean_deg`, `median_deg` and `within_11_25`, `within_22_5`, `within_30` (0..1); None without ground truth."""
        count = float(self.histogram.sum())
        names = {"within_11_25": 11.25, "within_22_5": 22.5, "within_30": 30.0}
        if not count:
            return {"mean_deg": None, "median_deg": None} | dict.fromkeys(names)
        cumulative = self.histogram.cumsum(dim=0)
        middle = int(torch.searchsorted(cumulative, count / 2))
        bins_a_degree = _ANGLE_BINS / 180
        return {
            "mean_deg": self.total / count,
            "median_deg": (middle + 0.5) / bins_a_degree,
        } | {name: float(cumulative[round(limit * bins_a_degree) - 1]) / count for name, limit in names.items()}


class TaskMetrics:
    """All metrics of the tasks that a model has; ground truth that is missing is left out.

    Args:
        tasks: of the model.
        classes: number of classes, when segmentation is among them.
    """

    def __init__(self, tasks: tuple[str, ...], classes: int) -> None:
        self.parts: dict[str, SegmentationMetrics | DepthMetrics | NormalMetrics] = {}
        if "segmentation" in tasks:
            self.parts["segmentation"] = SegmentationMetrics(classes)
        if "depth" in tasks:
            self.parts["depth"] = DepthMetrics()
        if "normals" in tasks:
            self.parts["normals"] = NormalMetrics()

    def update(self, answers: dict[str, Tensor], truth: dict[str, Tensor | None]) -> None:
        """Answers as `Mila.answer` gives them (B, h, w[, 3]) against ground truth of the same size, by task."""
        for task, part in self.parts.items():
            known = truth.get(task)
            if known is not None and task in answers:
                part.update(answers[task], known)

    def compute(self) -> dict[str, dict[str, Any]]:
        """Metrics by task."""
        return {task: part.compute() for task, part in self.parts.items()}

    def sums(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that was accumulated, by name; those of several sets may be added up, exactly."""
        found: dict[str, npt.NDArray[Any]] = {}
        for part in self.parts.values():
            if isinstance(part, SegmentationMetrics):
                found["segmentation"] = part.matrix.confmat.cpu().numpy().copy()
            elif isinstance(part, DepthMetrics):
                found["depth"] = part.sums.copy()
            else:
                found["normals"] = part.histogram.numpy().copy()
                found["normals_total"] = np.array(part.total)
        return found

    def add(self, sums: Mapping[str, npt.NDArray[Any]]) -> None:
        """Accumulate what `sums` of another set gave."""
        for part in self.parts.values():
            if isinstance(part, SegmentationMetrics):
                part.matrix.confmat += torch.from_numpy(sums["segmentation"]).to(part.matrix.confmat.device)
            elif isinstance(part, DepthMetrics):
                part.sums += sums["depth"]
            else:
                part.histogram += torch.from_numpy(sums["normals"])
                part.total += float(sums["normals_total"])


def frame_tensors(frame: Frame, device: torch.device) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
    """A frame as the network takes it: image (1, 3, H, W) in 0..1, intrinsics (1, 4), ground truth by task."""
    image = torch.from_numpy(frame.rgb).to(device).permute(2, 0, 1)[None].float() / 255
    camera = frame.intrinsics
    intrinsics = torch.tensor([[camera.fx, camera.fy, camera.cx, camera.cy]], device=device)
    truth: dict[str, Tensor | None] = {
        "segmentation": None if frame.labels is None else torch.from_numpy(frame.labels).to(device)[None],
        "depth": None if frame.depth is None else torch.from_numpy(frame.depth).to(device)[None],
        "normals": None if frame.normals is None else torch.from_numpy(frame.normals).to(device)[None],
    }
    return image, intrinsics, truth
