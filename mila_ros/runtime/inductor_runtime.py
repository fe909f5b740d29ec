"""PyTorch's own compiler, ahead of time (torch.export, AOTInductor): a library a part, for the device it is made on.

Operators that only wait for memory are joined into kernels, C++ on a CPU and Triton on a GPU, and a part is one call
instead of a hundred. Compiling before anything runs, and not when a call comes by (torch.compile), keeps it out of the
threads that answer frames, and leaves a file for the next start.

PyTorch holds Python's lock while a library runs: on a CPU threads wait for each other's networks. And a library
computes all that its part gives: heads that nobody wants are computed, too, and thrown away.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mila_ros.runtime.devices import DTYPES
from mila_ros.runtime.parts import Graph
from mila_ros.runtime.runtimes import Request, Runtime, output_type

_NAMES = "mila_ros"
"""Key of a library's metadata under which the names of its inputs and outputs stand, in its order."""


class Inductor(Runtime):
    """See the module's docstring; any precision that the device has."""

    name, packages, suffix = "compile", (), ".pt2"
    takes = "some minutes"

    @staticmethod
    def traced_in(precision: str) -> str:
        return precision

    @staticmethod
    def made_on(device: torch.device) -> torch.device:
        return device

    @staticmethod
    def write(graph: Graph, path: Path) -> None:
        names = {"inputs": list(graph.inputs), "outputs": list(graph.outputs)}
        options: dict[str, Any] = {
            "aot_inductor.metadata": {_NAMES: json.dumps(names)},
            "freezing": True,  # weights do not change any more: they are laid out as the kernels want them
            "cpp.dynamic_threads": True,  # each network has its own number of threads, which is set when it runs
        }
        with torch.no_grad():
            program = torch.export.export(graph.module.eval(), tuple(graph.inputs.values()), strict=False)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = _room()
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)

    def open(self, path: Path, wanted: Sequence[str]) -> Request:
        return _Request(path, wanted, DTYPES[self.precision])


@functools.cache
def _room() -> str:
    """A folder for what is built on the way, gone with the process; PyTorch would leave it in /tmp for good.

    One for all parts: the headers that each is compiled with are compiled once.
    """
    room = tempfile.TemporaryDirectory(prefix="mila_ros-compile-")
    atexit.register(room.cleanup)
    return room.name


class _Request:
    """One part, loaded for one thread, and those of its outputs that are wanted."""

    def __init__(self, path: Path, wanted: Sequence[str], dtype: torch.dtype) -> None:
        # Its loader is called itself: what stands over it reads the call's structure from JSON each time.
        self._library = torch._inductor.aoti_load_package(str(path)).loader
        names = json.loads(self._library.get_metadata()[_NAMES])
        self._dtype, self._inputs = dtype, names["inputs"]
        self._wanted = [(names["outputs"].index(name), output_type(name, dtype)) for name in wanted]

    def __call__(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        found = self._library.boxed_run([given[name].to(self._dtype).contiguous() for name in self._inputs])
        return [found[i].to(kind) for i, kind in self._wanted]
