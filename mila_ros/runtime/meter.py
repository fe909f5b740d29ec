"""Counts and times: what the node did in the last window. Bounded memory, one lock, any thread."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from dataclasses import dataclass, field

import psutil

# Samples kept of one stage in one window; at 60 frames a second that is a minute. Older ones leave first.
SAMPLES = 4096


@dataclass(frozen=True)
class Timing:
    """How long something took, in milliseconds; NaN where it did not happen."""

    count: int
    mean: float
    p50: float
    p95: float
    longest: float


NOTHING = Timing(0, math.nan, math.nan, math.nan, math.nan)


def timing(samples: list[float]) -> Timing:
    """Statistics of milliseconds. Percentiles are samples that occurred (nearest rank), not interpolations."""
    if not samples:
        return NOTHING
    ordered = sorted(samples)

    def rank(share: float) -> float:
        return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]

    return Timing(len(ordered), sum(ordered) / len(ordered), rank(0.5), rank(0.95), ordered[-1])


@dataclass
class CameraCounts:
    """Running totals of one camera, from activation on."""

    received: int = 0
    answered: int = 0
    dropped: int = 0
    late: int = 0
    failed: int = 0
    idle: int = 0
    alone: int = 0
    keyframes: int = 0

    def since(self, before: CameraCounts) -> dict[str, int]:
        """What a report asks about: how many more since then."""
        return {
            name: getattr(self, name) - getattr(before, name) for name in ("failed", "dropped", "late", "idle", "alone")
        }


@dataclass(frozen=True)
class CameraWindow:
    """One camera's totals and what happened to it within the window."""

    counts: CameraCounts
    received_rate: float  # frames a second
    answered_rate: float
    answered: int  # frames answered in the window
    latency: Timing


@dataclass(frozen=True)
class Window:
    """What happened between two looks at the meter."""

    seconds: float
    stages: dict[str, Timing]
    cameras: dict[str, CameraWindow]
    ran: Counter[tuple]  # how often each kind of work ran: see `Meter.ran`
    reasons: Counter[str]  # why keyframes were taken
    keyframe_interval: float  # mean seconds between finished keyframes of one camera; NaN below two
    late: int = 0  # frames answered after the deadline in the window, all cameras together


@dataclass
class _Camera:
    counts: CameraCounts = field(default_factory=CameraCounts)
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    intervals: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    last_keyframe: float | None = None
    received: int = 0  # at the start of the window
    answered: int = 0
    late: int = 0


class Meter:
    """Collects times and counts; `window` reads them out and starts the next window. Totals run on."""

    def __init__(self, cameras: list[str] | tuple[str, ...], now: float) -> None:
        self._lock = threading.Lock()
        self._cameras = {name: _Camera() for name in cameras}
        self._stages: dict[str, deque[float]] = {}
        self._ran: Counter[tuple] = Counter()
        self._reasons: Counter[str] = Counter()
        self._since = now

    def time(self, stage: str, milliseconds: float) -> None:
        """A stage ran."""
        with self._lock:
            self._stages.setdefault(stage, deque(maxlen=SAMPLES)).append(milliseconds)

    def times(self, stages: dict[str, float]) -> None:
        """Several stages ran: name -> milliseconds."""
        with self._lock:
            for stage, milliseconds in stages.items():
                self._stages.setdefault(stage, deque(maxlen=SAMPLES)).append(milliseconds)

    def ran(self, *work: object) -> None:
        """A piece of arithmetic ran, named by any hashable words; whoever reads the window knows their price."""
        with self._lock:
            self._ran[work] += 1

    def count(self, camera: str, what: str, by: int = 1) -> None:
        """Raise one of the camera's totals (a field of CameraCounts)."""
        with self._lock:
            counts = self._cameras[camera].counts
            setattr(counts, what, getattr(counts, what) + by)

    def answered(self, camera: str, latency_ms: float, late: bool) -> None:
        """A frame was answered, so long after it arrived."""
        with self._lock:
            entry = self._cameras[camera]
            entry.counts.answered += 1
            entry.counts.late += late
            entry.latency.append(latency_ms)

    def keyframe(self, camera: str, now: float) -> None:
        """A keyframe was finished."""
        with self._lock:
            entry = self._cameras[camera]
            entry.counts.keyframes += 1
            if entry.last_keyframe is not None:
                entry.intervals.append(now - entry.last_keyframe)
            entry.last_keyframe = now

    def keyframe_reason(self, reason: str) -> None:
        """A keyframe was begun, and why."""
        with self._lock:
            self._reasons[reason] += 1

    def counts(self, camera: str) -> CameraCounts:
        """The camera's totals now (a copy)."""
        with self._lock:
            return CameraCounts(**vars(self._cameras[camera].counts))

    def window(self, now: float) -> Window:
        """What happened since the last call (or since the start), and begin anew."""
        with self._lock:
            seconds = max(now - self._since, 1e-9)
            cameras = {}
            intervals: list[float] = []
            late = 0
            for name, entry in self._cameras.items():
                counts = CameraCounts(**vars(entry.counts))
                received, answered = counts.received - entry.received, counts.answered - entry.answered
                cameras[name] = CameraWindow(
                    counts, received / seconds, answered / seconds, answered, timing(list(entry.latency))
                )
                intervals.extend(entry.intervals)
                late += counts.late - entry.late
                entry.received, entry.answered, entry.late = counts.received, counts.answered, counts.late
                entry.latency.clear()
                entry.intervals.clear()
            window = Window(
                seconds=seconds,
                stages={name: timing(list(samples)) for name, samples in self._stages.items()},
                cameras=cameras,
                ran=self._ran,
                reasons=self._reasons,
                keyframe_interval=sum(intervals) / len(intervals) if intervals else math.nan,
                late=late,
            )
            for samples in self._stages.values():
                samples.clear()
            self._ran, self._reasons = Counter(), Counter()
            self._since = now
            return window


def resident_mb() -> float:
    """Resident memory of this process in MiB."""
    return float(psutil.Process().memory_info().rss) / 2**20
