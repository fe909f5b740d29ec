"""Frames of several cameras at once: the same answers as one by one; one that fails takes nothing from the others."""

from __future__ import annotations

import gc
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch

from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Answer, Ask, Told
from mila_ros.runtime.pipeline import Pipeline
from mila_ros.runtime.together import BatchSizes, stacked

from .test_pipeline import TASKS, Clock, wait

WAYS = [
    {},
    {"warp": True, "reach": 4},
    {"attention": "task"},
    {"frames": 2},
    {"propagation": "alignment"},
    {"propagation": "laps"},
    {"propagation": "learned-flow"},
    {"propagation": "accel"},
]


class Pair(NamedTuple):
    one: torch.Tensor
    other: torch.Tensor
    size: int


def test_alike_things_are_stacked_and_shared_tensors_once() -> None:
    x, y = torch.zeros(1, 3), torch.ones(1, 3)
    made = stacked([Pair(x, x, 4), Pair(y, y, 4)])
    assert isinstance(made, Pair) and made.size == 4 and made.one is made.other
    assert torch.equal(made.one, torch.cat([x, y]))
    assert stacked([{"a": (x, None)}, {"a": (y, None)}])["a"][1] is None
    assert stacked([x]) is x
    for different in ([Pair(x, x, 4), Pair(y, y, 5)], [x, None], [(x, x), (y,)]):
        with pytest.raises(ValueError, match="cannot go through a network together"):
            stacked(different)


def engine(**way: object) -> Engine:
    torch.manual_seed(0)
    model = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"working_pixels": 64 * 96} | way)).eval()
    for parameter in model.propagation.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Engine(model, "cpu", "fp32", threads=1)


def picture(number: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    coarse = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(number))
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[0].permute(1, 2, 0)
    return (fine * 255).byte().numpy()


def assert_same(one: Answer, other: Answer) -> None:
    assert one.by_task().keys() == other.by_task().keys() and one.size == other.size
    if one.segmentation is not None and other.segmentation is not None:
        assert (one.segmentation != other.segmentation).mean() < 0.002
    for a, b in ((one.depth, other.depth), (one.normals, other.normals), (one.confidence, other.confidence)):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert (one.match is None) == (other.match is None)
    if one.match is not None:
        assert one.match == pytest.approx(other.match, abs=1e-4)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_together_is_as_one_by_one(way: dict[str, object]) -> None:
    made = engine(**way)
    with made.fast_thread():
        keyframes, now = [[made.upload(picture(10 * k + i)) for i in range(3)] for k in (1, 2)]
        memories = [made.keyframe(p, made.keyframe(p)[0])[0] for p in keyframes]
        focals = [50.0, 100.0, 200.0]
        for known in (memories, [None] * 3):
            together = made.answer_batch(now, known, TASKS, focals, confidence=True, match=True)
            assert len({id(answer.milliseconds) for answer in together}) == 3
            for i, answer in enumerate(together):
                assert answer.milliseconds["upload"] == now[i].milliseconds
                assert_same(answer, made.answer(now[i], known[i], TASKS, focals[i], True, match=True))
        with pytest.raises(ValueError, match="must have one size"):
            made.answer_batch([now[0], made.upload(picture(1, (64, 64)))], [None] * 2, TASKS, focals[:2])


class Cameras:
    """A pipeline of four cameras."""

    names = ("front", "rear", "left", "right")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, period: float = 10.0, **way: object) -> None:
        self.clock, self.number, self.said = Clock(), 0, []
        self.engine = engine(**(way or {"warp": True}))
        self.batches: list[int] = []
        self.fits = 100
        """Frames at once; more are an error of the kind `fails`."""
        self.fails: Exception = torch.OutOfMemoryError("CUDA out of memory")
        self.alive: list[weakref.ref] = []
        at_once = self.engine.answer_batch

        def watched(pictures: list, *rest: object, **named: object) -> list[Answer]:
            self.batches.append(len(pictures))
            if len(pictures) > self.fits:
                assert not any(ref() is not None for ref in self.alive), "what failed before is still held"
                made = torch.zeros(len(pictures))
                self.alive.append(weakref.ref(made))
                raise type(self.fails)(*self.fails.args)  # another one each time: an error kept is a traceback kept
            return at_once(pictures, *rest, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(self.engine, "answer_batch", watched)
        self.pipeline = Pipeline(
            self.engine,
            self.names,
            period=period,
            clock=self.clock,
            fall=0.05,
            on_error=lambda *what: self.said.append(what),
        )

    def asks(self, after: float = 0.1, **tasks: tuple[str, ...]) -> list[Ask]:
        """A frame of each camera; the last one's is of another size."""
        self.clock.now += after
        self.number += 1
        made = []
        for i, name in enumerate(self.names):
            rgb = picture(100 * self.number + i, (64, 64) if name == "right" else (64, 96))
            made.append(Ask(name, rgb, tasks.get(name, TASKS), 60.0, self.clock.now, self.number))
        return made

    def answered(self, asks: list[Ask]) -> dict[str, Told]:
        self.batches.clear()
        with self.engine.fast_thread():
            told = {each.ask.camera: each for each in self.pipeline.answer_together(asks)}
        assert set(told) == {ask.camera for ask in asks}
        return told

    def keyframes(self) -> list[int]:
        return [self.pipeline.keyframe_state(name, self.clock.now, 1).number for name in self.names]


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch):
    made: list[Cameras] = []

    def make(**changes: object) -> Cameras:
        made.append(Cameras(monkeypatch, **changes))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.pipeline.close()


def test_cameras_that_are_alike_go_through_at_once(cameras) -> None:
    rig = cameras()
    first = rig.answered(rig.asks())
    assert all(told.error is None for told in first.values())
    wait(lambda: all(rig.keyframes()))
    told = rig.answered(rig.asks(left=("depth",)))
    assert rig.batches == [2]  # front and rear; of left other tasks are wanted, right is of another size
    for each in told.values():
        assert each.answer is not None and each.broken is None and set(each.answer.by_task()) == set(each.ask.tasks)
        memory = rig.pipeline._keyframes.of[each.ask.camera].slot.get().memory
        own = rig.engine.answer(rig.engine.upload(each.ask.picture), memory, each.ask.tasks, 60.0, match=True)
        assert_same(each.answer, own)
    window = rig.pipeline.meter.window(rig.clock.now)
    assert window.stages["fast"].count == 8 and window.stages["ila"].count == 8


def test_cameras_that_remember_differently_are_answered_all_the_same(cameras) -> None:
    rig = cameras(period=1.0, frames=2)
    rig.answered(rig.asks())
    wait(lambda: all(rig.keyframes()))
    for _ in range(25):  # keyframes are staggered: some cameras have two of them while others have one
        told = rig.answered(rig.asks())
        assert [each.error for each in told.values()] == [None] * 4


def test_what_does_not_fit_is_halved_and_not_tried_again_for_a_while(cameras) -> None:
    rig = cameras()
    rig.answered(rig.asks())
    wait(lambda: all(rig.keyframes()))
    rig.fits = 1
    asks = rig.asks()
    asks[3] = Ask("right", np.zeros((8, 8, 3), np.uint8), TASKS, 60.0, rig.clock.now, rig.number)
    told = rig.answered(asks)
    assert rig.batches == [2, 2]  # tried twice, then each alone
    assert isinstance(told["right"].error, ValueError) and "too small" in str(told["right"].error)
    assert all(told[name].answer is not None for name in ("front", "rear", "left"))
    assert rig.pipeline.keyframe_state("front", rig.clock.now, 2).problem is None
    rig.answered(rig.asks())
    assert rig.batches == []
    rig.fits = 100
    rig.answered(rig.asks(after=1.5))
    assert rig.batches == [2]


def test_a_batch_that_fails_otherwise_is_told_of_and_answered_one_by_one(cameras) -> None:
    rig = cameras()
    rig.fits, rig.fails = 1, RuntimeError("no kernel for this")
    told = rig.answered(rig.asks())
    assert all(each.answer is not None for each in told.values()) and rig.batches == [2]
    assert rig.said == [("front", "2 frames cannot be answered at once: RuntimeError: no kernel for this")]


def test_errors_hold_on_to_nothing(cameras, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = cameras()
    kept: list[weakref.ref] = []

    def glance(*_: object) -> None:
        made = torch.zeros(3)
        kept.append(weakref.ref(made))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(rig.engine._running, "glance", glance)
    gc.disable()  # what only the collector frees is not free when memory is lacking
    try:
        told = rig.answered(rig.asks())
        assert all(isinstance(each.error, torch.OutOfMemoryError) for each in told.values())
        assert kept and not any(ref() is not None for ref in kept)
    finally:
        gc.enable()


def test_a_keyframe_in_synchronous_mode_answers_for_itself(cameras) -> None:
    rig = cameras()
    rig.pipeline.mode = "synchronous"
    told = rig.answered(rig.asks())
    assert all(each.answer is not None and "fast" not in each.answer.milliseconds for each in told.values())
    told = rig.answered(rig.asks())
    assert all(each.answer is not None and "ila" in each.answer.milliseconds for each in told.values())


def test_batches_are_powers_of_two_and_as_many_as_fit() -> None:
    sizes = BatchSizes()
    assert [sizes.split(n, 0.0) for n in (1, 2, 3, 7, 8, 21)] == [[1], [2], [2, 1], [4, 2, 1], [8], [8, 8, 4, 1]]
    sizes.lacked(8, 0.0)
    assert sizes.split(9, 0.5) == [4, 4, 1]
    assert sizes.split(9, 1.0) == [8, 1]  # tried again
    sizes.lacked(8, 1.0)
    assert sizes.split(9, 2.5) == [4, 4, 1] and sizes.split(9, 3.0) == [8, 1]
    sizes.fitted(8)
    assert sizes.split(9, 3.1) == [8, 1]
    sizes.lacked(2, 4.0)
    assert sizes.split(3, 4.1) == [1, 1, 1]


def test_all_sizes_of_batches_are_warmed_up(cameras, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = cameras()
    monkeypatch.setattr(type(rig.engine), "batches", True)
    with rig.engine.fast_thread():
        rig.engine.warm_up(64, 96, ("look", "tell"), cameras=7)
        assert rig.batches == [2, 2, 4, 4]
        rig.batches.clear()
        rig.engine.warm_up(64, 96, ("tell",), cameras=7)
    assert rig.batches == []
