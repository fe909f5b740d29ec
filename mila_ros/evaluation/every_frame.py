"""Replay without a clock: every frame of a recording is answered, so that the same command gives the same numbers.

Two kinds of method are judged on the same frames: "slow", the slow network on every frame, and "mila/K", a keyframe
each K frames and the fast path between them. A keyframe is answered from the slow network's features (the node's
synchronous mode).

Each step is a thread of its own, some frames ahead of the next one: reading, slow network, fast network and heads,
judging.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mila_ros.camera_info import CameraInfoError
from mila_ros.evaluation.busy import Busy
from mila_ros.evaluation.calibration import Calibration
from mila_ros.evaluation.consistency import Consistency, angle_between
from mila_ros.evaluation.ground_truth import GroundTruth, as_tensors
from mila_ros.evaluation.prefetch import prefetched
from mila_ros.evaluation.tally import Tally
from mila_ros.evaluation.uninterrupted import uninterrupted
from mila_ros.models.mila import Memory
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Answer, Picture
from mila_ros.worlds.bags import Bag, BagTruncated
from mila_ros.worlds.frames import IGNORE, Frame

Arrays = dict[str, npt.NDArray[Any]]
SHOWN_EVENLY, SHOWN_WORST = 5, 3
_APART_NS = 1_000_000_000
"""Between two of the worst frames, which otherwise would be neighbours. Nanoseconds."""


@dataclass
class Shown:
    """A frame for the report."""

    stamp_ns: int
    number: int
    """Of the frame in the recording, from 0."""
    rgb: npt.NDArray[np.uint8]
    answers: Arrays
    """Of the first MILA method."""
    truth: Arrays
    distance: int
    """Frames since its keyframe."""
    badness: float
    """How wrong it is (`wrongness`); without ground truth: how unlike the slow network's answers."""


@dataclass(frozen=True)
class _Seen:
    """A frame that went through the slow network."""

    frame: Frame
    truth: Arrays
    picture: Picture
    memory: Memory
    slow_ms: float


@dataclass(frozen=True)
class _Answered:
    """A frame that every method has answered."""

    frame: Frame
    truth: Arrays
    given: dict[str, Answer]
    distances: dict[str, int]
    """Frames since the keyframe, by method that has keyframes."""
    stages: list[dict[str, float]]
    """Milliseconds of what ran for it."""


@dataclass
class EveryFrame:
    """What one pass gives."""

    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By method: as Tally.compute, with `consistency`, `calibration` (where there are labels) and (but for "slow")
    `agreement` with the slow network."""
    frames: int = 0
    first_ns: int = 0
    """Stamp of the first one."""
    with_truth: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("depth", "labels", "normals"), 0))
    """How many had it in the recording, by kind."""
    milliseconds: dict[str, float] = field(default_factory=dict)
    """Mean time of a run of each stage."""
    network_share: float = 0.0
    """Of the time that the pass took, in how much at least one thread was making answers: networks, attention, heads,
    and what turns their maps into classes, metres and vectors."""
    seconds: float = 0.0
    interrupted: bool = False
    ended_early: str | None = None
    """Why the recording could not be replayed to its end, though it could be read."""
    sums: dict[str, dict[str, npt.NDArray[Any]]] = field(default_factory=dict)
    """By method: as TaskMetrics.sums, to be added to those of other recordings."""
    evenly: list[Shown] = field(default_factory=list)
    worst: list[Shown] = field(default_factory=list)
    strange_labels: set[int] = field(default_factory=set)
    size: tuple[int, int] = (0, 0)
    """Of the answers, (h, w)."""


class EveryFramePass:
    """One pass over one recording.

    Args:
        engine: with the model.
        intervals: K of the methods "mila/K".
        truth: prepares the ground truth.
        expected: frames in the recording, for the progress bar and the choice of pictures.
        on_frame: called with every Shown, for a recording of the answers; None: nobody wants them.
    """

    def __init__(
        self, engine: Engine, intervals: Sequence[int], truth: GroundTruth, expected: int, on_frame: Any = None
    ) -> None:
        self._engine, self._intervals, self._truth = engine, tuple(intervals), truth
        self._expected, self._on_frame = max(1, expected), on_frame
        tasks, classes = engine.tasks, len(engine.classes)
        self._names = ["slow", *(f"mila/{k}" for k in intervals)]
        self._tallies = {name: Tally(tasks, classes) for name in self._names}
        self._agreement = {name: Tally(tasks, classes) for name in self._names[1:]}
        self._consistency = Consistency()
        self._calibration = {name: Calibration() for name in self._names}
        self._busy = Busy()
        self._times: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._result = EveryFrame()
        self._worst: dict[int, Shown] = {}
        self._evenly: dict[int, Shown] = {}
        self._truth_seen = False

    def run(self, bag: Bag, seconds: float | None = None) -> EveryFrame:
        """All of the recording, or its first seconds. Ctrl-C ends it early, with a valid result of what was seen."""
        begin = time.perf_counter()
        result = self._result
        if seconds is not None and seconds < bag.duration:
            self._expected = max(1, round(self._expected * seconds / bag.duration))
        shown = tqdm(total=self._expected, desc="every frame", unit="frame", file=sys.stderr, mininterval=0.5)
        answered = prefetched(self._answered(bag), ahead=2)
        try:
            with self._engine.prepare_thread():
                first_ns: int | None = None
                for each in answered:
                    stamp_ns = each.frame.stamp_ns or 0
                    first_ns = stamp_ns if first_ns is None else first_ns
                    if seconds is not None and stamp_ns - first_ns > seconds * 1e9:
                        break
                    with uninterrupted():  # or methods would be judged on different frames
                        self._judge(each)
                    shown.update()
        except BagTruncated:
            pass  # the bag tells of it itself
        except CameraInfoError as error:
            if not result.frames:
                raise
            result.ended_early = str(error)  # a change of shape: what was seen until then counts
        except KeyboardInterrupt:
            result.interrupted = True
        finally:
            answered.close()
            shown.close()
        result.seconds = time.perf_counter() - begin
        result.network_share = self._busy.seconds / result.seconds
        result.milliseconds = {name: total / runs for name, (runs, total) in self._times.items() if runs}
        consistency = self._consistency.compute()
        for name, tally in self._tallies.items():
            result.methods[name] = tally.compute() | {"consistency": consistency.get(name, {})}
            calibration = self._calibration[name].compute()
            if calibration is not None:
                result.methods[name]["calibration"] = calibration
            if name in self._agreement:
                result.methods[name]["agreement"] = self._agreement[name].compute()["metrics"]
            result.sums[name] = tally.total.sums()
        result.evenly = [self._evenly[part] for part in sorted(self._evenly)]
        for shown_frame in sorted(self._worst.values(), key=lambda each: -each.badness):
            apart = all(abs(shown_frame.stamp_ns - other.stamp_ns) >= _APART_NS for other in result.worst)
            if apart and len(result.worst) < SHOWN_WORST:
                result.worst.append(shown_frame)
        result.strange_labels = self._truth.strange_labels
        return result

    def _read(self, bag: Bag) -> Iterator[tuple[Frame, Arrays]]:
        for frame in bag.frames():
            yield frame, self._truth.of(frame, self._engine.output_size(*frame.rgb.shape[:2]))

    def _slow(self, bag: Bag) -> Iterator[_Seen]:
        """Every frame through the slow network, one or two frames ahead of the fast one."""
        with self._engine.slow_thread(), closing(prefetched(self._read(bag), ahead=4)) as frames:
            for frame, truth in frames:
                picture = self._engine.upload(frame.rgb)
                with self._busy.working():
                    memory, slow_ms = self._engine.keyframe(picture)
                yield _Seen(frame, truth, picture, memory, slow_ms)

    def _answered(self, bag: Bag) -> Iterator[_Answered]:
        """Every frame answered by every method."""
        running: dict[int, Memory] = {}
        begun: dict[int, int] = {}
        size: tuple[int, int] | None = None
        with self._engine.fast_thread(), closing(prefetched(self._slow(bag), ahead=2)) as frames:
            for number, seen in enumerate(frames):
                if seen.picture.size != size:  # nothing can be carried to another size
                    running.clear()
                    size = seen.picture.size
                with self._busy.working():
                    answered = self._answer(seen, number, running, begun)
                yield answered

    def _answer(self, seen: _Seen, number: int, running: dict[int, Memory], begun: dict[int, int]) -> _Answered:
        """One frame. running, begun: memory and number of the newest keyframe, by interval; brought up to date."""
        engine, picture, alone, focal = self._engine, seen.picture, seen.memory, seen.frame.intrinsics.fx
        stages = [{"slow": seen.slow_ms}]
        sure = "segmentation" in seen.truth  # it costs as much as the task's answers, so only where it can be judged
        given = {"slow": engine.answer_keyframe(picture, alone, engine.tasks, focal, sure)}
        stages.append(given["slow"].milliseconds)
        distances: dict[str, int] = {}
        for interval in self._intervals:
            name = f"mila/{interval}"
            before = running.get(interval)
            if before is None or number - begun[interval] >= interval:
                memory = alone
                if before is not None and engine.model.config.frames > 1:
                    memory, slow_ms = engine.keyframe(picture, before)
                    stages.append({"slow": slow_ms})
                running[interval], begun[interval] = memory, number
                given[name] = given["slow"]
            else:
                given[name] = engine.answer(picture, before, engine.tasks, focal, sure)
                stages.append(given[name].milliseconds)
            distances[name] = number - begun[interval]
        return _Answered(seen.frame, seen.truth, given, distances, stages)

    def _judge(self, answered: _Answered) -> None:
        frame, arrays, given, distances = answered.frame, answered.truth, answered.given, answered.distances
        stamp_ns, number = frame.stamp_ns or 0, self._result.frames
        for stages in answered.stages:
            self._time(stages)
        answers = {name: answer.by_task() for name, answer in given.items()}
        for name, answer in given.items() if "segmentation" in arrays else ():
            if answer.confidence is not None and answer.segmentation is not None:
                self._calibration[name].update(answer.confidence, answer.segmentation, arrays["segmentation"])
        truth, said = as_tensors(arrays), {name: as_tensors(a) for name, a in answers.items()}
        for name, tally in self._tallies.items():
            tally.add(said[name], truth, stamp_ns, distances.get(name))
        for name, tally in self._agreement.items():
            tally.add(said[name], said["slow"], stamp_ns)
        self._consistency.update(frame.rgb, answers, stamp_ns)
        if not self._result.frames:
            self._result.first_ns = stamp_ns
        self._result.frames += 1
        for kind, values in (("depth", frame.depth), ("labels", frame.labels), ("normals", frame.normals)):
            self._result.with_truth[kind] += values is not None
        first = self._names[min(1, len(self._names) - 1)]
        size = next(iter(answers[first].values())).shape[:2]
        self._result.size = (int(size[0]), int(size[1]))
        badness = wrongness(answers[first], arrays or answers["slow"])
        self._choose(Shown(stamp_ns, number, frame.rgb, answers[first], arrays, distances.get(first, 0), badness))

    def _choose(self, shown: Shown) -> None:
        """Keep it if it is one of those that are spread evenly, or one of the worst; those with ground truth first.

        Those that are spread lie half-way between two keyframes: there MILA shows what it is, and not the slow network.
        """
        part = min(SHOWN_EVENLY - 1, int(shown.number * SHOWN_EVENLY / self._expected))
        present = self._evenly.get(part)
        half = self._intervals[0] // 2 if self._intervals else 0
        if present is None or (bool(shown.truth), shown.distance == half) > (
            bool(present.truth),
            present.distance == half,
        ):
            self._evenly[part] = shown
        if shown.truth and not self._truth_seen:
            self._truth_seen = True
            self._worst.clear()  # what was unlike the slow network is no measure any more
        second = shown.stamp_ns // _APART_NS
        worse = second not in self._worst or self._worst[second].badness < shown.badness
        if worse and (shown.truth or not self._truth_seen):
            self._worst[second] = shown
        if len(self._worst) > 3 * SHOWN_WORST:
            del self._worst[min(self._worst, key=lambda key: self._worst[key].badness)]
        if self._on_frame is not None:
            self._on_frame(shown)

    def _time(self, stages: dict[str, float]) -> None:
        for name, milliseconds in stages.items():
            entry = self._times[name]
            entry[0] += 1
            entry[1] += milliseconds


def error_maps(answers: Arrays, truth: Arrays) -> Arrays:
    """How wrong each pixel is, by task, (h, w) float32 in 0..1; NaN where nothing is known.

    Segmentation: 0 or 1. Depth: relative error, 1 at 50 %. Normals: angle, 1 at 60 degrees.
    """
    maps: Arrays = {}
    for task in answers.keys() & truth.keys():
        said, true = answers[task], truth[task]
        if task == "segmentation":
            error = np.where(true == IGNORE, np.nan, (said != true).astype(np.float32))
        elif task == "depth":
            true = np.where(true > 0, true, np.nan)
            error = np.abs(said - true) / true / 0.5
        else:
            error = angle_between(said, true) / 60
        maps[task] = np.clip(error, 0, 1).astype(np.float32)
    return maps


def wrongness(answers: Arrays, truth: Arrays) -> float:
    """The sum of the tasks' mean errors (`error_maps`); 0 where nothing is known."""
    means = [float(np.nanmean(error)) for error in error_maps(answers, truth).values() if np.isfinite(error).any()]
    return sum(means)
