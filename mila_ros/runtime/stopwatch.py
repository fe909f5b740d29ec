"""Times the stages of one answer."""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """Times consecutive stages: wall time on the CPU, the stream's own time on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._names: list[str] = []
        self._marks: list[Any] = [self._mark()]

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def go_on(self) -> None:
        """What has passed since the last lap belongs to no stage: another thread takes over."""
        self.lap("")

    def lap(self, stage: str) -> None:
        self._names.append(stage)
        self._marks.append(self._mark())

    def read(self) -> dict[str, float]:
        """Stage -> ms. On a GPU the stream must have been waited for."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self._cuda:
            laps = [begin.elapsed_time(end) for begin, end in pairs]
        else:
            laps = [(end - begin) * 1e3 for begin, end in pairs]
        return {name: lap for name, lap in zip(self._names, laps, strict=True) if name}
