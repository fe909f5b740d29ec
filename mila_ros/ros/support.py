"""What the nodes share: message classes by name, names of topics, an orderly end."""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name


def message_class(msgtype: str) -> Any | None:
    """The Python class of "sensor_msgs/msg/Image" and the like; None where its package is not installed."""
    try:
        package, _, name = msgtype.split("/")
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError, ValueError):
        return None


def topic_problem(topic: str, full: bool = False) -> str | None:
    """Why this cannot be the name of a topic, in words; None if it can. full: nothing in it is left to resolve."""
    try:
        (validate_full_topic_name if full else validate_topic_name)(topic)
    except InvalidTopicNameException as error:
        # Its second line draws an arrow under the wrong letter.
        return str(error).splitlines()[0].removeprefix("Invalid topic name: ").rstrip(":")
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
