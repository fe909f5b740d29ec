"""How frames get from one thread to the next without queueing up: one slot a camera, or from hand to hand."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")
_LIVELY = 1.0
"""Seconds after which a camera that leaves nothing is not waited for."""


class NewestSlots(Generic[T]):
    """Hands items from receivers to one worker; holds at most one waiting item a camera.

    The camera whose item has waited longest is served first, so a fast camera cannot starve a slow one. (A newer item
    takes over the place in line of the one it replaces.)
    """

    def __init__(self, cameras: Iterable[str]) -> None:
        self._cameras = tuple(cameras)
        self._waiting: dict[str, T] = {}  # insertion order is the order of service
        self._condition = threading.Condition()
        self._closed = False
        self._since = 0.0  # when the first of those that wait came
        self._came = dict.fromkeys(self._cameras, -math.inf)

    def put(self, camera: str, item: T) -> T | None:
        """Leave `item` for the worker; the item it replaces, if one was still waiting, is returned."""
        if camera not in self._cameras:
            raise KeyError(camera)
        with self._condition:
            self._came[camera] = time.monotonic()
            if not self._waiting:
                self._since = self._came[camera]
            replaced = self._waiting.get(camera)
            self._waiting[camera] = item
            self._condition.notify()
        return replaced

    def take(self, timeout: float | None = None) -> tuple[str, T] | None:
        """The item that has waited longest, or None when closed or after `timeout` seconds without one."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._closed, timeout)
            if self._closed or not self._waiting:
                return None
            camera = next(iter(self._waiting))
            return camera, self._waiting.pop(camera)

    def take_all(self, window: Callable[[], float]) -> dict[str, T] | None:
        """All that wait, by camera, in the order of service; None when closed.

        window: seconds for which others are waited for from when the first one came; not for cameras that have left
            nothing for a second.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._closed)
            left = self._since + window() - time.monotonic()
            if left > 0:
                lively = {name for name, came in self._came.items() if came > self._since - _LIVELY}
                self._condition.wait_for(lambda: self._closed or lively <= self._waiting.keys(), left)
            if self._closed:
                return None
            taken, self._waiting = self._waiting, {}
            return taken

    def close(self) -> None:
        """Wake the worker for the last time; what still waits is let go."""
        with self._condition:
            self._closed = True
            self._waiting.clear()
            self._condition.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed


class Handover(Generic[T]):
    """From hand to hand: who gives waits until the other is there to take, so nothing lies between them."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._asked = False
        self._condition = threading.Condition()
        self._closed = False

    def give(self, item: T) -> bool:
        """Returns whether it was taken; not if this is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._asked or self._closed)
            if self._closed:
                return False
            self._asked = False
            self._items.append(item)
            self._condition.notify_all()
        return True

    def take(self) -> T | None:
        """The next item; None when closed."""
        with self._condition:
            self._asked = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._items or self._closed)
            return None if self._closed else self._items.pop()

    def close(self) -> None:
        """Wake both for the last time."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
