"""When the device's memory runs out: give back what is kept unused and try once more, then do with less.

With less means without new keyframes for a while, and after a frame that failed for it without the remembered one.
Every frame still gets its chance, so that all is as before when others have left the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch

from mila_ros.runtime.devices import give_back_memory

T = TypeVar("T")
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
# What PyTorch says where it raises no class of its own: on a CPU, or from a library that it calls.
_SAID = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed", "bad_alloc", "create a memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is lacking, of a GPU or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAID)


def tried_twice(work: Callable[[], T]) -> T:
    """What `work` gives; where memory is lacking, what it gives after PyTorch has let go of what it keeps unused."""
    try:
        return work()
    except Exception as error:
        if not out_of_memory(error):
            raise
    give_back_memory()  # here, not above: the error holds on to what was allocated until it failed
    return work()


def without_frames(error: Exception) -> Exception:
    """An error that holds on to nothing: its traceback would keep all that was being computed."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class Shortage:
    """For one camera: keyframes for which memory was lacking are tried again later, each time later still."""

    def __init__(self) -> None:
        self._wait = 0.0
        self._until = -math.inf

    def allows(self, now: float) -> bool:
        """Whether a keyframe may be begun."""
        return now >= self._until

    def lacked(self, now: float) -> float:
        """Memory was lacking: for how many seconds none is tried."""
        self._wait = min(max(_FIRST_WAIT, 2 * self._wait), _LONGEST_WAIT)
        self._until = now + self._wait
        return self._wait

    def over(self) -> None:
        """A keyframe was made: there is memory."""
        self._wait, self._until = 0.0, -math.inf
