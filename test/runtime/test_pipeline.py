"""The runtime with the real network (tiny): both modes, the memory's life, the budget's arithmetic."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
import torch

from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.runtime.budget import price
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Ask, Origin
from mila_ros.runtime.pipeline import Pipeline

TASKS = ("segmentation", "depth", "normals")


class Clock:
    """Steady seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.manual_seed(0)
    return Engine(Mila(ModelConfig.tiny()).eval(), "cpu", "fp32", threads=1)


@pytest.fixture
def start(engine):
    """Makes pipelines and closes them at the end."""
    made = []

    def make(**settings) -> tuple[Pipeline, Clock]:
        clock = Clock()
        made.append(Pipeline(engine, ["front"], clock=clock, **settings))
        return made[-1], clock

    yield make
    for pipeline in made:
        pipeline.close()


def wait(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def frame(pipeline, clock, number, size=(64, 64), stamp=None):
    """An answer, and whether it begins anew."""
    rgb = np.full((*size, 3), number % 255, np.uint8)
    with pipeline.fast_thread():
        return pipeline.answer(Ask("front", rgb, TASKS, 60.0, clock.now, number, stamp))


def test_asynchronous_frames_use_the_newest_memory_and_the_first_one_waits_for_its_own(start):
    pipeline, clock = start(mode="asynchronous", period=1.0)
    answer, why = frame(pipeline, clock, 1, stamp=5)
    assert "slow" not in answer.milliseconds and "ila" in answer.milliseconds and why is None
    assert pipeline.keyframe_state("front", clock.now, 1).number == 1
    assert answer.origin == Origin(1, stamp_ns=5)
    clock.now += 0.1
    answer, _ = frame(pipeline, clock, 2, stamp=6)
    assert "ila" in answer.milliseconds
    assert answer.origin == Origin(1, age=pytest.approx(0.1), distance=1, stamp_ns=5)
    state = pipeline.keyframe_state("front", clock.now, 2)
    assert (state.number, state.distance) == (1, 1) and state.age == pytest.approx(0.1)


def test_asynchronous_frames_do_not_wait_for_a_slow_network_that_takes_long(engine, start, monkeypatch):
    go_on, keyframe = threading.Event(), engine.keyframe

    def held(*arguments, **named):
        go_on.wait(20)
        return keyframe(*arguments, **named)

    monkeypatch.setattr(engine, "keyframe", held)
    monkeypatch.setattr("mila_ros.runtime.pipeline._LONGEST_WAIT", 0.05)
    pipeline, clock = start(mode="asynchronous", period=1.0)
    for number in (1, 2, 3):
        answer, _ = frame(pipeline, clock, number)
        assert "ila" not in answer.milliseconds and answer.origin == Origin()
        clock.now += 0.1
    assert pipeline.meter.window(clock.now).cameras["front"].counts.alone == 3
    go_on.set()
    wait(lambda: pipeline.keyframe_state("front", clock.now, 3).number == 1)
    assert "ila" in frame(pipeline, clock, 4)[0].milliseconds
    assert pipeline.meter.window(clock.now).cameras["front"].counts.alone == 3


def test_synchronous_keyframes_answer_from_the_slow_network(start):
    pipeline, clock = start(mode="synchronous", period=1.0)
    answers = []
    for number in range(1, 23):
        answers.append(frame(pipeline, clock, number)[0])
        clock.now += 0.125
    keyframes = [i for i, answer in enumerate(answers) if "fast" not in answer.milliseconds]
    assert keyframes == [0, 8, 16]
    origins = [answer.origin for answer in answers]
    assert [i for i, origin in enumerate(origins) if origin.slow] == keyframes
    assert (origins[16].keyframe, origins[16].distance, origins[16].looked_up) == (3, 0, None)
    assert origins[16].slow_ms > 0 and answers[16].waited()["slow"] == origins[16].slow_ms
    assert list(answers[16].waited()) == ["upload", "slow", "heads", "download"] and "slow" not in answers[15].waited()
    assert (origins[15].keyframe, origins[15].distance, origins[15].looked_up) == (2, 7, 2)
    assert pipeline.keyframe_state("front", clock.now, 22).number == 3


def test_a_change_of_size_and_a_jump_back_forget_the_memory(start):
    pipeline, clock = start(mode="synchronous", period=100.0)
    frame(pipeline, clock, 1, stamp=5_000_000_000)
    answer, why = frame(pipeline, clock, 2, size=(96, 64), stamp=5_100_000_000)
    assert "64x64 to 64x96" in why and "fast" not in answer.milliseconds
    answer, why = frame(pipeline, clock, 3, size=(96, 64), stamp=1_000_000_000)
    assert "back by 4.100 s" in why and "fast" not in answer.milliseconds
    answer, why = frame(pipeline, clock, 4, size=(96, 64), stamp=1_000_000_000)
    assert why is None and "ila" in answer.milliseconds


def test_an_old_memory_is_not_used(start, monkeypatch):
    pipeline, clock = start(mode="asynchronous", period=100.0, max_age=2.0)
    frame(pipeline, clock, 1)
    monkeypatch.setattr(pipeline._keyframes, "ask", lambda *_: None)  # nothing newer comes
    for number in range(2, 5):
        clock.now += 0.9
        answer, _ = frame(pipeline, clock, number)
        assert ("ila" in answer.milliseconds) == (number < 4)


def test_frames_that_come_more_seldom_than_keyframes_age_wait_for_their_own(start):
    pipeline, clock = start(mode="asynchronous", period=100.0, max_age=2.0)
    for number in (1, 2, 3):
        answer, _ = frame(pipeline, clock, number)
        assert "ila" in answer.milliseconds
        assert pipeline.keyframe_state("front", clock.now, number).number == number
        clock.now += 6.0
    assert pipeline.meter.window(clock.now).reasons == {"no memory yet": 1, "memory too old": 2}


def test_after_a_jump_back_a_frame_waits_for_its_own_keyframe(start):
    pipeline, clock = start(mode="asynchronous", period=100.0)
    frame(pipeline, clock, 1, stamp=5_000_000_000)
    answer, why = frame(pipeline, clock, 2, stamp=1_000_000_000)
    assert "back by 4.000 s" in why and "ila" in answer.milliseconds
    assert pipeline.meter.window(clock.now).cameras["front"].counts.alone == 0


def test_modes_and_period_change_while_it_runs(start):
    pipeline, clock = start(mode="asynchronous", period=100.0)
    frame(pipeline, clock, 1)
    wait(lambda: pipeline.keyframe_state("front", clock.now, 1).number == 1)
    pipeline.mode, pipeline.period = "synchronous", 0.0
    assert "fast" not in frame(pipeline, clock, 2)[0].milliseconds
    with pytest.raises(ValueError, match="mode"):
        pipeline.mode = "sometimes"


def test_a_failing_keyframe_is_reported_and_frames_go_on(engine, monkeypatch):
    errors = []
    pipeline = Pipeline(engine, ["front"], on_error=lambda *what: errors.append(what))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(engine, "keyframe", lambda *_: (_ for _ in ()).throw(RuntimeError("bad picture")))
            with pipeline.fast_thread():
                answer, _ = pipeline.answer(
                    Ask("front", np.zeros((64, 64, 3), np.uint8), TASKS, 60.0, time.monotonic(), 1)
                )
            wait(lambda: errors)
            wait(lambda: "bad picture" in (pipeline.keyframe_state("front", 0.0, 1).problem or ""))
        assert answer.depth is not None and errors[0][0] == "front" and "bad picture" in errors[0][1]
        with pipeline.fast_thread():
            pipeline.answer(Ask("front", np.zeros((64, 64, 3), np.uint8), TASKS, 60.0, time.monotonic(), 2))
        wait(lambda: pipeline.keyframe_state("front", time.monotonic(), 2).number == 1)
        wait(lambda: pipeline.keyframe_state("front", time.monotonic(), 2).problem is None)
    finally:
        pipeline.close()


def test_a_keyframe_is_made_on_top_of_what_is_remembered(start, engine, monkeypatch):
    """For models that look up several: unless that is of another size, too old, or from before a jump in time."""
    befores = []
    made = engine.keyframe

    def watched(picture, before=None, alone=False):
        befores.append(before)
        return made(picture, before, alone)

    monkeypatch.setattr(engine, "keyframe", watched)
    pipeline, clock = start(mode="synchronous", period=1.0)
    pipeline.max_age = 3.0
    first, second, wide = (
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((64, 96, 3), np.uint8),
    )
    kept = []
    for number, (pause, picture) in enumerate([(0, first), (1, second), (1, wide), (1, wide), (4, wide)]):
        clock.now += pause
        with pipeline.fast_thread():
            pipeline.answer(Ask("front", picture, TASKS, 60.0, clock.now, number))
        kept.append(pipeline._keyframes.of["front"].slot.get().memory)
    assert [before is not None for before in befores] == [False, True, False, True, False]
    assert befores[1] is kept[0] and befores[3] is kept[2]


def test_the_price_is_what_ran_over_what_every_frame_would_have_cost(start, engine):
    pipeline, clock = start(mode="synchronous", period=1.0)
    assert math.isnan(price(pipeline.meter.window(clock.now), engine).saved)
    for number in range(10):
        frame(pipeline, clock, number)
        clock.now += 0.1
    flops = engine.flops((64, 64), TASKS)
    paid = price(pipeline.meter.window(clock.now), engine)
    assert paid.per_frame * 1e9 == pytest.approx(flops.amortised(10))
    assert paid.saved == pytest.approx(flops.saved(10))
    assert paid.slow * 1e9 == flops.slow


def test_a_camera_that_sees_something_else_gets_its_keyframe_early():
    torch.manual_seed(0)
    warping = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"warp": True})).eval()
    clock = Clock()
    pipeline = Pipeline(Engine(warping, "cpu", "fp32"), ["front"], "synchronous", period=1.0, fall=0.0, clock=clock)
    rng = np.random.default_rng(0)
    here, there = (np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(2))

    def show(picture: np.ndarray, times: int, apart: float = 0.08) -> float:
        for _ in range(times):
            with pipeline.fast_thread():
                pipeline.answer(Ask("front", picture, TASKS, 60.0, clock.now, round(clock.now * 100)))
            clock.now += apart
        return pipeline.keyframe_state("front", clock.now, 0).match

    try:
        assert math.isnan(show(here, 3))  # not even measured where nobody asks
        pipeline.fall = 2.0  # more than there is
        same, other = show(here, 3), show(there, 4)
        assert other < same <= 1
        assert pipeline.meter.window(clock.now).reasons == {"no memory yet": 1}  # nobody asked for it
        clock.now += 0.25  # the timer's next keyframe, early in its period
        pipeline.fall = (same - other) / 2  # these networks are untrained: their own scale
        again, after = show(here, 6), show(there, 4)
        assert pipeline.meter.window(clock.now).reasons == {"timer": 1, "scene left the keyframe": 1}
        assert after == pytest.approx(again, abs=(same - other) / 4)
        # The frame after it comes so late that it might be the next: what was true of the old keyframe is over.
        clock.now += 1.0
        show(here, 1)
        pipeline.meter.window(clock.now)
        show(here, 3)
        show(there, 2)
        show(there, 1, 0.4)
        assert math.isnan(pipeline.keyframe_state("front", clock.now, 0).match)  # the new keyframe's
        show(there, 1)
        assert pipeline.meter.window(clock.now).reasons == {"scene left the keyframe": 1}
    finally:
        pipeline.close()


def test_each_thread_is_warmed_before_its_first_picture(start, engine, monkeypatch):
    warmed = []
    monkeypatch.setattr(engine, "warm_up", lambda *size: warmed.append((threading.current_thread().name, size)))
    pipeline, _ = start(warm=(64, 96))
    assert warmed == [("mila-slow", (64, 96, ("keyframe",), 1))]  # when the pipeline is there
    own = threading.current_thread().name
    with pipeline.fast_thread():
        assert warmed[1:] == [(own, (64, 96, ("look", "tell"), 1))]
    with pipeline.fast_thread(("tell",)):
        assert warmed[2:] == [(own, (64, 96, ("tell",), 1))]
    pipeline.mode = "synchronous"  # whoever looks makes the keyframes
    with pipeline.fast_thread(("look",)):
        assert warmed[3:] == [(own, (64, 96, ("keyframe alone", "look"), 1))]
    monkeypatch.setattr(engine, "warm_up", lambda *size: 1 / 0)
    pipeline, clock = start(warm=(64, 96))  # what fails here fails again with a picture, and is said then
    assert frame(pipeline, clock, 1)[0].depth is not None


def test_a_frame_is_looked_at_while_the_one_before_it_is_told_of(start):
    """Answers do not depend on whether both halves take turns."""
    pipeline, clock = start(mode="synchronous", period=1000.0)
    pictures = [np.full((64, 64, 3), 20 * number, np.uint8) for number in range(3)]
    with pipeline.fast_thread():
        seen = [pipeline.look(Ask("front", x, TASKS, 60.0, clock.now, n)) for n, x in enumerate(pictures)]
        later = [pipeline.tell(each) for each in seen]
    pipeline, clock = start(mode="synchronous", period=1000.0)
    with pipeline.fast_thread():
        once = [pipeline.answer(Ask("front", x, TASKS, 60.0, clock.now, n))[0] for n, x in enumerate(pictures)]
    for a, b in zip(later, once, strict=True):
        assert a.milliseconds.keys() == b.milliseconds.keys()
        for task, values in a.by_task().items():
            np.testing.assert_array_equal(values, b.by_task()[task])


def test_time_between_the_halves_belongs_to_no_stage(engine):
    with engine.fast_thread():
        picture = engine.upload(np.zeros((64, 64, 3), np.uint8))
        looked = engine.look(picture, None, TASKS)
        time.sleep(0.5)
        answer = engine.tell(looked, TASKS, 60.0)
    assert set(answer.milliseconds) == {"upload", "fast", "heads", "download"}
    assert sum(answer.milliseconds.values()) < 450
