"""A network's parts as files for another runtime: made once for a size of picture, and kept on disk.

    ~/.cache/mila_ros/RUNTIME/KEY/weights.safetensors       the network they are made from
    ~/.cache/mila_ros/RUNTIME/KEY/352x448-fp32/fast.xml ... a graph a part (parts.py)
    ~/.cache/mila_ros/RUNTIME/KEY/352x448-fp32/made.json    checksums, written last

KEY stands for the weights, the configuration, the code that reads them, the versions of PyTorch and the runtime, and
the device where that makes a difference: where one of them changes, graphs are made anew; and so they are where a file
is damaged. Graphs are made by a program of its own (`python -m mila_ros.runtime.graph_cache`): what it takes to trace a
network, some hundred megabytes and ten seconds of Python, is not for a node that answers frames.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from mila_ros.errors import UserError
from mila_ros.models.checkpoint import load_model, save_model
from mila_ros.models.fuse import fuse_for_inference
from mila_ros.models.mila import Mila
from mila_ros.paths import PACKAGE
from mila_ros.runtime.devices import DTYPES
from mila_ros.runtime.inductor_runtime import Inductor
from mila_ros.runtime.onnx_runtime import OnnxRuntime
from mila_ros.runtime.openvino_runtime import OpenVino
from mila_ros.runtime.parts import graphs
from mila_ros.runtime.runtimes import Runtime

_LONGEST = 1800.0
"""Seconds that making graphs may take; it takes ten to sixty, by a compiler of C++ some minutes."""
_UNUSED = 30 * 24 * 3600.0
"""Seconds after which graphs that nobody has used are removed."""
_SOURCES = ("models", "runtime")
_CPU = torch.device("cpu")
RUNTIMES: Mapping[str, type[Runtime]] = {
    "openvino": OpenVino,
    "onnxruntime": OnnxRuntime,
    "compile": Inductor,
}


def cache_dir(runtime: str) -> Path:
    """Where a runtime's graphs are kept: $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mila_ros" / runtime


class GraphCache:
    """The graphs of one network for one runtime.

    Args:
        model: as it was loaded (not fused).
        runtime: one of `RUNTIMES`.
        precision: of the network.
        folder: where graphs of all networks are kept; None: `cache_dir`. Where it cannot be written, they are made in a
            folder that goes with the process.
        device: of the tensors.
    """

    def __init__(
        self,
        model: Mila,
        runtime: str,
        precision: str = "fp32",
        folder: Path | None = None,
        device: torch.device = _CPU,
    ) -> None:
        self.runtime, self.traced = runtime, RUNTIMES[runtime].traced_in(precision)
        self.device = RUNTIMES[runtime].made_on(device)
        key = _key(model, runtime, self.device)
        base = cache_dir(runtime) if folder is None else folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.folder = base / key
        try:
            self._save(model)
        except OSError:
            self._temporary = tempfile.TemporaryDirectory(prefix="mila_ros-")
            self.folder = Path(self._temporary.name) / key
            self._save(model)

    def _save(self, model: Mila) -> None:
        self._weights = self.folder / "weights.safetensors"
        if not self._weights.is_file():
            save_model(model, self._weights)
            _forget_old(self.folder.parent)
        self._weights.touch()

    def find(self, height: int, width: int) -> dict[str, Path] | None:
        """The graphs for pictures of this size (padded), if they are there and whole."""
        return _whole(self.folder / f"{height}x{width}-{self.traced}")

    def make(self, height: int, width: int) -> dict[str, Path]:
        """As `find`; what is not there is made, which takes up to a minute.

        Raises:
            UserError: it cannot be made.
        """
        found = self.find(height, width)
        if found is not None:
            return found
        what = [str(self._weights), str(self.folder), str(height), str(width), self.runtime, self.traced]
        what.append(str(self.device))
        command = [sys.executable, "-m", "mila_ros.runtime.graph_cache", *what]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"the network cannot be compiled for {self.runtime}: {error}") from error
        found = self.find(height, width)
        if found is None:
            why = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            raise UserError(f"the network cannot be compiled for {self.runtime}: {why}")
        return found


def _forget_old(folder: Path) -> None:
    """Remove networks unused for a long time: each version of a network, and of this package, has a key of its own."""
    for weights in folder.glob("*/weights.safetensors"):
        if time.time() - weights.stat().st_mtime > _UNUSED:
            shutil.rmtree(weights.parent, ignore_errors=True)


def _key(model: Mila, runtime: str, device: torch.device) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for folder in _SOURCES:
        for source in sorted((PACKAGE / folder).glob("*.py")):
            digest.update(source.read_bytes())
    for package in ("torch", "timm", *RUNTIMES[runtime].packages):
        digest.update(f"{package} {_version(package)}".encode())
    if device != _CPU:
        digest.update(f"{torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}".encode())
    elif runtime == Inductor.name:  # its libraries hold the instructions of the processor that made them
        digest.update(f"{platform.machine()} {sorted(torch.cpu.get_capabilities().items())}".encode())
    return digest.hexdigest()[:24]


def _version(package: str) -> str:
    """Of what is installed, under whatever name it was (onnxruntime has one a device)."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(package), "__version__", ""))


def _whole(folder: Path) -> dict[str, Path] | None:
    """The graphs in a folder, unless something is missing or damaged."""
    try:
        made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
        if any(_checksum(folder / name) != right for name, right in made["sha256"].items()):
            return None
        return {part: folder / name for part, name in made["parts"].items()}
    except (OSError, ValueError, KeyError):
        return None


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_graphs(
    model: Mila,
    folder: Path,
    height: int,
    width: int,
    runtime: str,
    precision: str = "fp32",
    device: torch.device = _CPU,
) -> None:
    """Make all graphs of a network for one size, in `folder`/HxW-PRECISION.

    Args:
        model: in evaluation mode, on the CPU; it is changed (normalisation is folded in).
        precision: in which it is traced.
        device: where it is, meanwhile.
    """
    kind = RUNTIMES[runtime]
    final = folder / f"{height}x{width}-{precision}"
    work = Path(tempfile.mkdtemp(prefix=f"{final.name}.", dir=folder))
    try:
        fused = fuse_for_inference(model.float().eval())
        parts = graphs(fused.to(device=device, dtype=DTYPES[precision]), height, width)
        for name, graph in parts.items():
            kind.write(graph, work / f"{name}{kind.suffix}")
        made = {
            "parts": {name: f"{name}{kind.suffix}" for name in parts},
            "sha256": {file.name: _checksum(file) for file in sorted(work.iterdir())},
        }
        (work / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        if _whole(final) is None:  # else another process was quicker
            shutil.rmtree(final, ignore_errors=True)
            work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    _weights, _folder, _height, _width, _runtime, _precision, _device = sys.argv[1:]
    _where = torch.device(_device)
    write_graphs(load_model(_weights), Path(_folder), int(_height), int(_width), _runtime, _precision, _where)
