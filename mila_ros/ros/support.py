"""What the nodes behind `mila play` and `mila record` share."""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from mila_ros.errors import UserError


def message_class(msgtype: str) -> Any | None:
    """The Python class of "sensor_msgs/msg/Image" and the like; None where its package is not installed."""
    try:
        package, _, name = msgtype.split("/")
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError, ValueError):
        return None


def check_parameters(given: Sequence[str]) -> None:
    """That these are NAME:=VALUE with YAML behind it, as rcl wants parameters.

    Raises:
        UserError: one is not; rcl's own words for that name its grammar, not the mistake.
    """
    for text in given:
        name, sign, value = text.partition(":=")
        if not sign or not name.strip():
            raise UserError(f'parameter "{text}": write NAME:=VALUE, such as device:=cpu')
        try:
            yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f'parameter "{text}": the value is not valid YAML: {_in_one_line(error)}') from error


def check_parameter_file(path: Path) -> None:
    """That it can be read, and is YAML.

    Raises:
        UserError: it is not.
    """
    try:
        yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"parameters file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"parameters file {path} is not valid YAML: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


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
