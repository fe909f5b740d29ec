"""What grows with what? The fast path and its memory against resolution, window, keyframes, and ways to carry features;
the process against the number of cameras.

    python -m benchmarks.growth [--model NAME] [--rounds 15]

One process, in turns, medians; everything is also given as a ratio to the model's own setting and size. Networks with
other settings than the model's are not trained: only time, arithmetic and memory are looked at. Resolutions are those
that the networks see; a model's own is what it makes of 640x480.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.methods import TASKS
from benchmarks.rows import OUT, Row, finish, run
from mila_ros.errors import UserError
from mila_ros.evaluation import machine
from mila_ros.models.checkpoint import load_model
from mila_ros.models.mila import Memory, Mila
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.meter import resident_mb
from mila_ros.runtime.passing import Ask
from mila_ros.runtime.pipeline import Pipeline
from mila_ros.training.start import carried_otherwise

RESOLUTIONS = ((240, 320), (480, 640), (720, 1280))
"""Beside the model's own."""
WAYS: dict[str, dict[str, Any]] = {
    "window 9": {"window": 9},
    "reach 16": {"reach": 16},
    "window 9, which stays": {"window": 9, "reach": 0},
    "window 17, which stays": {"window": 17, "reach": 0},
    "2 keyframes": {"frames": 2, "warp": False, "reach": 0},
    "4 keyframes": {"frames": 4, "warp": False, "reach": 0},
    "a look-up a task": {"attention": "task"},
    "without warp": {"warp": False},
    "with warp": {"warp": True},
    "alignment": {"propagation": "alignment", "warp": False, "reach": 0},
    "attention and alignment": {"propagation": "attention+alignment"},
    "LAPS": {"propagation": "laps", "warp": False, "reach": 0},
    "learned flow": {"propagation": "learned-flow", "warp": False, "reach": 0},
    "Accel": {"propagation": "accel", "warp": False, "reach": 0},
}
CAMERAS = (1, 2, 4, 8)
_OWN = "as it is"


def remembered_mb(memory: Memory) -> float:
    """MiB of all tensors that a keyframe leaves behind; those that are shared count once."""
    found: dict[int, int] = {}

    def look(value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for each in value.values():
                look(each)
        elif isinstance(value, tuple | list):
            for each in value:
                look(each)

    look(memory)
    return sum(found.values()) / 2**20


class Setting:
    """A model, and a picture's size.

    Args:
        model: is put into an engine of its own.
        size: (h, w); the networks see all of it.
    """

    def __init__(self, model: Mila, size: tuple[int, int], device: str, precision: str) -> None:
        model = copy.deepcopy(model)  # the engine changes what it is given
        model.config = replace(model.config, working_pixels=size[0] * size[1])
        self.engine = Engine(model, device, precision)
        rng = np.random.default_rng(0)
        self.picture = self.engine.upload(rng.integers(0, 255, (*size, 3), np.uint8))
        memory: Memory | None = None
        for _ in range(model.config.frames):
            memory, _ = self.engine.keyframe(self.picture, memory, alone=True)
        assert memory is not None
        self.memory = memory
        self.ms: dict[str, list[float]] = {"frame": [], "ila": []}

    def turn(self) -> None:
        """One answered frame."""
        with self.engine.shares.all():
            begin = time.perf_counter()
            answer = self.engine.answer(self.picture, self.memory, self.engine.tasks, 500.0)
        self.ms["frame"].append((time.perf_counter() - begin) * 1e3)
        self.ms["ila"].append(answer.milliseconds["ila"])

    def numbers(self) -> dict[str, tuple[float, str]]:
        """Metric -> value and unit."""
        flops = self.engine.flops(self.picture.size, self.engine.tasks)
        return {
            "frame": (statistics.median(self.ms["frame"]), "ms"),
            "propagation": (statistics.median(self.ms["ila"]), "ms"),
            "arithmetic of propagation": (flops.propagate / 1e9, "GFLOPs"),
            "remembered": (remembered_mb(self.memory), "MiB"),
        }


def settings(model: Mila, device: str, precision: str) -> dict[tuple[str, str], Setting]:
    """By question and name."""
    own = model.working_size(480, 640)
    made = {("propagation", _OWN): Setting(model, own, device, precision)}
    for name, changes in WAYS.items():
        other = carried_otherwise(model, changes)
        if other is not model:
            made["propagation", name] = Setting(other.eval(), own, device, precision)
    for height, width in sorted({own, *RESOLUTIONS}):
        made["resolution", f"{width}x{height}"] = Setting(model, (height, width), device, precision)
    return made


def measure(found: dict[tuple[str, str], Setting], rounds: int) -> Iterator[Row]:
    """All settings in turns, so that what else the machine does touches all of them alike."""
    for number in tqdm(range(rounds + 2), desc="growth", unit="round", file=sys.stderr):
        for setting in found.values():
            setting.turn()
            if number < 2:  # first use sets things up
                for times in setting.ms.values():
                    times.clear()
    base = found["propagation", _OWN].numbers()
    for (question, name), setting in found.items():
        for metric, (value, unit) in setting.numbers().items():
            yield Row(question=question, method=name, setting="", metric=metric, value=value, unit=unit)
            ratio = value / base[metric][0]
            yield Row(question=question, method=name, setting="", metric=f"{metric}, ratio", value=ratio, unit="")


def cameras(model: Mila, device: str, precision: str, frames: int = 12) -> Iterator[Row]:
    """Resident memory with more and more cameras at 640x480, each with a keyframe of its own."""
    engine = Engine(model, device, precision)
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 255, (480, 640, 3), np.uint8)
    before = None
    for count in CAMERAS:
        names = [f"camera{number}" for number in range(count)]
        pipeline = Pipeline(engine, names, "synchronous", period=0.1)
        with pipeline.fast_thread():
            for number in range(frames):
                for name in names:
                    pipeline.answer(Ask(name, rgb, engine.tasks, 500.0, time.monotonic(), number))
        now = resident_mb()
        pipeline.close()
        yield Row(question="cameras", method=str(count), setting="", metric="resident", value=now, unit="MiB")
        if before is not None:
            each = (now - before[1]) / (count - before[0])
            yield Row(question="cameras", method=str(count), setting="", metric="each more", value=each, unit="MiB")
        before = (count, now)


def main(argv: Sequence[str]) -> int:
    """Entry of `python -m benchmarks.growth`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="indoor", help="a shipped model's name or a checkpoint file")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--precision", default="auto", help="fp32, bf16, fp16 or auto")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="frames of each setting (15)")
    parser.add_argument("--out", type=Path, default=OUT / "growth.json")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        raise UserError("--rounds: at least one")
    model = load_model(options.model, TASKS)
    with torch.inference_mode():
        rows = [*cameras(copy.deepcopy(model), options.device, options.precision)]
        rows += measure(settings(model, options.device, options.precision), options.rounds)
    print(f"\n{machine.processor()}, {machine.cores()} cores\n")
    finish(rows, options.out)
    return 0


if __name__ == "__main__":
    run(main)
