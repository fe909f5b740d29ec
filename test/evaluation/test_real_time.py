"""Replay against the clock: what is judged, what counts as late, and that a slow engine pays for it."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.evaluation.ground_truth import GroundTruth
from mila_ros.evaluation.real_time import RealTime, RealTimeRun
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Answer
from mila_ros.worlds.bags import Bag

from .small_bag import PERIOD, tiny_engine, write_bag

FRAMES = 24


@pytest.fixture(scope="module")
def bag_path(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp("bag") / "bag", FRAMES)


def play(path, engine: Engine, period: float | None = None, seconds: float | None = None) -> RealTime:
    truth = GroundTruth(engine.tasks, engine.classes)
    return RealTimeRun(engine, period, truth, seconds).play(lambda: Bag(path), "test")


@pytest.mark.parametrize("period", [None, 0.1])
def test_every_frame_is_accounted_for_and_answers_are_of_earlier_frames(bag_path, period: float | None) -> None:
    begin = time.monotonic()
    run = play(bag_path, tiny_engine(), period)
    assert time.monotonic() - begin >= (FRAMES - 1) * PERIOD * 1e-9
    assert run.frames == FRAMES == run.answered + run.dropped and run.failed == 0
    assert run.judged + run.too_early == FRAMES and run.judged > 0
    assert run.age_ms["p50"] is not None and run.age_ms["p50"] >= PERIOD * 1e-6 * 0.99
    assert set(run.result["metrics"]) == {"segmentation", "depth", "normals"}
    assert run.to_dict()["frames"]["judged"] == run.result["judged_frames"]["depth"]


def test_a_slow_engine_drops_frames_and_its_answers_are_old(bag_path, monkeypatch) -> None:
    engine = tiny_engine()
    answer_slow = engine.answer_slow

    def slow(*arguments, **named) -> Answer:
        time.sleep(0.12)
        return answer_slow(*arguments, **named)

    monkeypatch.setattr(engine, "answer_slow", slow)
    run = play(bag_path, engine)
    assert run.dropped > FRAMES / 2
    assert run.age_ms["p50"] is not None and run.age_ms["p50"] > 120


def test_an_engine_that_breaks_is_not_called_slow(bag_path, monkeypatch) -> None:
    engine = tiny_engine()

    def broken(*_arguments, **_named) -> Answer:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine, "answer_slow", broken)
    with pytest.raises(UserError, match="test ended by an error: RuntimeError: out of memory"):
        play(bag_path, engine)


def test_an_answer_is_judged_against_the_frame_that_arrives_not_its_own(tmp_path, monkeypatch) -> None:
    """An engine that knows each picture's number as its depth is one picture behind, at best."""
    path = write_bag(tmp_path / "bag", FRAMES)
    engine = tiny_engine()
    numbers = iter(range(1, FRAMES + 1))

    def counted(answer: Answer) -> Answer:
        assert answer.depth is not None
        return replace(answer, depth=np.full_like(answer.depth, next(numbers)))

    answer_slow = engine.answer_slow
    monkeypatch.setattr(engine, "answer_slow", lambda *a, **k: counted(answer_slow(*a, **k)))
    truth = GroundTruth(engine.tasks, engine.classes)
    of = truth.of

    def numbered(frame, size):
        number = round((frame.stamp_ns - 1_600_000_000_000_000_000) / PERIOD) + 1
        found = of(frame, size)
        return found | {"depth": np.full_like(found["depth"], number)}

    monkeypatch.setattr(truth, "of", numbered)
    run = RealTimeRun(engine, None, truth).play(lambda: Bag(path), "test")
    if run.dropped:
        pytest.skip("this machine was too busy to answer every frame")
    assert run.result["metrics"]["depth"]["rmse"] >= 1


def test_it_stops_after_so_many_seconds(bag_path) -> None:
    run = play(bag_path, tiny_engine(), seconds=0.3)
    assert run.frames == 10
