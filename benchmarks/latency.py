"""How long does a frame take, by method and by stage, and what does it cost?

    python -m benchmarks.latency [--bag PATH] [--model NAME] [--seconds 90]

The same frames go through every method in the same run, in turns, so that a noisy machine hurts all alike: frame by
frame where a frame waits for everything (and has all cores), in blocks of ten at 30 Hz where the slow network runs
beside the frames (and shares the cores with them as in the node).
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.optical_flow import raft_small
from tqdm import tqdm

from benchmarks.methods import RATE, FastAlone, MilaMethod, SlowEveryFrame, paced_block
from benchmarks.options import engine_parser
from benchmarks.rows import Row, finish, run
from mila_ros.errors import UserError
from mila_ros.evaluation import machine
from mila_ros.evaluation.inputs import default_clip
from mila_ros.evaluation.timeline import percentile
from mila_ros.models.checkpoint import load_model
from mila_ros.models.flops import Flops
from mila_ros.runtime.engine import Engine
from mila_ros.worlds.bags import Bag

INTERVALS = (2, 5, 10)
BLOCK = 10
_FRAMES = 60
_FEWEST_ROUNDS = 3
Frames = list[tuple[npt.NDArray[np.uint8], float]]


def read_frames(path: Path, count: int) -> Frames:
    """Pictures and focal lengths (pixels) from the beginning of a recording."""
    with Bag(path, fov_deg=60.0) as bag:
        frames = [(frame.rgb, frame.intrinsics.fx) for frame in itertools.islice(bag.frames(), count)]
    if len(frames) < BLOCK:
        raise UserError(f"{path} has {len(frames)} pictures; at least {BLOCK} are needed")
    return frames


class Run:
    """All methods on one engine, measured in turns."""

    def __init__(self, engine: Engine, frames: Frames) -> None:
        self.engine, self._frames = engine, frames
        self.tasks = engine.tasks
        self.slow, self.fast = SlowEveryFrame(engine, self.tasks), FastAlone(engine, self.tasks)
        self.synchronous = [MilaMethod(engine, self.tasks, "synchronous", k) for k in INTERVALS]
        self.asynchronous = [MilaMethod(engine, self.tasks, "asynchronous", k) for k in INTERVALS]
        self._next = 0

    @property
    def methods(self) -> list[SlowEveryFrame | FastAlone | MilaMethod]:
        return [self.slow, self.fast, *self.synchronous, *self.asynchronous]

    def round(self) -> None:
        """The next ten frames through every method."""
        block = [self._frames[(self._next + i) % len(self._frames)] for i in range(BLOCK)]
        waiting = [self.slow, self.fast, *self.synchronous]
        shared = torch.get_num_threads()  # the engine leaves cores to the slow network beside it
        torch.set_num_threads(machine.cores())  # here nothing runs beside
        for index, (rgb, focal) in enumerate(block):
            # Who comes first finds other things in the caches than who comes last: take turns.
            shift = (self._next + index) % len(waiting)
            for method in waiting[shift:] + waiting[:shift]:
                method.answer(rgb, focal, self._next + index)
        for method in self.synchronous:
            method.settle()
        torch.set_num_threads(shared)
        shift = (self._next // BLOCK) % len(self.asynchronous)
        for method in self.asynchronous[shift:] + self.asynchronous[:shift]:
            paced_block(method, block, self._next)
        self._next += BLOCK

    def forget(self) -> None:
        """Start counting now: what came before was warming up."""
        for method in self.methods:
            method.measured.wall_ms.clear()
            method.measured.cpu_ms.clear()
            method.measured.stages.clear()
        self._keyframes_before = [method.measured.keyframes for method in self.asynchronous]

    def interval_reached(self, index: int) -> float:
        """Frames to a keyframe of an asynchronous method: the slow network may not keep up with what is wanted."""
        measured = self.asynchronous[index].measured
        return len(measured.wall_ms) / max(1, measured.keyframes - self._keyframes_before[index])

    def close(self) -> None:
        for method in self.methods:
            method.close()


def method_rows(run: Run, flops: Flops) -> list[Row]:
    """Time and arithmetic of each method, and as a share of the slow network's on every frame."""
    rows: list[Row] = []
    slow = run.slow.measured
    for method in run.methods:
        measured = method.measured
        if isinstance(method, MilaMethod):
            reached = float(method.interval)
            if method.mode == "asynchronous":
                reached = run.interval_reached(run.asynchronous.index(method))
                # Beside the frames every one of them is answered by the fast path.
                cost = flops.slow / reached + flops.fast_frame
            else:
                cost = flops.amortised(method.interval)
        else:
            cost = float(flops.slow_frame) if method is run.slow else float(flops.alone_frame)

        def row(metric: str, value: float, unit: str, method=method) -> None:
            rows.append(_row("how long does a frame take", method.name, method.setting, metric, value, unit))

        row("p50", _median(measured.wall_ms), "ms")
        row("p95", percentile(measured.wall_ms, 0.95) or 0.0, "ms")
        row("mean", _mean(measured.wall_ms), "ms")
        row("processor time", _mean(measured.cpu_ms), "ms")
        row("arithmetic", cost / 1e9, "GFLOPs")
        # Cycle by cycle, so that a disturbance of some seconds is in both or in neither.
        row("mean against slow", _paired(measured.wall_ms, slow.wall_ms), "")
        row("processor time against slow", _paired(measured.cpu_ms, slow.cpu_ms), "")
        row("arithmetic against slow", cost / flops.slow_frame, "")
        if isinstance(method, MilaMethod):
            row("frames a keyframe", reached, "")
    return rows


def stage_rows(run: Run) -> list[Row]:
    """Each stage, with nothing beside it."""
    merged: dict[str, list[float]] = {}
    for method in run.synchronous:
        for stage, values in method.measured.stages.items():
            merged.setdefault(stage, []).extend(values)
    order = ("upload", "slow", "heads of the slow network", "fast", "ila", "heads", "download")
    rows = []
    for stage in order:
        values = merged.get(stage, [])
        if values:
            rows.append(_row("how long does a stage take", stage, "", "p50", _median(values), "ms"))
            rows.append(_row("how long does a stage take", stage, "", "p95", percentile(values, 0.95) or 0.0, "ms"))
    return rows


def propagation_rows(flops: Flops, size: tuple[int, int], seen: tuple[int, int]) -> list[Row]:
    """Arithmetic of carrying a keyframe to a frame: local attention against optical flow (RAFT-small's alone)."""
    question = "what does propagation cost"
    picture, network = f"{size[1]}x{size[0]} picture", f"{seen[1]}x{seen[0]}, as the networks see it"
    rows = [_row(question, "inter-frame local attention", picture, "arithmetic", flops.propagate / 1e9, "GFLOPs")]
    for where, (height, width) in {picture: size, network: seen}.items():
        raft = raft_flops(height, width)
        rows.append(_row(question, "RAFT-small", where, "arithmetic", raft / 1e9, "GFLOPs"))
        rows.append(_row(question, "attention against RAFT-small", where, "ratio", flops.propagate / raft, ""))
    return rows


def raft_flops(height: int, width: int) -> int:
    """FLOPs of torchvision's RAFT-small for one pair of pictures, counted without computing anything."""
    # Sides in multiples of 8, and 128 at least, as it demands.
    height, width = (max(128, -(-side // 8) * 8) for side in (height, width))
    with torch.device("meta"), torch.no_grad():
        model = raft_small(weights=None).eval()
        image = torch.zeros(1, 3, height, width)
        with FlopCounterMode(display=False) as counter:
            model(image, image)
    return counter.get_total_flops()


def echo_rows(size: tuple[int, int], seconds: float) -> list[Row]:
    """The transport's floor."""
    from benchmarks.echo import round_trips

    trips, lost = round_trips(*size, rate=RATE, seconds=seconds)
    if not trips:
        raise RuntimeError("no picture came back from the echo node")
    setting = f"{size[1]}x{size[0]} rgb8 there and back, {RATE:g} Hz"
    question = "what does the transport take"
    return [
        _row(question, "echo node", setting, "p50", _median(trips), "ms"),
        _row(question, "echo node", setting, "p95", percentile(trips, 0.95) or 0.0, "ms"),
        _row(question, "echo node", setting, "lost", lost, "frames"),
    ]


def machine_rows(engine: Engine, rounds: int, load: float) -> list[Row]:
    """On what it was measured."""
    return [
        _row(
            "on what",
            machine.processor(),
            f"{engine.device}, {engine.precision}, {engine.backend}",
            "cores",
            machine.cores(),
            "",
        ),
        _row("on what", "this run", "frames a method", "frames", rounds * BLOCK, ""),
        _row("on what", "this run", "load before the start", "load", load, ""),
    ]


def _row(question: str, method: str, setting: str, metric: str, value: float, unit: str) -> Row:
    return {
        "question": question,
        "method": method,
        "setting": setting,
        "metric": metric,
        "value": float(value),
        "unit": unit,
    }


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _paired(values: Sequence[float], reference: Sequence[float]) -> float:
    """Median over blocks of the same ten frames of the ratio of their sums."""
    count = min(len(values), len(reference)) // BLOCK * BLOCK
    sums = [np.asarray(v[:count]).reshape(-1, BLOCK).sum(axis=1) for v in (values, reference)]
    return float(np.median(sums[0] / np.maximum(sums[1], 1e-9)))


def measure(engine: Engine, frames: Frames, seconds: float, tell: Callable[[int], object]) -> tuple[list[Row], int]:
    """Rows and rounds of about `seconds` of measuring."""
    size = (frames[0][0].shape[0], frames[0][0].shape[1])
    seen = engine.seen_size(*size)
    flops = engine.flops(seen, engine.tasks)
    with engine.fast_thread():
        engine.warm_up(*size)
        run = Run(engine, frames)
        try:
            run.round()
            run.forget()
            begin, rounds = time.monotonic(), 0
            while rounds < _FEWEST_ROUNDS or time.monotonic() - begin < seconds:
                run.round()
                rounds += 1
                tell(min(round(seconds), round(time.monotonic() - begin)))
        finally:
            run.close()
    rows = method_rows(run, flops) + stage_rows(run) + propagation_rows(flops, size, seen)
    return rows, rounds


def main(argv: Sequence[str]) -> int:
    """Measure, print tables, write rows."""
    parser = engine_parser("latency", __doc__)
    parser.add_argument("--output-scale", type=float, default=0.5, help="as the node's parameter (default 0.5)")
    parser.add_argument("--max-pixels", type=int, default=307_200, help="as the node's parameter (default 307200)")
    parser.add_argument("--seconds", type=float, default=90.0, help="of measuring the methods (default 90)")
    options = parser.parse_args(argv)
    load = os.getloadavg()[0]
    frames = read_frames(options.bag or default_clip(), _FRAMES)
    size = (frames[0][0].shape[0], frames[0][0].shape[1])
    rows = echo_rows(size, seconds=5.0)
    engine = Engine(
        load_model(options.model),
        device=options.device,
        precision=options.precision,
        output_scale=options.output_scale,
        max_pixels=options.max_pixels,
        backend=options.backend,
    )
    with tqdm(total=round(options.seconds), desc="latency", unit="s", file=sys.stderr) as bar:
        found, rounds = measure(engine, frames, options.seconds, lambda done: bar.update(done - bar.n))
    rows = found + rows + machine_rows(engine, rounds, load)
    finish(rows, options.out)
    return 0


if __name__ == "__main__":
    run(main)
