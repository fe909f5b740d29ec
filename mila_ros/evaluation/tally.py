"""What a method's answers are worth over a whole recording: totals, by age of the keyframe, over time, with intervals.

Memory does not grow with the recording: frames are kept as sums of consecutive blocks, and there are never more than a
few hundred of these. Intervals are a bootstrap over the blocks (Efron 1979; of blocks, because frames of a video are
alike: Künsch 1989).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mila_ros.evaluation.metrics import TaskMetrics

Sums = Mapping[str, npt.NDArray[Any]]
"""As TaskMetrics.sums gives them."""
MOST_BLOCKS = 512
FEWEST_BLOCKS = 8
"""Below these an interval would be made up."""
_RESAMPLES = 1000
_ANGLES = (11.25, 22.5, 30.0)


@dataclass
class Block:
    """Consecutive frames."""

    first_ns: int
    last_ns: int
    frames: int
    digest: npt.NDArray[np.float64]
    """As `digest` makes it."""


class Blocks:
    """Frames in order as blocks of equal length, which doubles whenever there are too many.

    Args:
        most: blocks to hold; even.
    """

    def __init__(self, most: int = MOST_BLOCKS) -> None:
        self._most, self._length = most, 1
        self.blocks: list[Block] = []

    def add(self, stamp_ns: int, values: npt.NDArray[np.float64]) -> None:
        """The next frame."""
        if self.blocks and self.blocks[-1].frames < self._length:
            last = self.blocks[-1]
            last.last_ns, last.frames = stamp_ns, last.frames + 1
            last.digest = last.digest + values
            return
        if len(self.blocks) == self._most:
            pairs = zip(self.blocks[::2], self.blocks[1::2], strict=True)
            self.blocks = [Block(a.first_ns, b.last_ns, a.frames + b.frames, a.digest + b.digest) for a, b in pairs]
            self._length *= 2
        self.blocks.append(Block(stamp_ns, stamp_ns, 1, values))


class Tally:
    """Accumulates one method's frames.

    Args:
        tasks: of the model.
        classes: how many, when segmentation is among them.
    """

    def __init__(self, tasks: tuple[str, ...], classes: int) -> None:
        self.tasks, self.classes = tasks, classes
        self.total = TaskMetrics(tasks, classes)
        self.by_distance: dict[int, TaskMetrics] = {}
        self.frames = dict.fromkeys(tasks, 0)
        """Judged, by task."""
        self.blocks = Blocks()

    def add(
        self,
        answers: Mapping[str, Any],
        truth: Mapping[str, Any],
        stamp_ns: int,
        distance: int | None = None,
    ) -> None:
        """One frame's answers and ground truth as tensors of one size, by task.

        distance: frames since the keyframe that it was answered from.
        """
        frame = TaskMetrics(self.tasks, self.classes)
        frame.update(dict(answers), dict(truth))
        sums = frame.sums()
        self.total.add(sums)
        judged = [task for task in self.tasks if task in answers and truth.get(task) is not None]
        if not judged:
            return  # no block of its own, or intervals would be those of frames that nobody judged
        if distance is not None:
            self.by_distance.setdefault(distance, TaskMetrics(self.tasks, self.classes)).add(sums)
        for task in judged:
            self.frames[task] += 1
        self.blocks.add(stamp_ns, digest(sums, self.tasks))

    def compute(self) -> dict[str, Any]:
        """`metrics` by task, `intervals` (95 %, by task and metric), `by_distance`, `by_depth_range`, `over_time`.

        Tasks without ground truth are missing everywhere.
        """
        judged = [task for task in self.tasks if self.frames[task]]
        series = self.over_time()
        found: dict[str, Any] = {
            "metrics": _only(self.total.compute(), judged),
            "judged_frames": {task: self.frames[task] for task in judged},
            "intervals": intervals(self.blocks.blocks, self.tasks, judged),
            "over_time": series,
        }
        if self.by_distance:
            found["by_distance"] = {
                str(distance): _only(part.compute(), judged) for distance, part in sorted(self.by_distance.items())
            }
        if "depth" in judged:
            found["by_depth_range"] = self.total.parts["depth"].by_range()  # type: ignore[union-attr]
        return found

    def over_time(self) -> dict[str, list[Any]]:
        """`stamp_ns` of the blocks' middles, and each task's main metrics in each, as `task.metric`."""
        blocks = self.blocks.blocks
        if not blocks:
            return {}
        values = metrics_of(np.stack([block.digest for block in blocks]), self.tasks)
        series: dict[str, list[Any]] = {"stamp_ns": [(block.first_ns + block.last_ns) // 2 for block in blocks]}
        for task in self.tasks:
            if self.frames[task]:
                for name, column in values[task].items():
                    series[f"{task}.{name}"] = [float(v) if np.isfinite(v) else None for v in column]
        return series


def digest(sums: Sums, tasks: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """A frame's sums as one short vector that `metrics_of` reads: without who was taken for whom, or every angle."""
    parts: list[npt.NDArray[Any]] = []
    for task in tasks:
        if task == "segmentation":
            matrix = sums["segmentation"]
            parts += [matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)]
        elif task == "depth":
            parts.append(sums["depth"].sum(axis=0))
        else:
            cumulative = np.cumsum(sums["normals"])
            a_degree = len(cumulative) / 180
            within = [cumulative[round(limit * a_degree) - 1] for limit in _ANGLES]
            parts.append(np.array([cumulative[-1], float(sums["normals_total"]), *within]))
    return np.concatenate([part.astype(np.float64).ravel() for part in parts])


def metrics_of(digests: npt.NDArray[np.float64], tasks: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Metrics of many digests (N, V) at once, each (N,), by task; NaN without ground truth."""
    found: dict[str, dict[str, Any]] = {}
    fixed = sum({"depth": 5, "normals": 5}.get(task, 0) for task in tasks)
    classes = (digests.shape[1] - fixed) // 3
    at = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        for task in tasks:
            if task == "segmentation":
                hits, truth, said = (digests[:, at + i * classes : at + (i + 1) * classes] for i in range(3))
                at += 3 * classes
                iou = np.where(truth > 0, hits / np.maximum(truth + said - hits, 1), 0)
                found[task] = {
                    "miou": iou.sum(axis=1) / (truth > 0).sum(axis=1),
                    "pixel_accuracy": hits.sum(axis=1) / truth.sum(axis=1),
                }
            elif task == "depth":
                count, square, relative, within, scaled = digests[:, at : at + 5].T
                at += 5
                found[task] = {
                    "rmse": np.sqrt(square / count),
                    "abs_rel": relative / count,
                    "delta1": within / count,
                    "delta1_scaled": scaled / count,
                }
            else:
                count, total, *within_angle = digests[:, at : at + 5].T
                at += 5
                names = ("within_11_25", "within_22_5", "within_30")
                found[task] = {"mean_deg": total / count} | {
                    name: hits / count for name, hits in zip(names, within_angle, strict=True)
                }
    return found


def resamples(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """How often each of so many things is drawn, with replacement, a row a draw of all: (R, count)."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    return drawn.astype(np.float64)


def intervals(
    blocks: list[Block], tasks: tuple[str, ...], judged: list[str], seed: int = 0
) -> dict[str, dict[str, list[float]]]:
    """Where each metric lies in 95 % of the resampled recordings; empty where there are too few blocks to tell."""
    if len(blocks) < FEWEST_BLOCKS:
        return {}
    values = metrics_of(resamples(len(blocks), seed) @ np.stack([block.digest for block in blocks]), tasks)
    found: dict[str, dict[str, list[float]]] = {}
    for task in judged:
        found[task] = {}
        for name, column in values[task].items():
            known = column[np.isfinite(column)]
            if known.size:
                found[task][name] = [float(v) for v in np.quantile(known, (0.025, 0.975))]
    return found


def _only(metrics: dict[str, dict[str, Any]], judged: list[str]) -> dict[str, dict[str, Any]]:
    return {task: values for task, values in metrics.items() if task in judged}
