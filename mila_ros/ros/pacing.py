"""When a recorded message is due, and which stamp it carries then. Pure arithmetic: the clocks are passed in."""

from __future__ import annotations

import struct
from collections.abc import Callable

_SECOND = 1_000_000_000
# Of a serialised message that begins with a std_msgs/Header: after CDR's 4-byte encapsulation, sec and nanosec.
_STAMP = slice(4, 12)


class Pacer:
    """Plays recorded time on a steady clock, by an absolute schedule: a late message does not delay those after it.

    rate: how much faster than recorded. clock: steady time in ns. sleep: takes seconds, may return early.
    stopped: asked while waiting.
    """

    def __init__(
        self,
        rate: float,
        clock: Callable[[], int],
        sleep: Callable[[float], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rate, self._clock, self._sleep, self._stopped = rate, clock, sleep, stopped
        self._start: tuple[int, int] | None = None

    def restart(self, time_ns: int) -> None:
        """From now on, recorded time starts at time_ns."""
        self._start = (self._clock(), time_ns)

    def now(self) -> int | None:
        """Recorded time at this moment, ns; None before the first message."""
        if self._start is None:
            return None
        return self._start[1] + round((self._clock() - self._start[0]) * self._rate)

    def wait(self, time_ns: int) -> int:
        """Returns when recorded time time_ns has come (the first call sets the start), and how late that was, ns."""
        if self._start is None:
            self.restart(time_ns)
        assert self._start is not None
        due = self._start[0] + round((time_ns - self._start[1]) / self._rate)
        while (remaining := due - self._clock()) > 0 and not self._stopped():
            # In slices, so that a signal is noticed soon.
            self._sleep(min(remaining / _SECOND, 0.05))
        return max(0, self._clock() - due)


class Restamper:
    """Moves header stamps to the present: the first becomes now, the others keep their distance (divided by the rate).

    Equal stamps stay equal, so pictures, camera_info and ground truth still belong together.
    """

    def __init__(self, rate: float, wall: Callable[[], int]) -> None:
        self._rate, self._wall = rate, wall
        self._start: tuple[int, int] | None = None

    def restart(self) -> None:
        """Forget the first stamp: the next one becomes now."""
        self._start = None

    def moved(self, stamp_ns: int) -> int:
        """The stamp that belongs to a recorded one."""
        if self._start is None:
            self._start = (self._wall(), stamp_ns)
        return self._start[0] + round((stamp_ns - self._start[1]) / self._rate)


def header_stamp(data: bytes) -> int:
    """Stamp in ns of a serialised message that begins with a std_msgs/Header."""
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(sec * _SECOND + nanosec)


def with_stamp(data: bytes, stamp_ns: int) -> bytes:
    """The same serialised message with another header stamp."""
    sec, nanosec = divmod(stamp_ns, _SECOND)
    stamp = struct.pack("<iI" if data[1] & 1 else ">iI", sec, nanosec)
    return b"".join((data[: _STAMP.start], stamp, memoryview(data)[_STAMP.stop :]))
