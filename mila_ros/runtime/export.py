"""`mila export`: a network as two ONNX files, for runtimes that are not PyTorch (ONNX Runtime, TensorRT on a Jetson).

    slow.onnx   a keyframe: image, focal -> answers, and the memory of it
    fast.onnx   every other frame: image, focal, memory -> answers
    model.json  sizes, names of inputs and outputs, classes, checksum of the checkpoint

The memory is explicit: what slow.onnx gives out under the names in model.json's `memory` goes into fast.onnx under the
same names (of a network that remembers T keyframes, the newest T joined along axis 2, the newest first). Sizes are
fixed; images are RGB in 0..1, already shrunk to the size in model.json; `focal` is fx in pixels of that image. After
the export both files are run by ONNX Runtime and compared with PyTorch.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mila_ros.errors import UserError
from mila_ros.models.attention import Remembered
from mila_ros.models.checkpoint import load_model, resolve
from mila_ros.models.fuse import fuse_for_inference
from mila_ros.models.mila import Memory, Mila
from mila_ros.models.networks import Features
from mila_ros.runtime.onnx_files import OPSET, write_onnx
from mila_ros.runtime.parts import look_up_tensors, look_ups_with

FORMAT = "mila_ros/onnx/1"
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
# How far the other runtime may be off: metres relative, parts of a unit vector, share of pixels; the memory.
_DEPTH_APART, _NORMALS_APART, _CLASSES_APART = 1e-3, 1e-2, 1e-3
_MEMORY_APART = 1e-2  # features of about unit variance


class _Answering(nn.Module):
    """What both graphs have in common: answers as a consumer wants them."""

    def __init__(self, model: Mila, output: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.output = model, output

    def answers(self, features: Features, focal: Tensor) -> tuple[Tensor, ...]:
        tasks = self.model.config.tasks
        raw = self.model.predict(features, tasks, focal, self.output)
        # Not Mila.answer: its search for the best class reads the bits of floats, which ONNX cannot.
        found = {
            "segmentation": lambda x: x.argmax(dim=1).to(torch.uint8),
            "depth": lambda x: x[:, 0],
            "normals": lambda x: x.permute(0, 2, 3, 1),
        }
        return tuple(found[task](raw[task]) for task in tasks)


class SlowGraph(_Answering):
    """(1, 3, h, w), (1,) -> answers by task, then what is remembered (`remembered_tensors`)."""

    def forward(self, image: Tensor, focal: Tensor) -> tuple[Tensor, ...]:
        memory = self.model.keyframe(image)
        return (*self.answers(memory.features, focal), *remembered_tensors(memory.remembered, newest=True).values())


class FastGraph(_Answering):
    """(1, 3, h, w), (1,), what is remembered -> answers by task."""

    def __init__(self, model: Mila, output: tuple[int, int], like: Memory) -> None:
        super().__init__(model, output)
        self._like = like

    def forward(self, image: Tensor, focal: Tensor, *tiles: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(remembered_tensors(self._like.remembered), tiles, strict=True))
        together = look_ups_with(self._like.remembered.together, given)
        kept = self._like.remembered.maps
        maps = None if kept is None else kept._replace(carried=given["coarse"], detail=given["detail"])
        glance = self.model.glance(image)
        memory = Memory(self._like.features, Remembered(together, (), together, maps))
        return self.answers(self.model.propagate(glance, memory), focal)


def remembered_tensors(tiles: Remembered, newest: bool = False) -> dict[str, Tensor]:
    """What the fast graph reads of keyframes, by the names that it has there; newest: the last keyframe's share."""
    named = look_up_tensors(tiles.newest if newest else tiles.together)
    if tiles.maps is not None:
        named["coarse"], named["detail"] = tiles.maps.carried, tiles.maps.detail
    return named


def export(
    model: Mila, folder: Path, size: tuple[int, int], scale: float = 0.5, known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write both graphs and model.json, and check them.

    Args:
        model: in evaluation mode; it is changed (normalisation is folded in).
        folder: is made; files of an earlier export are replaced once the new ones are right.
        size: (h, w) of the camera's pictures.
        scale: of the answers, as a share of that.
        known: more for model.json.

    Returns:
        what stands in model.json.

    Raises:
        UserError: a package is missing, or the other runtime answers differently.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}: pip install {' '.join(_NEEDED)}")
    if model.config.propagation != "attention":
        raise UserError(f"only networks with propagation: attention can be exported, not {model.config.propagation}")
    model = fuse_for_inference(model.float().cpu().eval())
    seen = model.working_size(*size)
    output = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    generator = torch.Generator().manual_seed(0)
    # Shapes that moved, since in mere noise each runtime finds another place for what is nowhere.
    image = F.interpolate(torch.rand(1, 3, 12, 16, generator=generator), size=seen, mode="bicubic").clamp(0, 1)
    later = torch.roll(image, (8, 16), (2, 3))
    focal = torch.tensor([float(seen[1])])
    frames = model.config.frames
    with torch.no_grad():
        memory = model.keyframe(image)
        for _ in range(frames - 1):
            memory = model.keyframe(image, memory)
    given_memory = remembered_tensors(memory.remembered)
    names, remembered = list(given_memory), list(given_memory.values())
    newest = list(remembered_tensors(memory.remembered, newest=True).values())
    slow, fast = SlowGraph(model, output).eval(), FastGraph(model, output, memory).eval()
    tasks = list(model.config.tasks)
    given = {"slow": (image, focal), "fast": (later, focal, *remembered)}
    with torch.no_grad():  # before the export, which then finds the mask of the attention ready
        expected = {"slow": slow(image, focal), "fast": fast(later, focal, *remembered)}
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        write_onnx(slow, given["slow"], work / "slow.onnx", ["image", "focal"], [*tasks, *names])
        write_onnx(fast, given["fast"], work / "fast.onnx", ["image", "focal", *names], tasks)
        outputs = {"slow": [*tasks, *names], "fast": tasks}
        apart = {kind: _apart(work / f"{kind}.onnx", given[kind], expected[kind], outputs[kind]) for kind in given}
        facts = (known or {}) | {
            "format": FORMAT,
            "image": {"height": seen[0], "width": seen[1]},
            "camera": {"height": size[0], "width": size[1]},
            "output": {"height": output[0], "width": output[1]},
            "tasks": tasks,
            "classes": list(model.config.classes),
            "frames": frames,
            "memory": {name: list(tensor.shape) for name, tensor in zip(names, remembered, strict=True)},
            "newest": {name: list(tensor.shape) for name, tensor in zip(names, newest, strict=True)},
            "opset": OPSET,
            "apart_from_pytorch": apart,
            "sha256": {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(work.glob("*.onnx"))},
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.json").unlink(missing_ok=True)  # with it, the files are a whole export
            for file in work.glob("*.onnx"):
                shutil.copyfile(file, folder / f"{file.name}.partial")
                (folder / f"{file.name}.partial").replace(folder / file.name)
            (folder / "model.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    return facts


def _apart(path: Path, given: tuple[Tensor, ...], expected: tuple[Tensor, ...], outputs: list[str]) -> dict[str, float]:
    """How far ONNX Runtime's outputs are from PyTorch's, by name.

    Raises:
        UserError: too far.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    got = session.run(outputs, {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)})
    found: dict[str, float] = {}
    limits = {"segmentation": _CLASSES_APART, "depth": _DEPTH_APART, "normals": _NORMALS_APART}
    for name, answer, right in zip(outputs, got, expected, strict=True):
        true = right.numpy()
        if name == "segmentation":
            found[name] = float(np.mean(answer != true))
        elif name == "depth":
            found[name] = float(np.max(np.abs(answer - true) / true))
        else:
            found[name] = float(np.max(np.abs(answer - true)))
        if not found[name] <= limits.get(name, _MEMORY_APART):
            raise UserError(f"{path.name} gives {name} differently from PyTorch, by {found[name]:.3g}: not exported")
    return found


def main(argv: list[str]) -> int:
    """Entry of `mila export`."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="mila export", description="Write a network as ONNX files, checked."
    )
    parser.add_argument("--model", default="indoor", help="a shipped model's name or a checkpoint file (indoor)")
    parser.add_argument("--out", type=Path, default=Path("out/export"), metavar="DIR", help="folder (out/export)")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="of the camera's pictures (640x480)")
    parser.add_argument("--output-scale", type=float, default=0.5, metavar="X", help="size of the answers (0.5)")
    options = parser.parse_args(argv)
    try:
        width, height = (int(side) for side in options.size.lower().split("x"))
    except ValueError as error:
        raise UserError(f'--size "{options.size}": expected WIDTHxHEIGHT, for example 640x480') from error
    if min(width, height) < 32 or not 0 < options.output_scale <= 1:
        raise UserError("each side of --size needs at least 32 pixels, and --output-scale lies in 0..1")
    path = resolve(options.model)
    print(f"exporting {path.name}; this takes a minute", flush=True)
    known = {"model": path.stem, "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    facts = export(load_model(path), options.out, (height, width), options.output_scale, known)
    for kind, apart in facts["apart_from_pytorch"].items():
        size = (options.out / f"{kind}.onnx").stat().st_size / 1e6
        words = ", ".join(f"{name} {value:.1g}" for name, value in apart.items())
        print(f"{options.out / kind}.onnx  {size:.1f} MB; furthest from PyTorch: {words}")
    return 0
