"""Frames of several cameras at once: the same answers as one by one; one that fails takes nothing from the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Answer, Ask
from mila_ros.runtime.pipeline import Pipeline
from mila_ros.runtime.together import stacked

from .test_pipeline import TASKS, Clock, wait

WAYS = [
    {},
    {"warp": True, "reach": 4},
    {"attention": "task"},
    {"frames": 2},
    {"propagation": "alignment"},
    {"propagation": "laps"},
    {"propagation": "learned-flow"},
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
        with pytest.raises(ValueError, match="cannot be answered together"):
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
            together = made.answer_together(now, known, TASKS, focals, confidence=True, match=True)
            for i, answer in enumerate(together):
                assert_same(answer, made.answer(now[i], known[i], TASKS, focals[i], True, match=True))
        with pytest.raises(ValueError, match="must have one size"):
            made.answer_together([now[0], made.upload(picture(1, (64, 64)))], [None] * 2, TASKS, focals[:2])


class Cameras:
    """A pipeline of four cameras."""

    names = ("front", "rear", "left", "right")

    def __init__(self) -> None:
        self.clock, self.number = Clock(), 0
        self.engine = engine(warp=True)
        self.pipeline = Pipeline(self.engine, self.names, period=10.0, clock=self.clock, fall=0.05)

    def asks(self, **tasks: tuple[str, ...]) -> list[Ask]:
        """A frame of each camera; the last one's is of another size."""
        self.clock.now += 0.1
        self.number += 1
        made = []
        for i, name in enumerate(self.names):
            rgb = picture(100 * self.number + i, (64, 64) if name == "right" else (64, 96))
            made.append(Ask(name, rgb, tasks.get(name, TASKS), 60.0, self.clock.now, self.number))
        return made

    def has_keyframes(self) -> bool:
        return all(self.pipeline.keyframe_state(name, self.clock.now, 1).number for name in self.names)


def test_cameras_that_are_alike_go_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = Cameras()
    try:
        with cameras.engine.fast_thread():
            first = cameras.pipeline.answer_together(cameras.asks())
            assert not any(isinstance(result, Exception) for result in first)
            wait(cameras.has_keyframes)
            sizes: list[int] = []
            together = cameras.engine.answer_together

            def watched(pictures: list, *rest: object, **named: object) -> list[Answer]:
                sizes.append(len(pictures))
                return together(pictures, *rest, **named)  # type: ignore[arg-type]

            monkeypatch.setattr(cameras.engine, "answer_together", watched)
            asks = cameras.asks(left=("depth",))
            results = cameras.pipeline.answer_together(asks)
            assert sorted(sizes) == [1, 1, 2]
            for ask, result in zip(asks, results):
                assert not isinstance(result, Exception)
                answer, broken = result
                assert broken is None and set(answer.by_task()) == set(ask.tasks)
                memory = cameras.pipeline._keyframes.of[ask.camera].slot.get().memory
                own = cameras.engine.answer(cameras.engine.upload(ask.picture), memory, ask.tasks, 60.0, match=True)
                assert_same(answer, own)
        window = cameras.pipeline.meter.window(cameras.clock.now)
        assert window.stages["ila"].count == window.stages["fast"].count - 4 == 4
    finally:
        cameras.pipeline.close()


def test_what_fails_or_does_not_fit_takes_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = Cameras()
    try:
        with cameras.engine.fast_thread():
            cameras.pipeline.answer_together(cameras.asks())
            wait(cameras.has_keyframes)
            together, tried = cameras.engine.answer_together, []

            def small(pictures: list, *rest: object, **named: object) -> list[Answer]:
                tried.append(len(pictures))
                if len(pictures) > 1:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return together(pictures, *rest, **named)  # type: ignore[arg-type]

            monkeypatch.setattr(cameras.engine, "answer_together", small)
            asks = cameras.asks()
            asks[1] = Ask("rear", np.zeros((8, 8, 3), np.uint8), TASKS, 60.0, cameras.clock.now, cameras.number)
            results = cameras.pipeline.answer_together(asks)
            assert isinstance(results[1], ValueError) and "too small" in str(results[1])
            assert [isinstance(result, Exception) for result in results] == [False, True, False, False]
            assert tried == [2, 2, 1, 1, 1]  # twice together, then each alone; the one of another size
            assert cameras.pipeline.keyframe_state("front", cameras.clock.now, 2).problem is None
    finally:
        cameras.pipeline.close()


def test_a_keyframe_in_synchronous_mode_answers_for_itself() -> None:
    cameras = Cameras()
    cameras.pipeline.mode = "synchronous"
    try:
        with cameras.engine.fast_thread():
            results = cameras.pipeline.answer_together(cameras.asks())
            assert all(not isinstance(r, Exception) and "fast" not in r[0].milliseconds for r in results)
            results = cameras.pipeline.answer_together(cameras.asks())
            assert all(not isinstance(r, Exception) and "ila" in r[0].milliseconds for r in results)
    finally:
        cameras.pipeline.close()
