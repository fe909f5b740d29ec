"""Frames in, answers out: fast path, keyframes beside it or in it, one memory a camera, everything metered."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mila_ros.models.mila import Memory
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.memory import KeyframeSlot
from mila_ros.runtime.meter import Meter
from mila_ros.runtime.passing import Answer, Picture, Seen
from mila_ros.runtime.scene import SceneWatch
from mila_ros.runtime.scheduler import KeyframeScheduler, Reason
from mila_ros.runtime.shortage import Shortage, out_of_memory, tried_twice
from mila_ros.runtime.slots import NewestSlots

MODES = ("asynchronous", "synchronous")


@dataclass(frozen=True)
class KeyframeState:
    """The keyframe that answers a camera at the moment."""

    number: int  # 0: none
    age: float  # seconds since its picture arrived; NaN: none
    distance: int  # frames of the camera since
    match: float = math.nan  # how alike the newest frame and it look, at most 1; NaN: not known
    problem: str | None = None  # why the last one that was begun came to nothing; None: it did not


@dataclass
class _Camera:
    scheduler: KeyframeScheduler
    slot: KeyframeSlot[Memory]
    watch: SceneWatch = field(default_factory=SceneWatch)
    shortage: Shortage = field(default_factory=Shortage)
    busy: bool = False  # a keyframe of this camera waits or runs
    size: tuple[int, int] | None = None
    stamp_ns: int | None = None
    frame: int = 0
    problem: str | None = None  # of the last keyframe that was begun


@dataclass(frozen=True)
class _Job:
    """A picture for the slow network, or (without one) arithmetic to be counted."""

    picture: Picture | None
    frame: int
    captured: float
    epoch: int
    size: tuple[int, int]
    tasks: tuple[str, ...]


LONGEST_START = 60.0
"""Seconds that are waited for a thread to warm up; whatever hangs then will be seen to hang."""
_COUNTING = " counting"  # a place in the slots that no camera can have


class Pipeline:
    """The runtime of one model and some cameras.

    `answer` is called by one thread, inside `with pipeline.fast_thread()`; or its halves, `look` and `tell`, each by a
    thread of its own, so that a frame is looked at while the one before it is told of. In asynchronous mode a keyframe
    is made by a thread of its own while frames are answered from the memory before it; in synchronous mode the frame
    that is due waits for the slow network and is answered from its features.

    Args:
        engine: runs the model.
        cameras: their names.
        mode: asynchronous or synchronous; may be changed at any time.
        period: seconds between keyframes of a camera.
        max_age: seconds after which a memory is no longer used.
        fall: of the match between frame and keyframe by which a keyframe is taken early; 0: never. May be changed.
        clock: steady seconds; the `arrived` of frames is of this clock.
        on_error: called (from the thread) with a camera and a sentence when a keyframe or warming up failed.
        warm: (h, w) of pictures for which threads are made ready before they begin (`Engine.warm_up`); None: not.
    """

    def __init__(
        self,
        engine: Engine,
        cameras: Sequence[str],
        mode: str = "asynchronous",
        period: float = 0.333,
        max_age: float = math.inf,
        fall: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        on_error: Callable[[str, str], None] | None = None,
        warm: tuple[int, int] | None = None,
    ) -> None:
        self.engine = engine
        self._warm = warm
        self.mode = mode
        self.fall = fall
        self._clock = clock
        self._on_error = on_error
        self.meter = Meter(tuple(cameras), clock())
        self._cameras = {
            # Keyframes of several cameras are staggered over the period.
            name: _Camera(KeyframeScheduler(period, max_age, index / len(cameras)), KeyframeSlot())
            for index, name in enumerate(cameras)
        }
        self._counts, self._counting = True, Shortage()
        self._jobs: NewestSlots[_Job] = NewestSlots([*cameras, _COUNTING])
        self._thread = threading.Thread(target=self._slow_loop, name="mila-slow", daemon=True)
        self._begun = threading.Event()
        self._thread.start()
        self._begun.wait(LONGEST_START)  # with its warm-up, which would be in the way of the first frames

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in MODES:
            raise ValueError(f'mode is "{mode}", not one of {", ".join(MODES)}')
        self._mode = mode

    @property
    def period(self) -> float:
        """Seconds between keyframes of a camera; a new value takes effect at once."""
        return next(iter(self._cameras.values())).scheduler.period

    @period.setter
    def period(self, seconds: float) -> None:
        for camera in self._cameras.values():
            camera.scheduler.period = seconds

    @property
    def max_age(self) -> float:
        """Seconds after which a memory is no longer used."""
        return next(iter(self._cameras.values())).scheduler.max_age

    @max_age.setter
    def max_age(self, seconds: float) -> None:
        for camera in self._cameras.values():
            camera.scheduler.max_age = seconds

    def prepare_thread(self) -> AbstractContextManager[None]:
        """For a thread that calls `engine.upload` ahead of `answer`: see `Engine.prepare_thread`."""
        return self.engine.prepare_thread()

    @contextmanager
    def fast_thread(self, parts: Sequence[str] = ("look", "tell")) -> Iterator[None]:
        """For the thread that calls `answer`, or only those `parts` of it: see `Engine.fast_thread`. Inside, the thread
        is warm."""
        with self.engine.fast_thread():
            self._warm_up(("keyframe alone", *parts) if self._mode == "synchronous" and "look" in parts else parts)
            yield

    def _warm_up(self, parts: Sequence[str]) -> None:
        """Make the calling thread ready. Frames may still be answered where this fails: of another size, say."""
        if self._warm is None:
            return
        try:
            self.engine.warm_up(*self._warm, parts)
        except Exception as error:
            if self._on_error is not None:
                self._on_error(next(iter(self._cameras)), f"warming up failed: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Stop the slow network's thread (a keyframe that runs is finished first)."""
        self._jobs.close()
        self._thread.join()

    def keyframe_state(self, camera: str, now: float, frame: int) -> KeyframeState:
        """The keyframe of a camera, for a frame number and a time."""
        state = self._cameras[camera]
        keyframe = state.slot.get()
        if keyframe is None:
            return KeyframeState(0, math.nan, 0, problem=state.problem)
        match = state.watch.match(keyframe.number)
        return KeyframeState(
            keyframe.number,
            now - keyframe.captured,
            max(0, frame - keyframe.frame),
            math.nan if match is None else match,
            state.problem,
        )

    def break_in(self, camera: str, size: tuple[int, int], stamp_ns: int | None = None) -> str | None:
        """Why a frame does not continue the one before it, in words; None if it does."""
        state = self._cameras[camera]
        if state.size is not None and size != state.size:
            return f"the size changed from {state.size[1]}x{state.size[0]} to {size[1]}x{size[0]}"
        if stamp_ns is not None and state.stamp_ns is not None and stamp_ns < state.stamp_ns:
            back = (state.stamp_ns - stamp_ns) * 1e-9
            return f"the stamp jumped back by {back:.3f} s"
        return None

    def answer(
        self,
        camera: str,
        frame_picture: npt.NDArray[np.uint8] | Picture,
        tasks: Sequence[str],
        focal: float,
        arrived: float,
        frame: int,
        stamp_ns: int | None = None,
        confidence: bool = False,
    ) -> tuple[Answer, str | None]:
        """Answer one frame: `look`, then `tell`.

        Returns:
            The answer, and a sentence if the frame does not continue the one before it (the keyframe was forgotten).

        Raises:
            ValueError: a picture that the networks cannot take.
        """
        seen = self.look(camera, frame_picture, tasks, focal, arrived, frame, stamp_ns, confidence)
        return self.tell(seen), seen.broken

    def look(
        self,
        camera: str,
        frame_picture: npt.NDArray[np.uint8] | Picture,
        tasks: Sequence[str],
        focal: float,
        arrived: float,
        frame: int,
        stamp_ns: int | None = None,
        confidence: bool = False,
    ) -> Seen:
        """The first half: whatever there is between frames happens here, so frames of a camera come in their order.

        Args:
            camera: its name.
            frame_picture: RGB (H, W, 3) uint8, or what `engine.upload` made of it.
            tasks: those that somebody wants.
            focal: fx in pixels of the camera's picture.
            arrived: when it came, on the pipeline's clock.
            frame: the camera's running number of the frame.
            stamp_ns: the header's stamp; one that jumps back makes the pipeline forget the keyframe.
            confidence: also give segmentation's confidence.

        Raises:
            ValueError: a picture that the networks cannot take.
        """
        state = self._cameras[camera]
        picture = frame_picture if isinstance(frame_picture, Picture) else self.engine.upload(frame_picture)
        why = self.break_in(camera, picture.original, stamp_ns)
        keyframe = state.slot.get()
        if why is not None or (keyframe is not None and keyframe.size != picture.size):
            state.slot.forget()
            keyframe = None
        state.size, state.stamp_ns, state.frame = picture.original, stamp_ns, frame
        tasks = tuple(tasks)
        left = keyframe is not None and state.watch.left(keyframe.number)
        reason = state.scheduler.due(arrived, keyframe.captured if keyframe else None, left)
        if not state.shortage.allows(arrived):
            reason = None  # the next one is tried when its time has come
        number: int | None = None
        memory: Memory | None = None
        if reason is not None and self._mode == "synchronous":
            memory = self._keyframe_now(camera, picture, reason, arrived, frame)
        if memory is not None:
            looked = self.engine.recall(picture, memory)
        else:
            if reason is not None and self._mode == "asynchronous" and not state.busy:
                state.busy = True
                state.scheduler.started(arrived)
                self.meter.keyframe_reason(reason.value)
                self._jobs.put(camera, _Job(picture, frame, arrived, state.slot.epoch, picture.size, tasks))
            fresh = keyframe is not None and state.scheduler.fresh(arrived, keyframe.captured)
            used = keyframe.memory if keyframe is not None and fresh else None
            with self._enough(camera):
                looked = tried_twice(lambda: self.engine.look(picture, used, tasks, match=self.fall > 0))
            self.meter.ran("fast", picture.size, tasks)
            if used is not None and keyframe is not None:
                self.meter.ran("ila", picture.size, tasks)
                number = keyframe.number
        roomy = state.shortage.allows(arrived) and self._counting.allows(arrived)
        if roomy and self._counts and self.engine.known_flops(picture.size, tasks) is None:
            # After the frame's own keyframe: counting may wait, frames without a keyframe are poor.
            self._jobs.put(_COUNTING, _Job(None, frame, arrived, 0, picture.size, tasks))
        return Seen(camera, looked, tasks, focal, confidence, why, number)

    def tell(self, seen: Seen) -> Answer:
        """The second half."""
        looked, tasks = seen.looked, seen.tasks
        with self._enough(seen.camera):
            answer = tried_twice(lambda: self.engine.tell(looked, tasks, seen.focal, seen.confidence))
        if seen.keyframe is not None:
            self._cameras[seen.camera].watch.seen(seen.keyframe, answer.match, self.fall)
        self.meter.ran("heads_slow" if looked.features.slow else "heads", looked.picture.size, tasks)
        self.meter.ran("frame", looked.picture.size, tasks)
        self.meter.times(answer.milliseconds)
        return answer

    @contextmanager
    def _enough(self, camera: str) -> Iterator[None]:
        """Around half an answer: where memory is lacking even for that, the camera's keyframe makes room for the next
        frame's, and the slow network waits."""
        try:
            yield
        except Exception as error:
            state, now = self._cameras[camera], self._clock()
            if out_of_memory(error):
                state.slot.forget()
                if state.shortage.allows(now):  # else it waits already: frames fail many times a second
                    wait = state.shortage.lacked(now)
                    state.problem = f"no memory is left for frames: no keyframe is tried for {wait:.0f} s"
            raise

    def _keyframe_now(self, camera: str, picture: Picture, reason: Reason, arrived: float, frame: int) -> Memory | None:
        """The slow network's answer to the frame itself; None: the device has no memory for it."""
        state = self._cameras[camera]
        state.scheduler.started(arrived)
        self.meter.keyframe_reason(reason.value)
        before = self._before(camera, picture.size, arrived)
        try:
            memory, slow_ms = tried_twice(lambda: self.engine.keyframe(picture, before, alone=True))
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._failed(camera, error)
            return None
        self.meter.time("slow", slow_ms)
        self._finished(camera, picture.size, memory, frame, arrived, state.slot.epoch)
        state.problem = None
        return memory

    def _failed(self, camera: str, error: Exception) -> None:
        """Remember and say why there is no keyframe."""
        state = self._cameras.get(camera)
        what = "the slow network" if state is not None else "counting its arithmetic"
        problem = f"{what} failed: {type(error).__name__}: {error}"
        if out_of_memory(error):
            wait = (self._counting if state is None else state.shortage).lacked(self._clock())
            problem = f"no memory is left for {what}, which is tried again in {wait:.0f} s: {error}"
        if state is not None:
            state.problem = problem
        if self._on_error is not None:
            self._on_error(camera, problem)

    def _finished(
        self, camera: str, size: tuple[int, int], memory: Memory, frame: int, captured: float, epoch: int
    ) -> None:
        self.meter.ran("slow", size, self.engine.tasks)
        self._cameras[camera].shortage.over()
        if self._cameras[camera].slot.put(memory, frame, captured, size, epoch) is not None:
            self.meter.keyframe(camera, self._clock())

    def _before(self, camera: str, size: tuple[int, int], captured: float) -> Memory | None:
        """What is remembered when a keyframe is begun, unless it is of another size or too old."""
        state = self._cameras[camera]
        keyframe = state.slot.get()
        if keyframe is None or keyframe.size != size or not state.scheduler.fresh(captured, keyframe.captured):
            return None
        return keyframe.memory

    def _slow_loop(self) -> None:
        try:
            with self.engine.slow_thread():
                self._warm_up(("keyframe",))
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
            if camera in self._cameras:
                self._cameras[camera].problem = None
        finally:
            if camera in self._cameras:
                self._cameras[camera].busy = False

    def _work(self, camera: str, job: _Job) -> None:
        if job.picture is None:
            if self.engine.known_flops(job.size, job.tasks) is None:
                try:
                    self.engine.flops(job.size, job.tasks)
                except Exception as error:
                    # Once is enough: it must not come between keyframes again and again. But memory may come back.
                    self._counts = out_of_memory(error)
                    raise
            return
        memory, slow_ms = self.engine.keyframe(job.picture, self._before(camera, job.size, job.captured))
        self.meter.time("slow", slow_ms)
        self._finished(camera, job.size, memory, job.frame, job.captured, job.epoch)
