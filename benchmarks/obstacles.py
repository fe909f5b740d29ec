"""What would a costmap take for an obstacle, and what would it miss, by the points of one picture?

    python -m benchmarks.obstacles --data nyuv2:FOLDER [--split held-out] [--model NAME]

Needs pictures with depth and labels (docs/data.md). The floor is a plane fitted to what is labelled so. A point counts
as an obstacle if it lies higher above that plane than a threshold, and no farther away than a costmap looks: floor that
does is a false obstacle, and things that do not are missed. Each with all points, and with those of floors left out by
their predicted class (points.leave_out).
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from benchmarks.options import engine_of, engine_parser, on_what
from benchmarks.rows import Row, finish, run
from mila_ros.errors import UserError
from mila_ros.ros.points_out import ids_of, organised
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Answer
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.world import open_world_for

FLOORS = ("floor", "floor mat")
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


def clouds(engine: Engine, frame: Frame, leave_out: Sequence[Sequence[int]]) -> tuple[list[Points], Points, Any]:
    """What is published of a picture for each set of classes to leave out; its true points, and labels."""
    assert frame.depth is not None and frame.labels is not None
    answer = engine.answer_slow(engine.upload(frame.rgb), ("segmentation", "depth"), frame.intrinsics.fx)
    height, width = answer.size
    small = frame.intrinsics.scaled(width, height)
    nearest = {"dsize": (width, height), "interpolation": cv2.INTER_NEAREST}
    depth = np.asarray(cv2.resize(frame.depth, **nearest), np.float32)
    labels = np.asarray(cv2.resize(frame.labels, **nearest), np.uint8)
    truth = Answer(None, None, depth, None, answer.size, {})
    return [organised(answer, small, 1, some) for some in leave_out], organised(truth, small, 1), labels


def rows_of(engine: Engine, frames: Iterator[Frame], tell: Callable[[], None]) -> list[Row]:
    """The table."""
    floors = ids_of(FLOORS, engine.classes)
    ways: dict[str, tuple[int, ...]] = {"all points": (), f"without {', '.join(FLOORS)}": floors}
    sums: dict[str, defaultdict[str, float]] = {name: defaultdict(float) for name in ways}
    used = 0
    for frame in frames:
        found, truth, labels = clouds(engine, frame, list(ways.values()))
        tell()
        for name, cloud in zip(ways, found, strict=True):
            count = counted(truth, cloud, labels, floors)
            if count is None:
                continue
            used += name == "all points"
            # Each picture counts alike, where there is enough to count.
            for kind, of in (("false", "floor"), ("right", "thing")):
                if count[of] >= _FEWEST:
                    sums[name][of] += 1
                    for height in THRESHOLDS:
                        sums[name][f"{kind} {height}"] += count[kind][height] / count[of]
    if not used:
        raise UserError("no picture shows enough floor within three metres: obstacles cannot be told")
    question = f"what is an obstacle by its points ({used} pictures, within {_RANGE:g} m)"
    return [
        Row(question=question, method=name, setting=f"above {height:g} m", metric=metric, value=share, unit="%")
        for name, known in sums.items()
        for height in THRESHOLDS
        for metric, share in (
            ("of floor points", 100 * known[f"false {height}"] / max(1.0, known["floor"])),
            ("of points of things", 100 * known[f"right {height}"] / max(1.0, known["thing"])),
        )
    ]


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write rows."""
    parser = engine_parser("obstacles", __doc__)
    parser.add_argument("--data", required=True, metavar="KIND:FOLDER", help="labelled pictures with depth")
    parser.add_argument("--split", default="validation", help="a part of it (default validation)")
    options = parser.parse_args(argv)
    load = os.getloadavg()[0]
    engine = engine_of(options)
    world = open_world_for(options.data, options.split, engine.classes, ("segmentation", "depth"))
    frames = world.with_truth()
    with tqdm(total=len(frames), desc="obstacles", unit="frame", file=sys.stderr) as bar:
        found = rows_of(engine, (f for f in frames if f.depth is not None and f.labels is not None), bar.update)
    finish([*found, on_what(engine, load)], options.out)
    return 0


if __name__ == "__main__":
    run(main)
