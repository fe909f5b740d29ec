"""Ways of answering every frame of a video, each with its own state, on one engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Answer, Ask
from mila_ros.runtime.pipeline import Pipeline

CAMERA = "bench"
RATE = 30.0  # frames a second
TASKS = ("segmentation", "depth", "normals")


@dataclass
class Measured:
    """What answering took, frame by frame."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """Processor time of all threads."""
    stages: dict[str, list[float]] = field(default_factory=dict)
    """Stage -> milliseconds of the frames in which it ran. Heads of keyframes: "heads of the slow network"."""
    keyframes: int = 0

    def note(self, wall_ms: float, cpu_ms: float, answer: Answer) -> None:
        """One answered frame."""
        self.wall_ms.append(wall_ms)
        self.cpu_ms.append(cpu_ms)
        for stage, milliseconds in answer.milliseconds.items():
            if stage == "heads" and "fast" not in answer.milliseconds:
                stage = "heads of the slow network"
            self.stages.setdefault(stage, []).append(milliseconds)


class Method(Protocol):
    """Answers frames one after the other."""

    name: str
    setting: str
    measured: Measured

    def answer(self, rgb: npt.NDArray[np.uint8], focal: float, number: int) -> None:
        """Answer frame `number` and note what it took."""

    def close(self) -> None:
        """Let go of threads."""


class SlowEveryFrame:
    """The slow network alone; nothing is remembered."""

    name, setting = "slow network on every frame", ""

    def __init__(self, engine: Engine, tasks: Sequence[str]) -> None:
        self._engine, self._tasks = engine, tasks
        self.measured = Measured()

    def answer(self, rgb: npt.NDArray[np.uint8], focal: float, number: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        found = self._engine.answer_slow(self._engine.upload(rgb), self._tasks, focal)
        self.measured.note((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3, found)

    def close(self) -> None:
        """Nothing to let go of."""


class FastAlone:
    """The fast network without a keyframe."""

    name, setting = "fast network alone", ""

    def __init__(self, engine: Engine, tasks: Sequence[str]) -> None:
        self._engine, self._tasks = engine, tasks
        self.measured = Measured()

    def answer(self, rgb: npt.NDArray[np.uint8], focal: float, number: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        picture = self._engine.upload(rgb)
        found = self._engine.answer(picture, None, self._tasks, focal)
        self.measured.note((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3, found)

    def close(self) -> None:
        """Nothing to let go of."""


class MilaMethod:
    """The node's own pipeline with a keyframe every `interval` frames."""

    def __init__(self, engine: Engine, tasks: Sequence[str], mode: str, interval: int) -> None:
        self.name, self.setting = f"MILA {mode}", f"keyframe every {interval} frames"
        self.interval, self.mode = interval, mode
        self._tasks = tasks
        self.measured = Measured()
        # A hair less than the interval: rounding must not push a keyframe to the next frame.
        period = interval / RATE * (1 - 1e-6)
        self._failures: list[str] = []
        self._pipeline = Pipeline(
            engine, [CAMERA], mode=mode, period=period, on_error=lambda _, text: self._failures.append(text)
        )
        self._begun = 0

    def answer(self, rgb: npt.NDArray[np.uint8], focal: float, number: int) -> None:
        """Time stands at the frame's number, so the timer fires by frames however long they take here."""
        wall, cpu = time.perf_counter(), time.process_time()
        found, _ = self._pipeline.answer(Ask(CAMERA, rgb, self._tasks, focal, number / RATE, number))
        self.measured.note((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3, found)

    def settle(self) -> None:
        """Return when no keyframe is in the making."""
        while self._in_the_making():
            if self._failures:
                raise RuntimeError(self._failures[0])
            time.sleep(0.001)

    def _in_the_making(self) -> bool:
        window = self._pipeline.meter.window(time.monotonic())
        self._begun += sum(window.reasons.values())
        if "slow" in window.stages and window.stages["slow"].count:
            self.measured.stages.setdefault("slow", []).append(window.stages["slow"].p50)
        self.measured.keyframes = self._pipeline.meter.counts(CAMERA).keyframes
        return self.measured.keyframes < self._begun

    def close(self) -> None:
        self.settle()
        self._pipeline.close()


def paced_block(method: MilaMethod, frames: Sequence[tuple[npt.NDArray[np.uint8], float]], first: int) -> None:
    """Frames at the camera's rate with the slow network beside them; returns when that has finished, too.

    Processor time is that of the whole block, spread over its frames.
    """
    cpu, begin = time.process_time(), time.perf_counter()
    before = len(method.measured.cpu_ms)
    for index, (rgb, focal) in enumerate(frames):
        time.sleep(max(0.0, begin + index / RATE - time.perf_counter()))
        method.answer(rgb, focal, first + index)
    method.settle()
    spent = (time.process_time() - cpu) * 1e3
    method.measured.cpu_ms[before:] = [spent / len(frames)] * len(frames)
