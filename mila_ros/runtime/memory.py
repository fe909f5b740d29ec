"""The keyframe that answers now, one a camera: written by the slow network's thread, read by the fast path."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

M = TypeVar("M")


@dataclass(frozen=True)
class Keyframe(Generic[M]):
    """What the slow network left behind, and of which picture."""

    memory: M  # the model's Memory
    number: int  # 1 for the camera's first
    frame: int  # the camera's running frame number of the picture
    captured: float  # steady seconds at which the picture arrived
    size: tuple[int, int]  # height, width of the picture as the networks saw it
    stamp_ns: int | None = None  # of the picture's header


class KeyframeSlot(Generic[M]):
    """One reference, swapped whole: a reader has either the old keyframe or the new one, never a mixture.

    `forget` starts a new epoch. A keyframe that was begun in an earlier one (the picture before a jump in time, or of
    another size) is refused when it is finished.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keyframe: Keyframe[M] | None = None
        self._epoch = 0
        self._finished = 0

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def finished(self) -> int:
        """Keyframes accepted so far."""
        return self._finished

    def get(self) -> Keyframe[M] | None:
        """The keyframe that answers now."""
        return self._keyframe

    def put(
        self,
        memory: M,
        frame: int,
        captured: float,
        size: tuple[int, int],
        epoch: int,
        stamp_ns: int | None = None,
    ) -> Keyframe[M] | None:
        """Swap in a finished keyframe; None when it was begun before the last `forget`."""
        with self._lock:
            if epoch != self._epoch:
                return None
            self._finished += 1
            self._keyframe = Keyframe(memory, self._finished, frame, captured, size, stamp_ns)
            return self._keyframe

    def forget(self) -> None:
        """Drop the keyframe, and every one still in the making."""
        with self._lock:
            self._keyframe = None
            self._epoch += 1
