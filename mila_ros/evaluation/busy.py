"""For how much of the time somebody is at work, whoever of several threads it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Busy:
    """Adds up the seconds in which at least one thread is inside `with busy.working()`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._working = 0
        self._since = 0.0
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Until now."""
        with self._lock:
            return self._seconds + (time.perf_counter() - self._since if self._working else 0.0)

    @contextmanager
    def working(self) -> Iterator[None]:
        """For a thread that works."""
        with self._lock:
            if not self._working:
                self._since = time.perf_counter()
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1
                if not self._working:
                    self._seconds += time.perf_counter() - self._since
