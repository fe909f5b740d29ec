"""What a runtime beside PyTorch has to know, to run a network's parts (parts.py) in its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mila_ros.runtime.parts import Graph

Request = Callable[[Mapping[str, Tensor]], list[Tensor]]
"""One part, ready to run in one thread: its inputs by name -> the outputs that it was opened for, in their order."""

_MAPS = ("coarse", "carried", "detail")
"""What names of outputs that go into another part begin with; others leave the network, in single precision."""


class Runtime(ABC):
    """One of them, for one device and precision.

    Args:
        device: where tensors are.
        precision: fp32, bf16 or fp16.

    Raises:
        Exception: it is not installed, or cannot run here.
    """

    name: str
    """As `backend` is called."""
    packages: tuple[str, ...]
    """Modules whose versions make another graph."""
    suffix: str
    """Of the file of a graph."""
    takes = "up to a minute"
    """How long making the graphs for one size takes, in words."""

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision

    @staticmethod
    @abstractmethod
    def traced_in(precision: str) -> str:
        """The precision of the network that graphs are made from."""

    @staticmethod
    def made_on(_device: torch.device) -> torch.device:
        """Where the network is when graphs are made from it, for tensors on this device; other devices have others."""
        return torch.device("cpu")

    @staticmethod
    @abstractmethod
    def write(graph: Graph, path: Path) -> None:
        """Make the file of a part; it may have others beside it."""

    @abstractmethod
    def open(self, path: Path, wanted: Sequence[str]) -> Request:
        """A part compiled for the calling thread, its number of threads, and the outputs that are wanted."""

    def warm(self, path: Path) -> None:
        """Do once what a part's first run would take long for, before anybody waits for it; most have nothing to do."""
        return


def output_type(name: str, between: torch.dtype) -> torch.dtype:
    """The type in which an output is wanted: that of the network, for what goes into another part of it."""
    return between if name.startswith(_MAPS) else torch.float32
