"""How much of the device a window took: what the budget's controller looks at."""

from __future__ import annotations

import math

from mila_ros.runtime.controller import Measured
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.meter import NOTHING, Window

# What a frame takes of a GPU, and of a CPU besides.
_NETWORKS = ("fast", "ila", "heads")
_AROUND = ("decode", "upload", "download", "publish")


def measure(window: Window, engine: Engine, synchronous: bool, tasks: tuple[str, ...]) -> Measured:
    """A window as the controller takes it. The device is the GPU, or all cores that the process may use.

    Args:
        window: of the meter.
        engine: that ran it.
        synchronous: keyframes had the threads of both networks.
        tasks: that are wanted.
    """
    frames_on, slow_on, single = engine.shares.weights(synchronous)
    stages = {name: timing.count * timing.mean * 1e-3 for name, timing in window.stages.items() if timing.count}
    busy = frames_on * sum(stages.get(name, 0.0) for name in _NETWORKS)
    busy += single * sum(stages.get(name, 0.0) for name in _AROUND)
    slow, total = window.stages.get("slow", NOTHING), window.stages.get("total", NOTHING)
    answering = [camera for camera in window.cameras.values() if camera.answered]
    return Measured(
        seconds=window.seconds,
        cameras=len(answering),
        frames=sum(camera.answered for camera in answering),
        late=window.late,
        frame_busy=busy,
        keyframes=slow.count,
        keyframe_busy=slow_on * stages.get("slow", 0.0),
        keyframe_ms=slow.mean,
        p95_ms=total.p95 if total.count else math.nan,
        tasks=tasks,
    )
