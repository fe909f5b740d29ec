"""Counts, rates and percentiles of a window, and that nothing in the meter grows."""

from __future__ import annotations

import math

import pytest

from mila_ros.runtime.meter import SAMPLES, Meter, resident_mb, timing


def test_statistics_of_known_samples():
    stats = timing([float(i) for i in range(1, 101)])
    assert (stats.count, stats.mean, stats.p50, stats.p95, stats.longest) == (100, 50.5, 50.0, 95.0, 100.0)


def test_no_samples_are_nan_and_not_zero():
    stats = timing([])
    assert stats.count == 0
    assert all(math.isnan(value) for value in (stats.mean, stats.p50, stats.p95, stats.longest))


def test_a_window_has_rates_and_the_totals_run_on():
    meter = Meter(["front"], now=10.0)
    for _ in range(20):
        meter.count("front", "received")
    for i in range(15):
        meter.answered("front", 10.0 + i, late=i >= 12)
    meter.count("front", "dropped", 5)
    camera = meter.window(12.0).cameras["front"]
    assert (camera.received_rate, camera.answered_rate, camera.answered) == (10.0, 7.5, 15)
    assert (camera.counts.dropped, camera.counts.late) == (5, 3)
    assert camera.latency.p50 == 17.0
    quiet = meter.window(13.0).cameras["front"]
    assert (quiet.received_rate, quiet.answered, quiet.counts.received) == (0.0, 0, 20)
    assert math.isnan(quiet.latency.p50)


def test_keyframe_intervals_are_per_camera():
    meter = Meter(["front", "rear"], now=0.0)
    for now in (1.0, 1.5, 2.0):
        meter.keyframe("front", now)
        meter.keyframe("rear", now + 0.1)
    assert meter.window(3.0).keyframe_interval == pytest.approx(0.5)
    assert math.isnan(meter.window(4.0).keyframe_interval)


def test_stages_and_work_belong_to_one_window():
    meter = Meter(["front"], now=0.0)
    meter.times({"fast": 3.0, "ila": 1.0})
    meter.ran("fast", (480, 640))
    meter.keyframe_reason("timer")
    first, second = meter.window(1.0), meter.window(2.0)
    assert first.stages["fast"].mean == 3.0 and first.ran[("fast", (480, 640))] == 1 and first.reasons["timer"] == 1
    assert second.stages["fast"].count == 0 and not second.ran and not second.reasons


def test_samples_are_bounded():
    meter = Meter(["front"], now=0.0)
    for i in range(SAMPLES + 100):
        meter.time("fast", float(i))
    assert meter.window(1.0).stages["fast"].count == SAMPLES


def test_resident_memory_is_plausible():
    assert 5 < resident_mb() < 100_000
