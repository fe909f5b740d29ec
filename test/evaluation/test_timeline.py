"""Joining of publications and arrivals by stamp, and the statistics on it: all by numbers made by hand.

Not covered: whether the two clocks are the same one (the end-to-end test of the demo would show impossible latencies).
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from mila_ros.evaluation.timeline import (
    BudgetSample,
    FrameTime,
    Latency,
    budget_sample,
    flops_saved,
    frame_answer,
    join,
    percentile,
    stage_shares,
)

OUTPUTS = ["segmentation/image", "depth/image", "normals/image"]
MS = 1_000_000


def _published(count):
    return [{"topic": "/c", "stamp_ns": 1000 + i, "published_ns": i * 33 * MS} for i in range(count)]


def _arrivals(entries):
    return {"cameras": {"front": {"outputs": OUTPUTS, "arrivals": entries}}}


def _sample(**values):
    usual = {
        "stamp_ns": 0,
        "device": "cpu",
        "precision": "fp32",
        "backend": "eager",
        "mode": "asynchronous",
        "model": "m",
        "keyframe_period": 0.333,
        "slow_gflops": 10.0,
        "gflops_per_frame": 2.0,
        "flops_saved": 0.8,
        "rss_mb": 100.0,
    }
    return BudgetSample(**{**usual, **values})


def test_latency_is_until_the_last_output():
    arrived = [{"stamp_ns": 1001, OUTPUTS[0]: 40 * MS, OUTPUTS[1]: 55 * MS, OUTPUTS[2]: 50 * MS}]
    frames = join(_published(3), _arrivals(arrived), "front")
    assert [f.latency_ms for f in frames] == [None, pytest.approx(22.0), None]
    assert [f.outputs for f in frames] == [0, 3, 0]


def test_a_frame_with_a_missing_output_is_not_answered():
    arrived = [{"stamp_ns": 1000, OUTPUTS[0]: 5 * MS, OUTPUTS[2]: 6 * MS}]
    (frame,) = join(_published(1), _arrivals(arrived), "front")
    assert frame.latency_ms is None and frame.outputs == 2


def test_arrivals_of_other_stamps_are_nobodys():
    arrived = [{"stamp_ns": 77, **dict.fromkeys(OUTPUTS, 5 * MS)}]
    assert all(f.latency_ms is None for f in join(_published(2), _arrivals(arrived), "front"))


def test_percentiles_are_values_that_occurred():
    values = [10.0, 20.0, 30.0, 40.0]
    assert percentile(values, 0.5) == 20.0
    assert percentile(values, 0.95) == 40.0
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.5) is None


def test_growing_latency_shows_in_the_thirds():
    frames = [FrameTime(i, i * MS, i * MS + (10 + i) * MS, 3) for i in range(91)]
    latency = Latency.of(frames)
    assert latency.p50 == pytest.approx(55)
    assert latency.first_third_p50 == pytest.approx(25) and latency.last_third_p50 == pytest.approx(85)
    assert latency.longest == pytest.approx(100)


def test_latency_of_nothing_is_not_zero():
    latency = Latency.of([FrameTime(0, 0, None, 0)])
    assert latency.p50 is None and latency.mean is None and latency.last_third_p50 is None


def test_saved_arithmetic_weighs_windows_by_their_frames():
    samples = [
        _sample(counts={"answered": 10}, flops_saved=0.5),
        _sample(counts={"answered": 40}, flops_saved=0.9),
        _sample(counts={"answered": 40}, flops_saved=0.0),  # nothing answered: weighs nothing
        _sample(counts={"answered": 99}, flops_saved=math.nan),  # not counted yet
    ]
    assert flops_saved(samples) == pytest.approx((10 * 0.5 + 30 * 0.9) / 40)
    assert flops_saved([_sample(flops_saved=math.nan, counts={"answered": 5})]) is None
    assert flops_saved([]) is None


def test_stages_are_spread_over_the_answered_frames():
    samples = [
        _sample(counts={"answered": 10}, stages={"fast": (10, 20.0), "slow": (3, 90.0), "ila": (0, math.nan)}),
        _sample(counts={"answered": 30}, stages={"fast": (20, 23.0), "slow": (5, 100.0)}),
    ]
    shares = stage_shares(samples)
    assert shares["fast"] == pytest.approx((200 + 460) / 30)
    assert shares["slow"] == pytest.approx((270 + 500) / 30)
    assert "ila" not in shares
    assert stage_shares([]) == {}


def test_what_the_node_says_of_a_frame():
    def info(**values):
        stamps = {"header": SimpleNamespace(stamp=SimpleNamespace(sec=2, nanosec=5))}
        stamps["keyframe_stamp"] = SimpleNamespace(sec=1, nanosec=999_999_999)
        usual = {"keyframe_id": 4, "keyframe_age_s": 0.25, "stages": ["fast", "ila"], "stage_ms": [3.0, 2.0]}
        return SimpleNamespace(**(stamps | usual | values))

    answer = frame_answer(info())
    assert (answer.stamp_ns, answer.keyframe_ns, answer.keyframe_age) == (2_000_000_005, 1_999_999_999, 0.25)
    assert answer.stages == {"fast": 3.0, "ila": 2.0}
    assert frame_answer(info(keyframe_id=0)).keyframe_ns is None  # answered alone


def test_budget_message_of_the_asked_camera():
    def camera(name, answered):
        counts = dict.fromkeys(("received", "dropped", "late", "failed", "idle", "keyframes"), 1)
        return SimpleNamespace(camera=name, answered=answered, **counts)

    message = SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=2, nanosec=5)),
        device="cpu",
        precision="bf16",
        backend="openvino",
        mode="synchronous",
        model="indoor",
        keyframe_period_s=0.3,
        slow_gflops=9.0,
        gflops_per_frame=3.0,
        flops_saved=0.6,
        rss_mb=500.0,
        stages=[SimpleNamespace(name="fast", count=30, mean_ms=20.5)],
        cameras=[camera("left", 5), camera("front", 9)],
        reason="",
    )
    sample = budget_sample(message, "front")
    assert sample.stamp_ns == 2_000_000_005
    assert sample.counts["answered"] == 9
    assert sample.stages == {"fast": (30, 20.5)}
    assert budget_sample(message, "rear").counts == {}
