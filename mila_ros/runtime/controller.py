"""Holds the compute budget: stretches the keyframe period, and leaves out tasks where that is not enough.

Pure Python: what was measured and the time are passed in, so every rule is tested as a simulation. It looks at windows
of about a second. Three things lengthen the period, the longest wins:

- a share of the device that was asked for: what frames leave of it, divided by the price of a keyframe. It is
  approached by halves, since keyframes lengthen the very frames that leave them room;
- the slow network itself, which cannot make keyframes faster than it runs;
- late frames: when too many of the last few hundred were, the period is stretched by half again. The stretch is given
  back step by step after a while without that, and a level that failed is tried again later and later, so it settles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LATE_SHARE = 0.05
"""Of the frames that may be late before something is done."""
_ENOUGH = 200
"""Frames to judge that by: in one second of a slow camera a single one would be too many."""
_AT_ONCE = 0.25
"""Late share of one window that does not need more of them."""
ROOMY = 0.8
"""Share of deadline and device below which a task may be given back."""
_STRETCH = 1.5
_FIRST_HOLD, _LONGEST_HOLD = 5.0, 160.0
"""Seconds without trouble before something is given back; doubles each time that was too early."""
_DEADBAND = 0.05
"""Relative changes of the period below this are left alone."""
_SMOOTHING = 0.3
"""Weight of the newest window in the price of a keyframe."""


@dataclass(frozen=True)
class Limits:
    """What is to be held; may change at any time.

    Args:
        period: seconds between keyframes of a camera that are wanted, and never undercut.
        longest_period: to which it may be stretched; not above `period`: it is left alone.
        deadline_ms: from a frame's arrival to its last output.
        device_share: of the device's time that may be used, 0..1; 1: no limit.
        skip_order: tasks that may be left out, the first one first.
    """

    period: float
    longest_period: float
    deadline_ms: float
    device_share: float = 1.0
    skip_order: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """A window.

    Args:
        seconds: its length.
        cameras: that had frames answered.
        frames: answered.
        late: of them, after the deadline.
        frame_busy: seconds of the device that frames took, all of them together.
        keyframes: finished.
        keyframe_busy: seconds of the device that they took.
        keyframe_ms: mean time of one; NaN without any.
        p95_ms: 95th percentile of the frames' time from arrival to last output; NaN without any.
        tasks: that are wanted.
    """

    seconds: float
    cameras: int
    frames: int
    late: int
    frame_busy: float
    keyframes: float
    keyframe_busy: float
    keyframe_ms: float
    p95_ms: float
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Decision:
    """What holds from now on."""

    period: float
    skipped: tuple[str, ...]
    share: float
    """Of the device that the last window used; NaN: it had no frames."""
    reasons: tuple[str, ...]
    """Why the period is longer than wanted, and why tasks are left out."""

    @property
    def degraded(self) -> bool:
        """Whether answers are poorer than asked for."""
        return bool(self.reasons)


class _GivingBack:
    """When something that was taken may be tried again: later each time that it was too early."""

    def __init__(self) -> None:
        self._hold = _FIRST_HOLD
        self._quiet_since: float | None = None
        self._given_at: float | None = None

    def trouble(self, now: float) -> None:
        """It was needed, or is needed again."""
        if self._given_at is not None:
            if now - self._given_at < 2 * self._hold:
                self._hold = min(_LONGEST_HOLD, 2 * self._hold)
            else:
                self._hold = _FIRST_HOLD
            self._given_at = None
        self._quiet_since = None

    def may(self, now: float) -> bool:
        """Whether it has been quiet for long enough; call once a window without trouble."""
        if self._quiet_since is None:
            self._quiet_since = now
        return now - self._quiet_since >= self._hold

    def given(self, now: float) -> None:
        """It was given back; the next piece waits anew."""
        self._given_at, self._quiet_since = now, None


class BudgetController:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._price: float | None = None  # device seconds of a keyframe
        self._slow_ms = 0.0
        self._stretch = 1.0
        self._skipped: list[str] = []
        self._saved: dict[str, float] = {}  # device seconds a frame that leaving a task out saved
        self._before_skip: tuple[str, float] | None = None
        self._hopeless = 0
        self._at_a_loss = ""
        self._stretching, self._skipping = _GivingBack(), _GivingBack()
        self._period: float | None = None
        self._limits: Limits | None = None
        self._by_share: float | None = None  # the period that the device's share allows, approached by halves
        self._frames = self._late = 0  # since lateness was judged

    def update(self, measured: Measured, limits: Limits, now: float) -> Decision:
        """Decide after a window. now: seconds of a steady clock."""
        if limits != self._limits:  # what was worked out for others says nothing
            self._period = self._by_share = None
            self._limits = limits
        self._skipped = [task for task in self._skipped if task in limits.skip_order]
        if not measured.frames:
            return self._decide(limits, math.nan, [], measured)
        share = (measured.frame_busy + measured.keyframe_busy) / measured.seconds
        self._learn(measured)
        late = self._too_late(measured)
        self._stretched(late, measured, limits, now)
        room = limits.device_share - measured.frame_busy / measured.seconds
        wishes = self._wishes(room, measured, limits)
        reasons = [text for period, text in wishes if period > limits.period * (1 + _DEADBAND)]
        wanted = max(period for period, _ in wishes)
        period = min(max(limits.period, limits.longest_period), wanted)
        if self._period is None or abs(period / max(self._period, 1e-9) - 1) > _DEADBAND or period == limits.period:
            self._period = period
        self._leave_out(late, wanted, room, measured, limits, now)
        return self._decide(limits, share, reasons, measured)

    def _too_late(self, measured: Measured) -> bool | None:
        """None: there were too few frames yet to tell."""
        self._frames, self._late = self._frames + measured.frames, self._late + measured.late
        much = measured.late > max(3, _AT_ONCE * measured.frames)
        if self._frames < _ENOUGH and not much:
            return None
        found = much or self._late > LATE_SHARE * self._frames
        self._frames = self._late = 0
        return found

    def _learn(self, measured: Measured) -> None:
        """The price of a keyframe, and what leaving a task out has saved."""
        if measured.keyframes:
            price = measured.keyframe_busy / measured.keyframes
            self._price = price if self._price is None else self._price + _SMOOTHING * (price - self._price)
            self._slow_ms = measured.keyframe_ms
        if self._before_skip is not None:
            task, before = self._before_skip
            self._saved[task] = max(0.0, before - measured.frame_busy / measured.frames)
            self._before_skip = None

    def _stretched(self, late: bool | None, measured: Measured, limits: Limits, now: float) -> None:
        longest = max(1.0, limits.longest_period / max(limits.period, 1e-3))
        if late:
            self._stretching.trouble(now)
            self._stretch = min(longest, self._stretch * _STRETCH)
        elif late is False and self._stretch > 1 and self._stretching.may(now):
            self._stretch = max(1.0, self._stretch / _STRETCH)
            self._stretching.given(now)
        self._stretch = min(self._stretch, longest)

    def _wishes(self, room: float, measured: Measured, limits: Limits) -> list[tuple[float, str]]:
        """Periods that the rules ask for, and why."""
        cameras = max(1, measured.cameras)
        wishes = [(limits.period, "as wanted")]
        if self._price is not None and limits.device_share < 1:
            allowed = cameras * self._price / room if room > 0 else math.inf
            allowed = min(max(allowed, limits.period, 1e-3), max(limits.longest_period, limits.period, 1e-3))
            before = self._by_share if self._by_share is not None else max(limits.period, 1e-3)
            self._by_share = 2 / (1 / allowed + 1 / before)
            used = 100 * (1 - room / limits.device_share)
            wishes.append((self._by_share, f"frames take {used:.0f} % of the device's share"))
        if self._price is not None and limits.period > 0:  # 0 means: as many as there can be
            wishes.append((cameras * self._slow_ms * 1e-3, f"the slow network takes {self._slow_ms:.0f} ms"))
        if self._stretch > 1:
            text = f"frames were later than {limits.deadline_ms:.0f} ms"
            wishes.append((max(limits.period, 1e-3) * self._stretch, text))
        return wishes

    def _leave_out(
        self, late: bool | None, wanted: float, room: float, measured: Measured, limits: Limits, now: float
    ) -> None:
        """Take a task away where the longest period is not enough for two windows; give it back when there is room."""
        at_end = wanted >= 0.98 * limits.longest_period  # approached by halves, it is never quite reached
        if at_end and (late or room <= 0):
            self._hopeless += 1
        elif late is False or not at_end:
            self._hopeless, self._at_a_loss = 0, ""
        kept = [task for task in limits.skip_order if task in measured.tasks and task not in self._skipped]
        # The last task that somebody wants is never taken away.
        others = [task for task in measured.tasks if task not in self._skipped]
        if self._hopeless >= 2 and kept and len(others) > 1:
            self._skipping.trouble(now)
            self._skipped.append(kept[0])
            self._before_skip = (kept[0], measured.frame_busy / measured.frames)
            self._hopeless = 0
        elif self._hopeless >= 2 and at_end and (late or room <= 0):
            used = 100 * measured.frame_busy / measured.seconds
            self._at_a_loss = (
                f"frames alone take {used:.0f} % of the device, {100 * limits.device_share:.0f} % are allowed"
                if room <= 0
                else f"95 of 100 frames take up to {measured.p95_ms:.0f} ms, {limits.deadline_ms:.0f} are allowed"
            )
        elif self._skipped and late is False and room > 0:
            task = self._skipped[-1]
            more = self._saved.get(task, 0.0) * measured.frames / measured.seconds
            fits = limits.device_share - room + more < ROOMY * limits.device_share
            quick = measured.p95_ms + 1e3 * self._saved.get(task, 0.0) < ROOMY * limits.deadline_ms
            if fits and quick and self._skipping.may(now):
                self._skipped.pop()
                self._skipping.given(now)

    def _decide(self, limits: Limits, share: float, reasons: list[str], measured: Measured) -> Decision:
        period = limits.period if self._period is None else max(limits.period, self._period)
        said = [f"keyframes each {period:.2f} s instead of {limits.period:.2f}: {text}" for text in reasons]
        if period <= limits.period:
            said = []
        skipped = tuple(task for task in self._skipped if task in measured.tasks)
        if skipped:
            said.append(f"left out: {', '.join(skipped)}, since the longest keyframe period was not enough")
        if self._at_a_loss and measured.frames:
            said.append(f"the budget cannot be held: {self._at_a_loss}, and there is nothing more to leave out")
        return Decision(period, skipped, share, tuple(said))
