"""A window of the meter as the controller takes it."""

from __future__ import annotations

import math

import pytest

from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.load import measure
from mila_ros.runtime.meter import Meter


def test_stages_become_seconds_of_the_device() -> None:
    engine = Engine(Mila(ModelConfig.tiny()).eval(), device="cpu", precision="fp32", threads=1, slow_threads=1)
    engine.shares.cores = 4  # each thread is a quarter of such a machine
    meter = Meter(("front", "rear"), now=0.0)
    for _ in range(10):
        meter.times({"decode": 4.0, "upload": 2.0, "fast": 10.0, "ila": 6.0, "heads": 4.0, "publish": 2.0})
        meter.time("total", 30.0)
        meter.answered("front", 30.0, late=False)
    meter.answered("front", 200.0, late=True)
    meter.time("slow", 100.0)
    meter.time("slow", 120.0)
    found = measure(meter.window(2.0), engine, synchronous=False, tasks=("depth",))
    assert (found.seconds, found.cameras, found.frames, found.late) == (2.0, 1, 11, 1)
    assert found.frame_busy == pytest.approx(10 * (20 + 8) * 1e-3 / 4)
    assert found.keyframe_busy == pytest.approx(0.22 / 4) and found.keyframe_ms == pytest.approx(110)
    assert found.p95_ms == 30.0 and found.tasks == ("depth",)
    quiet = measure(meter.window(3.0), engine, synchronous=True, tasks=())
    assert quiet.frames == quiet.late == 0 and math.isnan(quiet.p95_ms) and math.isnan(quiet.keyframe_ms)
    assert engine.shares.weights(synchronous=True) == (0.25, 0.5, 0.25)
