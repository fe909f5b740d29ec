"""Frames in, answers out: fast path, keyframes beside it or in it, one memory a camera, everything metered."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from mila_ros.models.mila import Memory
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.keyframes import Keyframes, KeyframeState
from mila_ros.runtime.memory import Keyframe
from mila_ros.runtime.meter import Meter
from mila_ros.runtime.passing import Answer, Ask, Origin, Picture, Seen, Told
from mila_ros.runtime.shortage import out_of_memory, tried_twice, without_frames
from mila_ros.runtime.together import BatchSizes, shape_of

MODES = ("asynchronous", "synchronous")
_LONGEST_WAIT = 1.0
"""Seconds for which a frame waits for its own keyframe where none before it is of use."""


@dataclass
class _Last:
    """A camera's newest frame."""

    size: tuple[int, int] | None = None
    stamp_ns: int | None = None
    arrived: float = -math.inf


@dataclass(frozen=True)
class _Begun:
    """A frame whose turn has come."""

    ask: Ask
    picture: Picture
    memory: Memory | None
    """What it is answered from: a keyframe, or (`origin.slow`) the slow network's look at the frame itself."""
    broken: str | None
    origin: Origin


class Pipeline:
    """The runtime of one model and some cameras.

    `answer` is called by one thread, inside `with pipeline.fast_thread()`; or its halves, `look` and `tell`, each by a
    thread of its own, so that a frame is looked at while the one before it is told of. In asynchronous mode a keyframe
    is made by a thread of its own while frames are answered from the memory before it; only a frame that begins anew
    (the first one, after a break, or where frames come more seldom than keyframes age) waits for its own. In
    synchronous mode the frame that is due waits for the slow network and is answered from its features.

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
        self._sizes = BatchSizes()
        self._last = {name: _Last() for name in cameras}
        self._keyframes = Keyframes(
            engine,
            cameras,
            period,
            max_age,
            self.meter,
            clock,
            on_error or (lambda _camera, _text: None),
            lambda: self._warm_up(("keyframe",)),
        )

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
        return next(iter(self._keyframes.of.values())).scheduler.period

    @period.setter
    def period(self, seconds: float) -> None:
        for camera in self._keyframes.of.values():
            camera.scheduler.period = seconds

    @property
    def max_age(self) -> float:
        """Seconds after which a memory is no longer used."""
        return next(iter(self._keyframes.of.values())).scheduler.max_age

    @max_age.setter
    def max_age(self, seconds: float) -> None:
        for camera in self._keyframes.of.values():
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
            self.engine.warm_up(*self._warm, parts, len(self._last))
        except Exception as error:
            if self._on_error is not None:
                self._on_error(next(iter(self._last)), f"warming up failed: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Stop the slow network's thread (a keyframe that runs is finished first)."""
        self._keyframes.close()

    def keyframe_state(self, camera: str, now: float, frame: int) -> KeyframeState:
        """The keyframe of a camera, for a frame number and a time."""
        return self._keyframes.of[camera].state(now, frame)

    def break_in(self, camera: str, size: tuple[int, int], stamp_ns: int | None = None) -> str | None:
        """Why a frame does not continue the one before it, in words; None if it does."""
        state = self._last[camera]
        if state.size is not None and size != state.size:
            return f"the size changed from {state.size[1]}x{state.size[0]} to {size[1]}x{size[0]}"
        if stamp_ns is not None and state.stamp_ns is not None and stamp_ns < state.stamp_ns:
            back = (state.stamp_ns - stamp_ns) * 1e-9
            return f"the stamp jumped back by {back:.3f} s"
        return None

    def answer(self, ask: Ask) -> tuple[Answer, str | None]:
        """Answer one frame: `look`, then `tell`.

        Returns:
            The answer, and a sentence if the frame does not continue the one before it (the keyframe was forgotten).

        Raises:
            ValueError: a picture that the networks cannot take.
        """
        seen = self.look(ask)
        return self.tell(seen), seen.broken

    def look(self, ask: Ask) -> Seen:
        """The first half: whatever there is between frames happens here, so frames of a camera come in their order.

        Raises:
            ValueError: a picture that the networks cannot take.
        """
        return self._look(self._begin(ask))

    def _look(self, begun: _Begun) -> Seen:
        ask, picture, memory = begun.ask, begun.picture, begun.memory
        if begun.origin.slow and memory is not None:
            looked = self.engine.recall(picture, memory)
        else:
            with self._keyframes.enough(ask.camera):
                looked = tried_twice(lambda: self.engine.look(picture, memory, ask.tasks, match=self.fall > 0))
            self._ran(begun)
        return Seen(ask.camera, looked, ask.tasks, ask.focal, ask.confidence, begun.broken, begun.origin)

    def tell(self, seen: Seen) -> Answer:
        """The second half."""
        looked, tasks = seen.looked, seen.tasks
        with self._keyframes.enough(seen.camera):
            answer = tried_twice(lambda: self.engine.tell(looked, tasks, seen.focal, seen.confidence))
        self._told(seen.camera, answer, seen.origin, looked.picture.size, tasks)
        return replace(answer, origin=seen.origin)

    def answer_together(self, asks: Sequence[Ask]) -> Iterator[Told]:
        """Answer frames of several cameras, each at most once: those that are alike go through the networks at once.

        Alike are frames of one size, of which the same is wanted, with alike keyframes or none. What cannot be answered
        comes with its error, and takes nothing from the others. Each comes as soon as it is answered.
        """
        groups: dict[Hashable, list[_Begun]] = {}
        for ask in asks:
            try:
                begun = self._begin(ask)
            except Exception as failure:
                yield Told(ask, error=without_frames(failure))
                continue
            if begun.origin.slow:
                yield from self._batch([begun])
                continue
            picture = begun.picture
            alike = (picture.size, picture.original, ask.tasks, ask.confidence, shape_of(begun.memory))
            groups.setdefault(alike, []).append(begun)
        for group in groups.values():
            for size in self._sizes.split(len(group), self._clock()):
                part, group = group[:size], group[size:]
                yield from self._batch(part)

    def _batch(self, group: Sequence[_Begun]) -> Iterator[Told]:
        """Frames that are alike, at once; where that fails, fewer of them."""
        error: Exception | None = None
        try:
            answers = (
                [self.tell(self._look(group[0]))] if len(group) == 1 else tried_twice(lambda: self._at_once(group))
            )
        except Exception as failure:
            # What it failed with is not kept by the error: it would be in the way of what is tried now.
            error = without_frames(failure)
        if error is None:
            yield from (Told(begun.ask, answer, begun.broken) for begun, answer in zip(group, answers, strict=True))
        elif len(group) == 1:
            yield Told(group[0].ask, None, group[0].broken, error)
        else:
            fewer = 1
            if out_of_memory(error):
                fewer = len(group) // 2
                self._sizes.lacked(len(group), self._clock())
            elif self._on_error is not None:
                text = f"{len(group)} frames cannot be answered at once: {type(error).__name__}: {error}"
                self._on_error(group[0].ask.camera, text)
            for at in range(0, len(group), fewer):
                yield from self._batch(group[at : at + fewer])

    def _at_once(self, group: Sequence[_Begun]) -> list[Answer]:
        first = group[0].ask
        answers = self.engine.answer_batch(
            [begun.picture for begun in group],
            [begun.memory for begun in group],
            first.tasks,
            [begun.ask.focal for begun in group],
            first.confidence,
            match=self.fall > 0,
        )
        self._sizes.fitted(len(group))
        for begun, answer in zip(group, answers, strict=True):
            self._ran(begun)
            self._told(begun.ask.camera, answer, begun.origin, begun.picture.size, first.tasks)
        return [replace(answer, origin=begun.origin) for begun, answer in zip(group, answers, strict=True)]

    def _begin(self, ask: Ask) -> _Begun:
        """What stands between frames, and the keyframe that this one is answered from."""
        camera, arrived = ask.camera, ask.arrived
        picture = ask.picture if isinstance(ask.picture, Picture) else self.engine.upload(ask.picture)
        state, last = self._keyframes.of[camera], self._last[camera]
        why = self.break_in(camera, picture.original, ask.stamp_ns)
        keyframe = state.slot.get()
        if why is not None or (keyframe is not None and keyframe.size != picture.size):
            state.slot.forget()
            keyframe = None
        begins = why is not None or arrived - last.arrived > state.scheduler.max_age or last.size is None
        last.size, last.stamp_ns, last.arrived = picture.original, ask.stamp_ns, arrived
        reason = state.due(arrived, keyframe)
        if reason is not None and self._mode == "synchronous":
            made = self._keyframes.make(ask, picture, reason)
            if made is not None:
                keyframe, slow_ms = made
                return _Begun(ask, picture, keyframe.memory, why, _origin(keyframe, ask, slow_ms))
        if reason is not None and self._mode == "asynchronous":
            self._keyframes.ask(ask, picture, reason)
            if begins:
                self._keyframes.wait(camera, _LONGEST_WAIT)
                keyframe = state.slot.get()
        memory = state.fresh(arrived, keyframe, picture.size)
        if keyframe is None or memory is None:
            self.meter.count(camera, "alone")
            return _Begun(ask, picture, None, why, Origin())
        return _Begun(ask, picture, memory, why, _origin(keyframe, ask))

    def _ran(self, begun: _Begun) -> None:
        """The first half of the fast path has run."""
        self.meter.ran("fast", begun.picture.size, begun.ask.tasks)
        if begun.origin.looked_up is not None:
            self.meter.ran("ila", begun.picture.size, begun.ask.tasks)
        self._keyframes.count(begun.ask.camera, begun.picture.size, begun.ask.tasks, begun.ask.arrived)

    def _told(self, camera: str, answer: Answer, origin: Origin, size: tuple[int, int], tasks: tuple[str, ...]) -> None:
        """The second half has run."""
        keyframe = origin.looked_up
        if keyframe is not None:
            self._keyframes.of[camera].watch.seen(keyframe, answer.match, self.fall)
        heads = "heads_slow" if origin.slow else "heads_alone" if keyframe is None else "heads"
        self.meter.ran(heads, size, tasks)
        self.meter.ran("frame", size, tasks)
        self.meter.times(answer.milliseconds)


def _origin(keyframe: Keyframe[Memory], ask: Ask, slow_ms: float | None = None) -> Origin:
    """slow_ms: what the slow network took, where the keyframe is the frame itself."""
    age, distance = ask.arrived - keyframe.captured, ask.frame - keyframe.frame
    return Origin(keyframe.number, slow_ms is not None, age, distance, keyframe.stamp_ns, slow_ms or 0.0)
