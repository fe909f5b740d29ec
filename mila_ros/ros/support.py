"""What the nodes behind `mila play` and `mila record` share."""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


def message_class(msgtype: str) -> Any | None:
    """The Python class of "sensor_msgs/msg/Image" and the like; None where its package is not installed."""
    try:
        package, _, name = msgtype.split("/")
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError, ValueError):
        return None


@contextlib.contextmanager
def interruptible(stopped: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `stopped`, so that everything is written and closed; the old handlers come back after."""

    def stop(number: int, frame: Any) -> None:
        stopped.set()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
