"""When the slow network runs. Pure Python: time is passed in, so every rule is tested without waiting."""

from __future__ import annotations

import enum
import math


class Reason(enum.Enum):
    """Why a keyframe is taken."""

    TIMER = "timer"
    NO_MEMORY = "no memory yet"
    TOO_OLD = "memory too old"
    SCENE_LEFT = "scene left the keyframe"


EARLIEST = 1 / 3
"""Share of the period before which no keyframe is taken early: a camera that turns on and on costs three times as much,
and not more."""


class KeyframeScheduler:
    """The keyframe timer of one camera.

    A keyframe is due each `period` seconds, and at once while there is no memory to work with or the memory is older
    than `max_age` seconds; already a third of a period after the last one if the scene has left it. The timer keeps its
    phase: frames arrive on a grid of their own, and counting from the last keyframe would stretch every period to the
    next frame. `phase` (0..1) shifts the timer's grid by that share of a period, which staggers the keyframes of
    several cameras.

    All times are seconds of one steady clock, chosen by the caller.
    """

    def __init__(self, period: float, max_age: float = math.inf, phase: float = 0.0) -> None:
        self._phase = phase
        self._last: float | None = None
        self._next: float | None = None
        self.period = period
        self.max_age = max_age

    @property
    def period(self) -> float:
        """Seconds between keyframes; 0: every frame is one. A new value counts from the last keyframe on."""
        return self._period

    @period.setter
    def period(self, seconds: float) -> None:
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"the keyframe period is {seconds}, not a number of seconds of at least 0")
        self._period = seconds
        if self._last is not None:
            self._next = self._last + seconds

    @property
    def max_age(self) -> float:
        """Seconds after which a memory no longer helps."""
        return self._max_age

    @max_age.setter
    def max_age(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"the keyframe's greatest age is {seconds}, not a number of seconds above 0")
        self._max_age = seconds

    def fresh(self, now: float, captured: float | None) -> bool:
        """Whether a memory of a picture taken at `captured` (None: no memory) may still answer at `now`."""
        return captured is not None and now - captured <= self.max_age

    def due(self, now: float, captured: float | None, left: bool = False) -> Reason | None:
        """Whether a keyframe should be taken now, and why.

        Args:
            captured: when the memory's picture was taken; None: there is no memory.
            left: the camera sees something else by now (scene.py).
        """
        if captured is None:
            return Reason.NO_MEMORY
        if not self.fresh(now, captured):
            return Reason.TOO_OLD
        if self._next is None or now >= self._next:
            return Reason.TIMER
        if left and self._last is not None and now - self._last >= EARLIEST * self._period:
            return Reason.SCENE_LEFT
        return None

    def started(self, now: float) -> None:
        """A keyframe was taken at `now`: set the timer to the next place on its grid."""
        if self._last is None or self._next is None:
            upcoming = now + self._period * (1 + self._phase)
        else:
            upcoming = self._next + self._period
            early = now < self._next  # pulled forward: a whole period from now on
            if early or upcoming <= now:  # or the frames paused: no catching up
                upcoming = now + self._period
        self._last, self._next = now, upcoming
