"""How many frames a second, when one always waits? MILA as in the node against its slow network on every frame.

    python -m benchmarks.throughput [--bag PATH] [--model NAME] [--rounds 12]

One thread looks at a frame while another tells of the one before it, for both methods alike; the slow network has all
cores for what it looks at, and is also measured frame by frame, all cores for everything: what is faster counts.
Keyframes wait for the slow network (synchronous mode), so that there is exactly one in ten frames. Blocks of ten frames
in turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tqdm import tqdm

from benchmarks.latency import Frames, read_frames
from benchmarks.methods import CAMERA, RATE
from benchmarks.options import engine_of, engine_parser, on_what
from benchmarks.rows import Row, finish, run
from mila_ros.errors import UserError
from mila_ros.evaluation.inputs import default_clip
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Ask, Looked, Seen
from mila_ros.runtime.pipeline import Pipeline
from mila_ros.runtime.slots import Handover

INTERVAL = 10
T = TypeVar("T")


class Overlapped:
    """A second thread that tells of what the first one has looked at."""

    def __init__(self, engine: Engine, tell: Callable[[T], object], warm: Callable[[], None]) -> None:
        self._engine, self._tell, self._warm_up = engine, tell, warm
        self._handed: Handover[T] = Handover()
        self._told = threading.Semaphore(0)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            with self._engine.fast_thread():
                self._warm_up()
                while (looked := self._handed.take()) is not None:
                    self._tell(looked)
                    self._told.release()
        except BaseException as error:
            self._failure = error
            self._handed.close()

    def give(self, looked: T) -> None:
        """Hand over what was looked at; waits until the thread is free to take it."""
        self._handed.give(looked)
        if self._failure is not None:
            raise self._failure

    def finish(self, count: int) -> None:
        """Wait until so many more have been told of."""
        for _ in range(count):
            while not self._told.acquire(timeout=1.0):
                if self._failure is not None:
                    raise self._failure

    def close(self) -> None:
        self._handed.close()
        self._thread.join()


class MilaInTwo:
    """The node's pipeline."""

    name, setting = "MILA", f"a keyframe in {INTERVAL} frames"

    def __init__(self, engine: Engine, size: tuple[int, int]) -> None:
        self._engine = engine
        period = INTERVAL / RATE * (1 - 1e-6)
        self._pipeline = Pipeline(engine, [CAMERA], mode="synchronous", period=period)
        warm = lambda: engine.warm_up(*size, ("tell",))  # noqa: E731
        self._second: Overlapped = Overlapped(engine, self._pipeline.tell, warm)

    def block(self, frames: Frames, first: int) -> None:
        for number, (rgb, focal) in enumerate(frames, first):
            ask = Ask(CAMERA, rgb, self._engine.tasks, focal, number / RATE, number)
            seen: Seen = self._pipeline.look(ask)
            self._second.give(seen)
        self._second.finish(len(frames))

    def close(self) -> None:
        self._second.close()
        self._pipeline.close()


class SlowInTwo:
    """The slow network on every frame, its heads in the other thread."""

    name, setting = "slow network on every frame", "heads beside the next frame"

    def __init__(self, engine: Engine, size: tuple[int, int]) -> None:
        self._engine = engine
        warm = lambda: engine.warm_up(*size, ("tell",))  # noqa: E731
        self._second: Overlapped = Overlapped(engine, self._told, warm)

    def _told(self, given: tuple[Looked, float]) -> None:
        self._engine.tell(given[0], self._engine.tasks, given[1])

    def block(self, frames: Frames, first: int) -> None:
        for rgb, focal in frames:
            self._second.give((self._engine.look_slow(self._engine.upload(rgb)), focal))
        self._second.finish(len(frames))

    def close(self) -> None:
        self._second.close()


class SlowInOne:
    """The slow network on every frame, all cores for everything."""

    name, setting = "slow network on every frame", "frame by frame"

    def __init__(self, engine: Engine, size: tuple[int, int]) -> None:
        self._engine = engine

    def block(self, frames: Frames, first: int) -> None:
        for rgb, focal in frames:
            self._engine.answer_slow(self._engine.upload(rgb), self._engine.tasks, focal)

    def close(self) -> None:
        """Nothing to let go of."""


def measure(engine: Engine, frames: Frames, rounds: int, tell: Callable[[], object]) -> list[Row]:
    """Rows of all methods after so many rounds of ten frames each."""
    size = (int(frames[0][0].shape[0]), int(frames[0][0].shape[1]))
    with engine.fast_thread():
        engine.warm_up(*size, ("look", "tell", "keyframe alone", "slow"))
        methods = [kind(engine, size) for kind in (MilaInTwo, SlowInTwo, SlowInOne)]
        took: dict[object, list[float]] = {method: [] for method in methods}
        for index in range(rounds + 1):
            block = [frames[(index * INTERVAL + i) % len(frames)] for i in range(INTERVAL)]
            for method in methods:
                begin = time.perf_counter()
                method.block(block, index * INTERVAL)
                if index:  # the first round was warming up
                    took[method].append((time.perf_counter() - begin) / INTERVAL)
            tell()
        for method in methods:
            method.close()
    rates = {method: 1 / statistics.median(seconds) for method, seconds in took.items()}
    ours, *slow = (rates[method] for method in methods)
    rows: list[Row] = []
    for method in methods:
        for metric, value, unit in (
            ("frames a second", rates[method], "Hz"),
            ("MILA answers so many times as often", ours / rates[method], ""),
        ):
            rows.append(
                Row(
                    question="throughput",
                    method=method.name,
                    setting=method.setting,
                    metric=metric,
                    value=value,
                    unit=unit,
                )
            )
    best = "MILA against the slow network at its fastest"
    rows.append(Row(question="throughput", method=best, setting="", metric="ratio", value=ours / max(slow), unit=""))
    return rows


def main(argv: Sequence[str]) -> int:
    """Measure, print tables, write rows."""
    parser = engine_parser("throughput", __doc__)
    parser.add_argument("--rounds", type=int, default=12, help="of ten frames of each method (default 12)")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        raise UserError("--rounds is counted from 1")
    load = os.getloadavg()[0]
    frames = read_frames(options.bag or default_clip(), 60)
    engine = engine_of(options)
    with tqdm(total=options.rounds + 1, desc="throughput", unit="round", file=sys.stderr) as bar:
        rows = measure(engine, frames, options.rounds, bar.update)
    rows.append(on_what(engine, load))
    finish(rows, options.out)
    return 0


if __name__ == "__main__":
    run(main)
