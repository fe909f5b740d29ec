"""How far are the networks' parts from what the device could do: arithmetic, and bytes to and from memory?

    python -m benchmarks.roofline [--bag PATH] [--model NAME] [--frames 60]

Two limits of the device are measured in this run: products of large matrices in the engine's precision, and copying of
what no cache holds. Each part has so much arithmetic and moves so many bytes, if what each of PyTorch's operators reads
and writes went through memory (fused operators, as OpenVINO's, and caches move fewer). Its time is compared with the
larger of both limits (Williams, Waterman, Patterson, "Roofline", CACM 2009).
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from benchmarks.latency import Frames, read_frames
from benchmarks.methods import MilaMethod
from benchmarks.options import engine_of, engine_parser, on_what
from benchmarks.rows import Row, finish, run
from mila_ros.evaluation import machine
from mila_ros.evaluation.inputs import default_clip
from mila_ros.models.mila import Mila
from mila_ros.runtime.engine import Engine

PARTS = ("slow", "fast", "ila", "heads")
_INTERVAL = 2
_COPIED = 256 * 2**20  # bytes; more than most caches hold
_SIDE = 2048
_TRIES = 15


class Traffic(TorchDispatchMode):
    """Bytes that operators read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        written = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        held = {x.untyped_storage().data_ptr() for x in read}
        in_place = func._schema.is_mutable
        if in_place or any(x.untyped_storage().data_ptr() not in held for x in written):
            self.bytes += sum(x.numel() * x.element_size() for x in (*read, *written))
        return result


def traffic(model: Mila, height: int, width: int) -> dict[str, int]:
    """Bytes by part, for one picture of that size, in the model's precision."""
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, height, width, dtype=parameter.dtype, device=parameter.device)
    image = image.to(memory_format=torch.channels_last)
    focal = torch.full((1,), model.config.canonical_focal, device=parameter.device)
    size = (height // 2, width // 2)

    def moved(call: Callable[[], Any]) -> tuple[Any, int]:
        with Traffic() as counted:
            result = call()
        return result, counted.bytes

    with torch.no_grad():
        memory, slow = moved(lambda: model.keyframe(image))
        glance, fast = moved(lambda: model.glance(image))
        features, ila = moved(lambda: model.propagate(glance, memory))
        _, heads = moved(lambda: model.answer(features, model.config.tasks, focal, size))
    return {"slow": slow, "fast": fast, "ila": ila, "heads": heads}


def best_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The shortest of some runs: what the device can do, not what a busy machine lets it."""
    found = []
    for _ in range(_TRIES):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - begin)
    return min(found)


def limits(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Floating-point operations a second, and bytes a second."""
    a = torch.randn(_SIDE, _SIDE, device=device).to(dtype)
    product = torch.empty_like(a)
    source = torch.empty(_COPIED, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    flops = 2 * _SIDE**3 / best_seconds(lambda: torch.mm(a, a, out=product), device)
    return flops, 2 * _COPIED / best_seconds(lambda: target.copy_(source), device)


def rows_of(engine: Engine, frames: Frames, count: int, tell: Callable[[], object]) -> list[Row]:
    """Limits and parts, of `count` frames."""
    size = (frames[0][0].shape[0], frames[0][0].shape[1])
    seen = engine.seen_size(*size)
    cost, moved = engine.flops(seen, engine.tasks), traffic(engine.model, *seen)
    arithmetic = {"slow": cost.slow, "fast": cost.fast, "ila": cost.propagate, "heads": cost.heads}
    with engine.fast_thread():
        engine.warm_up(*size)
        method = MilaMethod(engine, engine.tasks, "synchronous", _INTERVAL)
        try:
            for index in range(count):
                rgb, focal = frames[index % len(frames)]
                method.answer(rgb, focal, index)
                tell()
            method.settle()
            stages = {part: list(values) for part, values in method.measured.stages.items()}
        finally:
            method.close()
    # Afterwards: threads that PyTorch keeps for it would take cores from the networks' own.
    torch.set_num_threads(machine.cores())
    flops_limit, bytes_limit = limits(engine.device, next(engine.model.parameters()).dtype)

    def row(question: str, name: str, metric: str, value: float, unit: str) -> Row:
        return Row(question=question, method=name, setting="", metric=metric, value=value, unit=unit)

    found = [
        row("what the device can do", "products of matrices", "rate", flops_limit / 1e9, "GFLOPs/s"),
        row("what the device can do", "copying memory", "rate", bytes_limit / 1e9, "GB/s"),
    ]
    question = "how far is a part from it"
    for part in PARTS:
        by_arithmetic, by_memory = arithmetic[part] / flops_limit * 1e3, moved[part] / bytes_limit * 1e3
        p50 = statistics.median(stages[part])
        found += [
            row(question, part, "p50", p50, "ms"),
            row(question, part, "arithmetic", arithmetic[part] / 1e9, "GFLOPs"),
            row(question, part, "moved", moved[part] / 1e6, "MB"),
            row(question, part, "limit by arithmetic", by_arithmetic, "ms"),
            row(question, part, "limit by memory", by_memory, "ms"),
            row(question, part, "time against the larger limit", p50 / max(by_arithmetic, by_memory), ""),
        ]
    return found


def main(argv: Sequence[str]) -> int:
    """Measure, print tables, write rows."""
    parser = engine_parser("roofline", __doc__)
    parser.add_argument("--frames", type=int, default=60, help="to measure the parts on (default 60)")
    options = parser.parse_args(argv)
    load = os.getloadavg()[0]
    frames = read_frames(options.bag or default_clip(), max(10, min(60, options.frames)))
    engine = engine_of(options)
    with tqdm(total=options.frames, desc="roofline", unit="frame", file=sys.stderr) as bar:
        found = rows_of(engine, frames, options.frames, bar.update)
    finish([*found, on_what(engine, load)], options.out)
    return 0


if __name__ == "__main__":
    run(main)
