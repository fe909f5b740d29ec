"""Replay against the clock: what a robot would have known when each frame arrived.

Frames arrive at the recording's own pace whether or not the engine is ready, the newest one waiting is answered, and
each frame with ground truth is judged against the newest answer that existed when it arrived (streaming accuracy: Li,
Wang, Ramanan, "Towards Streaming Perception", ECCV 2020). So an answer is always at least one frame old, and a slow
method pays for its latency in accuracy. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from mila_ros import images
from mila_ros.errors import UserError
from mila_ros.evaluation.ground_truth import GroundTruth, as_tensors
from mila_ros.evaluation.prefetch import prefetched
from mila_ros.evaluation.tally import Tally
from mila_ros.evaluation.timeline import percentile
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.keyframes import LONGEST_START
from mila_ros.runtime.passing import Answer, Ask, Seen
from mila_ros.runtime.pauses import with_all, without_long_pauses
from mila_ros.runtime.pipeline import Pipeline
from mila_ros.runtime.scene import FALL
from mila_ros.runtime.slots import Handover, NewestSlots
from mila_ros.worlds.bags import Bag, BagError, BagTruncated, RawMessage, stamp_of

CAMERA = "replay"
MOST_JUDGED = 300
"""Frames whose answers are held in memory until they are judged: 1.3 MB each at 320x240."""
_AHEAD = 30
_PATIENCE = 5.0
"""Seconds to wait for the last answer."""


@dataclass(frozen=True)
class _Arrival:
    """A frame at the moment of its stamp."""

    message: RawMessage
    arrived: float
    number: int


@dataclass
class _Known:
    """The newest answer."""

    stamp_ns: int
    arrays: dict[str, Any]


@dataclass
class RealTime:
    """How one method did."""

    result: dict[str, Any] = field(default_factory=dict)
    """As Tally.compute."""
    frames: int = 0
    answered: int = 0
    dropped: int = 0
    failed: int = 0
    """Frames that could not be decoded or answered."""
    judged: int = 0
    too_early: int = 0
    """Frames with ground truth that arrived before the first answer: not judged."""
    age_ms: dict[str, float | None] = field(default_factory=dict)
    """p50, p95 and max of how old the judged answers were: arrival of the frame less the stamp of the answer's."""
    latency_ms: dict[str, float | None] = field(default_factory=dict)
    """p50, p95, p99 and max, from a frame's arrival to its answer."""
    interrupted: bool = False
    strange_labels: set[int] = field(default_factory=set)

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.result,
            "frames": {
                "arrived": self.frames,
                "answered": self.answered,
                "dropped": self.dropped,
                "failed": self.failed,
                "judged": self.judged,
                "before_the_first_answer": self.too_early,
            },
            "age_ms": self.age_ms,
            "latency_ms": self.latency_ms,
        }


class RealTimeRun:
    """One method, once through the recording; MILA as in the node: one thread looks at a frame while another tells of
    the one before it (`Engine.overlaps`).

    Args:
        engine: with the model; its arithmetic must have been counted (`engine.flops`) and warmed up.
        period: seconds between keyframes, asynchronously; None: no MILA but the slow network alone, on every frame that
            it can answer.
        truth: prepares the ground truth.
        seconds: stop after so much of the recording; None: all of it.
        size: (h, w) of the pictures, to make the threads ready for; None: the first answers take longer.
    """

    def __init__(
        self,
        engine: Engine,
        period: float | None,
        truth: GroundTruth,
        seconds: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._engine, self._truth, self._seconds, self._size = engine, truth, seconds, size
        self._begun = threading.Semaphore(0)
        self._slots: NewestSlots[_Arrival] = NewestSlots([CAMERA])
        self._pipeline: Pipeline | None = None
        self._failure: BaseException | None = None
        if period is not None:
            self._pipeline = Pipeline(
                engine, [CAMERA], period=period, fall=FALL, on_error=self._keyframe_failed, warm=size
            )
        overlaps = self._pipeline is not None and engine.overlaps
        self._looked: Handover[tuple[_Arrival, int, Seen]] | None = Handover() if overlaps else None
        self._held: dict[int, _Known] = {}
        self._known: _Known | None = None
        self._latencies: list[float] = []
        self.run = RealTime()
        # Normals are judged against the depth where the recording has none of its own.
        kinds = {"segmentation": {"labels"}, "depth": {"depth"}, "normals": {"normals", "depth"}}
        self._usable: set[str] = set().union(*(kinds[task] for task in engine.tasks))

    def play(self, open_bag: Callable[[], Bag], name: str) -> RealTime:
        """The run and, after it, the judging. open_bag: opens the recording anew."""
        workers = [threading.Thread(target=self._work, name="replay-fast", daemon=True)]
        if self._looked is not None:
            workers.append(threading.Thread(target=self._tell, name="replay-tell", daemon=True))
        try:
            with open_bag() as bag:
                self._focal, self._deserialize = self._focal_of(bag), bag.deserialize
                without_long_pauses()
                for worker in workers:
                    worker.start()
                for _ in workers:
                    self._begun.acquire(timeout=LONGEST_START)
                self._feed(bag, name)
                self._drain()
        except KeyboardInterrupt:
            self.run.interrupted = True
        finally:
            self._slots.close()
            if self._looked is not None:
                self._looked.close()
            for worker in workers:
                if worker.is_alive():
                    worker.join()
            if self._pipeline is not None:
                self._pipeline.close()
            with_all()
        if self._failure is not None:
            raise UserError(f"{name} ended by an error: {type(self._failure).__name__}: {self._failure}")
        with open_bag() as bag:
            self._judge(bag)
        run = self.run
        run.strange_labels = self._truth.strange_labels
        run.latency_ms = _spread(self._latencies, {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0})
        return run

    def _keyframe_failed(self, _camera: str, text: str) -> None:
        self._failure = RuntimeError(text)

    def _focal_of(self, bag: Bag) -> Callable[[int, int], float]:
        """fx by the picture's size, from the recording's first frame."""
        first = next(bag.frames(), None)
        if first is None:
            raise BagError(f"{bag.path}: no picture of {bag.color_topic} can be read")
        camera = first.intrinsics
        return lambda height, width: camera.scaled(width, height).fx

    def _feed(self, bag: Bag, name: str) -> None:
        """Let frames arrive; keeps what was known when those with ground truth did."""
        played = 1.0 if self._seconds is None else min(1.0, self._seconds / max(bag.duration, 1e-9))
        every, with_truth = max(1, math.ceil(bag.truth_count * played / MOST_JUDGED)), 0
        begin = first_ns = 0.0
        bar = tqdm(total=max(1, round(bag.color_count * played)), desc=name, unit="frame", file=sys.stderr)
        with closing(bar), closing(prefetched(self._pairs(bag), _AHEAD)) as pairs:
            for number, (message, true) in enumerate(pairs):
                stamp_ns = stamp_of(message)
                if number == 0:
                    begin, first_ns = time.monotonic(), stamp_ns
                due = begin + (stamp_ns - first_ns) * 1e-9
                if self._failure is not None or (self._seconds is not None and due - begin > self._seconds):
                    break
                if (wait := due - time.monotonic()) > 0:
                    time.sleep(wait)
                known = self._known
                if true:
                    with_truth += 1
                    if known is None:
                        self.run.too_early += 1
                    elif with_truth % every == 0:
                        self._held[stamp_ns] = known
                replaced = self._slots.put(CAMERA, _Arrival(message, time.monotonic(), number))
                self.run.dropped += replaced is not None
                self.run.frames += 1
                bar.update()

    def _drain(self) -> None:
        """Wait for the answer to the last frame."""
        run, end = self.run, time.monotonic() + _PATIENCE
        while run.answered + run.dropped + run.failed < run.frames and time.monotonic() < end:
            time.sleep(0.01)

    def _pairs(self, bag: Bag) -> Iterator[tuple[RawMessage, bool]]:
        try:
            for message, partners in bag.pairs():
                yield message, bool(partners.keys() & self._usable)
        except BagTruncated:
            return  # the bag tells of it itself

    def _work(self) -> None:
        parts = ("look", "tell") if self._looked is None else ("look",)
        with self._engine.fast_thread() if self._pipeline is None else self._pipeline.fast_thread(parts):
            try:
                if self._pipeline is None and self._size is not None:
                    self._engine.warm_up(*self._size, ("slow",))
            except Exception as error:
                self._failure = error
                return
            finally:
                self._begun.release()
            while (taken := self._slots.take()) is not None:
                _, arrival = taken
                try:
                    self._answer(arrival)
                except (images.ImageError, BagError, ValueError):
                    self.run.failed += 1
                except Exception as error:  # the device's memory, a driver: whoever plays is told
                    self._failure = error
                    return

    def _answer(self, arrival: _Arrival) -> None:
        rgb = images.decode_color(self._deserialize(arrival.message))
        stamp_ns = stamp_of(arrival.message)
        engine, focal = self._engine, self._focal(*rgb.shape[:2])
        if self._pipeline is None:
            self._knows(arrival, stamp_ns, engine.answer_slow(engine.upload(rgb), engine.tasks, focal))
            return
        seen = self._pipeline.look(Ask(CAMERA, rgb, engine.tasks, focal, arrival.arrived, arrival.number, stamp_ns))
        if self._looked is None:
            self._knows(arrival, stamp_ns, self._pipeline.tell(seen))
        else:
            self._looked.give((arrival, stamp_ns, seen))

    def _tell(self) -> None:
        assert self._pipeline is not None and self._looked is not None
        with self._pipeline.fast_thread(("tell",)):
            self._begun.release()
            while (taken := self._looked.take()) is not None:
                arrival, stamp_ns, seen = taken
                try:
                    self._knows(arrival, stamp_ns, self._pipeline.tell(seen))
                except ValueError:
                    self.run.failed += 1
                except Exception as error:
                    self._failure = error
                    self._looked.close()
                    return

    def _knows(self, arrival: _Arrival, stamp_ns: int, answer: Answer) -> None:
        """From now on this is the newest answer."""
        self._known = _Known(stamp_ns, answer.by_task())
        self._latencies.append((time.monotonic() - arrival.arrived) * 1e3)
        self.run.answered += 1

    def _judge(self, bag: Bag) -> None:
        """What was kept against the ground truth. Ctrl-C ends it early."""
        tally = Tally(self._engine.tasks, len(self._engine.classes))
        ages: list[float] = []
        try:
            with closing(prefetched(self._truths(bag), 4)) as truths:
                for stamp_ns, truth in truths:
                    known = self._held[stamp_ns]
                    tally.add(as_tensors(known.arrays), as_tensors(truth), stamp_ns)
                    ages.append((stamp_ns - known.stamp_ns) * 1e-6)
                    self.run.judged += 1
        except KeyboardInterrupt:
            self.run.interrupted = True
        self.run.result = tally.compute()
        self.run.age_ms = _spread(ages, {"p50": 0.5, "p95": 0.95, "max": 1.0})

    def _truths(self, bag: Bag) -> Iterator[tuple[int, dict[str, Any]]]:
        left = set(self._held)
        try:
            for message, partners in bag.pairs() if left else ():
                stamp_ns = stamp_of(message)
                frame = bag.frame(message, partners) if stamp_ns in left else None
                left.discard(stamp_ns)
                if frame is not None:
                    size = next(iter(self._held[stamp_ns].arrays.values())).shape[:2]
                    yield stamp_ns, self._truth.of(frame, size)
                if not left:
                    return  # the recording may go on for hours
        except BagTruncated:
            return


def _spread(values: list[float], shares: dict[str, float]) -> dict[str, float | None]:
    return {name: percentile(values, share) for name, share in shares.items()}
