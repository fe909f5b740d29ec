"""What would a costmap take for an obstacle, and what would it miss, by the points of one picture?

    python -m benchmarks.obstacles --data nyuv2:FOLDER [--split held-out] [--model NAME]

Needs pictures with depth and labels (docs/data.md). The floor is a plane fitted to what is labelled so. A point counts
as an obstacle if it lies higher above that plane than a threshold, and no farther away than a costmap looks: floor that
does is a false obstacle, and things that do not are missed. Each of all points (~/<cam>/points), and without those that
segmentation takes for floor (~/<cam>/obstacles); as the slow network sees the picture, and as it is answered from a
keyframe some frames away (a view synthesised from the picture's own depth, as in `mila compare`).
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from benchmarks.options import engine_of, engine_parser, on_what
from benchmarks.rows import Row, finish, run
from mila_ros.errors import UserError
from mila_ros.evaluation.compare import earlier_view
from mila_ros.evaluation.metrics import frame_tensors
from mila_ros.ros.points_out import no_obstacles, organised
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Answer
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.world import open_world_for

TASKS = ("segmentation", "depth")
FLOORS = ("floor", "floor mat")
DISTANCE = 5  # frames between keyframe and frame
THRESHOLDS = (0.1, 0.2, 0.3)
_RANGE = 3.0  # metres along the optical axis: Nav2's usual obstacle_max_range is 2.5 m on the ground
_THING = (0.4, 1.8)  # metres above the floor by which something surely is one
_FEWEST = 300  # points of floor in a picture to fit a plane to
_ROUNDS, _NEAR = 4, 0.05  # of fitting to the points that lie within so many metres

Points = npt.NDArray[np.float32]


def floor_plane(points: Points) -> npt.NDArray[np.float64] | None:
    """(n, 3) -> (normal towards the camera, height of the camera), or None where too few lie in one plane."""
    for _ in range(_ROUNDS):
        if len(points) < _FEWEST:
            return None
        middle = points.mean(axis=0)
        normal = np.linalg.eigh(np.cov(points.T))[1][:, 0]  # along which they are spread least
        offset = float(-normal @ middle)
        if offset < 0:
            normal, offset = -normal, -offset
        points = points[np.abs(points @ normal + offset) < _NEAR]
    return np.array([*normal, offset])


def heights(cloud: Points, plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Metres above the plane; NaN where a point is unknown."""
    return np.asarray(cloud[..., :3] @ plane[:3] + plane[3])


def counted(
    truth: Points, found: Points, labels: npt.NDArray[np.uint8], floors: Sequence[int]
) -> dict[str, Any] | None:
    """Points of one picture, (h, w, 7) as published: how many there are of floor and things, and how many of each were
    found higher than each threshold. None: no floor is seen."""
    near = truth[..., 2] < _RANGE
    floor = near & np.isin(labels, floors)
    plane = floor_plane(truth[floor][:, :3])
    if plane is None:
        return None
    up = heights(truth, plane)
    flat = floor & (np.abs(up) < _NEAR)
    thing = near & ~np.isin(labels, floors) & (up > _THING[0]) & (up < _THING[1])
    above, reached = heights(found, plane), found[..., 2] < _RANGE
    said = {height: reached & (above > height) for height in THRESHOLDS}
    return {
        "floor": int(flat.sum()),
        "thing": int(thing.sum()),
        "false": {height: int((flat & each).sum()) for height, each in said.items()},
        "right": {height: int((thing & each).sum()) for height, each in said.items()},
    }


def answers(engine: Engine, frame: Frame, index: int, motion: str) -> dict[str, Answer]:
    """By method."""
    picture, focal = engine.upload(frame.rgb), frame.intrinsics.fx
    image, intrinsics, _ = frame_tensors(frame, torch.device("cpu"))
    view = earlier_view(image, frame, intrinsics, DISTANCE, index, motion)[0].permute(1, 2, 0)
    before = engine.upload(view.mul(255).round().to(torch.uint8).numpy())
    memory, _ = engine.keyframe(before, alone=True)
    return {
        "slow network": engine.answer_slow(picture, TASKS, focal),
        f"keyframe {DISTANCE} frames away": engine.answer(picture, memory, TASKS, focal),
    }


def true_points(frame: Frame, size: tuple[int, int]) -> tuple[Points, npt.NDArray[np.uint8]]:
    """What should be published of a picture, and the labels; of the answers' size (h, w)."""
    assert frame.depth is not None and frame.labels is not None
    small = (size[1], size[0])
    depth = np.asarray(cv2.resize(frame.depth, small, interpolation=cv2.INTER_NEAREST), np.float32)
    labels = np.asarray(cv2.resize(frame.labels, small, interpolation=cv2.INTER_NEAREST), np.uint8)
    return organised(Answer(None, None, depth, None, size, {}), frame.intrinsics.scaled(*small), 1), labels


class Shares:
    """Means over pictures, each of which counts alike where there is enough to count."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._pictures: defaultdict[str, int] = defaultdict(int)

    def add(self, count: Mapping[str, Any]) -> None:
        for kind, of in (("false", "floor"), ("right", "thing")):
            if count[of] >= _FEWEST:
                self._pictures[kind] += 1
                for height in THRESHOLDS:
                    self._sums[f"{kind} {height}"] += count[kind][height] / count[of]

    def percent(self, kind: str, height: float) -> float:
        return 100 * self._sums[f"{kind} {height}"] / max(1, self._pictures[kind])


def rows_of(engine: Engine, frames: Iterable[Frame], motion: str, tell: Callable[[], None]) -> list[Row]:
    """The table."""
    floors = [engine.classes.index(name) for name in FLOORS]
    topics = {"points": (), "obstacles": no_obstacles(FLOORS, engine.classes)}
    shares: defaultdict[tuple[str, str], Shares] = defaultdict(Shares)
    used = 0
    for index, frame in enumerate(frames):
        told = answers(engine, frame, index, motion)
        truth, labels = true_points(frame, next(iter(told.values())).size)
        small = frame.intrinsics.scaled(labels.shape[1], labels.shape[0])
        tell()
        seen = False
        for method, answer in told.items():
            for topic, leave_out in topics.items():
                count = counted(truth, organised(answer, small, 1, leave_out), labels, floors)
                if count is not None:
                    shares[method, topic].add(count)
                    seen = True
        used += seen
    if not used:
        raise UserError("no picture shows enough floor within three metres: obstacles cannot be told")
    question = f"what is an obstacle by its points ({used} pictures with a floor, within {_RANGE:g} m)"
    return [
        Row(
            question=question,
            method=f"{method}, {topic}",
            setting=f"above {height:g} m",
            metric=metric,
            value=known.percent(kind, height),
            unit="%",
        )
        for (method, topic), known in shares.items()
        for height in THRESHOLDS
        for kind, metric in (("false", "of floor points"), ("right", "of points of things"))
    ]


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write rows."""
    parser = engine_parser("obstacles", __doc__, bag=False)
    parser.add_argument("--data", required=True, metavar="KIND:FOLDER", help="labelled pictures with depth")
    parser.add_argument("--split", default="validation", help="a part of it (default validation)")
    options = parser.parse_args(argv)
    load = os.getloadavg()[0]
    engine = engine_of(options)
    if missing := set(TASKS) - set(engine.tasks) or set(FLOORS) - set(engine.classes):
        raise UserError(f"model {options.model} has no {' and no '.join(sorted(missing))}: obstacles cannot be told")
    world = open_world_for(options.data, options.split, engine.classes, TASKS)
    frames = world.with_truth()
    with tqdm(total=len(frames), desc="obstacles", unit="frame", file=sys.stderr) as bar:
        labelled = (frame for frame in frames if frame.depth is not None and frame.labels is not None)
        found = rows_of(engine, labelled, world.motion, bar.update)
    finish([*found, on_what(engine, load)], options.out)
    return 0


if __name__ == "__main__":
    run(main)
