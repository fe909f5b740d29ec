"""The slow side: which keyframes are due, a thread that makes them, and what each camera remembers of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mila_ros.models.mila import Memory
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.memory import Keyframe, KeyframeSlot
from mila_ros.runtime.meter import Meter
from mila_ros.runtime.passing import Ask, Picture
from mila_ros.runtime.scene import SceneWatch
from mila_ros.runtime.scheduler import KeyframeScheduler, Reason
from mila_ros.runtime.shortage import Shortage, out_of_memory, tried_twice
from mila_ros.runtime.slots import NewestSlots

LONGEST_START = 60.0
"""Seconds that are waited for a thread to warm up; whatever hangs then will be seen to hang."""
_COUNTING = " counting"  # a place in the slots that no camera can have


@dataclass(frozen=True)
class KeyframeState:
    """The keyframe that answers a camera at the moment."""

    number: int  # 0: none
    age: float  # seconds since its picture arrived; NaN: none
    distance: int  # frames of the camera since
    match: float = math.nan  # how alike the newest frame and it look, at most 1; NaN: not known
    problem: str | None = None  # why the last one that was begun came to nothing; None: it did not


@dataclass
class CameraMemory:
    """What there is of one camera's keyframes."""

    scheduler: KeyframeScheduler
    slot: KeyframeSlot[Memory] = field(default_factory=KeyframeSlot)
    watch: SceneWatch = field(default_factory=SceneWatch)
    shortage: Shortage = field(default_factory=Shortage)
    busy: bool = False  # a keyframe of this camera waits or runs
    problem: str | None = None  # of the last keyframe that was begun

    def due(self, now: float, keyframe: Keyframe[Memory] | None) -> Reason | None:
        """Whether a keyframe should be taken now, and why."""
        if not self.shortage.allows(now):
            return None  # the next one is tried when its time has come
        left = keyframe is not None and self.watch.left(keyframe.number)
        return self.scheduler.due(now, keyframe.captured if keyframe else None, left)

    def fresh(self, now: float, keyframe: Keyframe[Memory] | None, size: tuple[int, int]) -> Memory | None:
        """What the keyframe left, unless it is too old or of another size."""
        if keyframe is None or keyframe.size != size or not self.scheduler.fresh(now, keyframe.captured):
            return None
        return keyframe.memory

    def state(self, now: float, frame: int) -> KeyframeState:
        """For a frame number and a time."""
        keyframe = self.slot.get()
        if keyframe is None:
            return KeyframeState(0, math.nan, 0, problem=self.problem)
        match = self.watch.match(keyframe.number)
        age, distance = now - keyframe.captured, max(0, frame - keyframe.frame)
        return KeyframeState(keyframe.number, age, distance, math.nan if match is None else match, self.problem)


@dataclass(frozen=True)
class _Job:
    """A picture for the slow network, or (without one) arithmetic to be counted."""

    picture: Picture | None
    frame: int
    captured: float
    epoch: int
    size: tuple[int, int]
    tasks: tuple[str, ...]
    stamp_ns: int | None = None


class Keyframes:
    """Makes keyframes: in a thread of its own (`ask`), or at once for who waits (`make`).

    Args:
        engine: runs the slow network.
        cameras: their names.
        period: seconds between keyframes of a camera.
        max_age: seconds after which a memory is no longer used.
        meter: counts.
        clock: steady seconds.
        on_error: called with a camera and a sentence when one failed.
        warm_up: called by the thread before it begins.
    """

    def __init__(
        self,
        engine: Engine,
        cameras: Sequence[str],
        period: float,
        max_age: float,
        meter: Meter,
        clock: Callable[[], float],
        on_error: Callable[[str, str], None],
        warm_up: Callable[[], None],
    ) -> None:
        self._engine, self._meter, self._clock = engine, meter, clock
        self._on_error, self._warm_up = on_error, warm_up
        self.of = {
            # Keyframes of several cameras are staggered over the period.
            name: CameraMemory(KeyframeScheduler(period, max_age, index / len(cameras)))
            for index, name in enumerate(cameras)
        }
        self._counts, self._counting = True, Shortage()
        self._jobs: NewestSlots[_Job] = NewestSlots([*cameras, _COUNTING])
        self._begun, self._done = threading.Event(), threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="mila-slow", daemon=True)
        self._thread.start()
        self._begun.wait(LONGEST_START)  # with its warm-up, which would be in the way of the first frames

    def close(self) -> None:
        """Stop the thread (a keyframe that runs is finished first)."""
        self._jobs.close()
        self._thread.join()

    def ask(self, ask: Ask, picture: Picture, reason: Reason) -> None:
        """Have a keyframe made of a frame beside the frames, unless one of its camera waits or runs already.

        picture: what was uploaded of it.
        """
        state = self.of[ask.camera]
        if state.busy:
            return
        state.busy = True
        state.scheduler.started(ask.arrived)
        self._meter.keyframe_reason(reason.value)
        job = _Job(picture, ask.frame, ask.arrived, state.slot.epoch, picture.size, ask.tasks, ask.stamp_ns)
        self._jobs.put(ask.camera, job)

    def wait(self, camera: str, seconds: float) -> None:
        """Until no keyframe of this camera waits or runs, or for so long."""
        with self._done:
            self._done.wait_for(lambda: not self.of[camera].busy, seconds)

    def make(self, ask: Ask, picture: Picture, reason: Reason) -> tuple[Keyframe[Memory], float] | None:
        """Make one now, with the threads of both networks; and the milliseconds it took. None: the device has no memory
        for it."""
        state = self.of[ask.camera]
        state.scheduler.started(ask.arrived)
        self._meter.keyframe_reason(reason.value)
        before = state.fresh(ask.arrived, state.slot.get(), picture.size)
        try:
            memory, slow_ms = tried_twice(lambda: self._engine.keyframe(picture, before, alone=True))
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._failed(ask.camera, error)
            return None
        self._meter.time("slow", slow_ms)
        state.problem = None
        job = _Job(picture, ask.frame, ask.arrived, state.slot.epoch, picture.size, ask.tasks, ask.stamp_ns)
        made = self._finished(ask.camera, job, memory)
        return None if made is None else (made, slow_ms)

    def count(self, camera: str, size: tuple[int, int], tasks: tuple[str, ...], arrived: float) -> None:
        """Have the arithmetic of such frames counted once. After a frame's own keyframe: counting may wait, frames
        without a keyframe are poor."""
        roomy = self.of[camera].shortage.allows(arrived) and self._counting.allows(arrived)
        if roomy and self._counts and self._engine.known_flops(size, tasks) is None:
            self._jobs.put(_COUNTING, _Job(None, 0, arrived, 0, size, tasks))

    @contextmanager
    def enough(self, camera: str) -> Iterator[None]:
        """Around half an answer: where memory is lacking even for that, the camera's keyframe makes room for the next
        frame's, and the slow network waits."""
        try:
            yield
        except Exception as error:
            state, now = self.of[camera], self._clock()
            if out_of_memory(error):
                state.slot.forget()
                if state.shortage.allows(now):  # else it waits already: frames fail many times a second
                    wait = state.shortage.lacked(now)
                    state.problem = f"no memory is left for frames: no keyframe is tried for {wait:.0f} s"
            raise

    def _finished(self, camera: str, job: _Job, memory: Memory) -> Keyframe[Memory] | None:
        self._meter.ran("slow", job.size, self._engine.tasks)
        state = self.of[camera]
        state.shortage.over()
        made = state.slot.put(memory, job.frame, job.captured, job.size, job.epoch, job.stamp_ns)
        if made is not None:
            self._meter.keyframe(camera, self._clock())
        return made

    def _loop(self) -> None:
        try:
            with self._engine.slow_thread():
                self._warm_up()
                self._begun.set()
                while (taken := self._jobs.take()) is not None:
                    self._work_on(*taken)
        finally:
            self._begun.set()

    def _work_on(self, camera: str, job: _Job) -> None:
        try:
            tried_twice(lambda: self._work(camera, job))
        except Exception as error:  # one bad picture must not end all keyframes
            self._failed(camera, error)
        else:
            if camera in self.of:
                self.of[camera].problem = None
        finally:
            with self._done:
                if camera in self.of:
                    self.of[camera].busy = False
                self._done.notify_all()

    def _failed(self, camera: str, error: Exception) -> None:
        """Remember and say why there is no keyframe."""
        state = self.of.get(camera)
        what = "the slow network" if state is not None else "counting its arithmetic"
        problem = f"{what} failed: {type(error).__name__}: {error}"
        if out_of_memory(error):
            wait = (self._counting if state is None else state.shortage).lacked(self._clock())
            problem = f"no memory is left for {what}, which is tried again in {wait:.0f} s: {error}"
        if state is not None:
            state.problem = problem
        self._on_error(camera, problem)

    def _work(self, camera: str, job: _Job) -> None:
        if job.picture is None:
            if self._engine.known_flops(job.size, job.tasks) is None:
                try:
                    self._engine.flops(job.size, job.tasks)
                except Exception as error:
                    # Once is enough: it must not come between keyframes again and again. But memory may come back.
                    self._counts = out_of_memory(error)
                    raise
            return
        state = self.of[camera]
        before = state.fresh(job.captured, state.slot.get(), job.size)
        memory, slow_ms = self._engine.keyframe(job.picture, before)
        self._meter.time("slow", slow_ms)
        self._finished(camera, job, memory)
