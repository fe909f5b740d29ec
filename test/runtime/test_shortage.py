"""Memory that runs out: given back and tried once more, then keyframes wait, and frames go on as long as they can."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.runtime import shortage
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Ask
from mila_ros.runtime.pipeline import Pipeline
from mila_ros.runtime.shortage import Shortage, out_of_memory, tried_twice

from .test_pipeline import TASKS, Clock, wait


def lack(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("a picture of 3x3 is too small: out of memory of man"), False),
    ],
)
def test_what_says_that_memory_is_lacking(error: Exception, lacking: bool) -> None:
    assert out_of_memory(error) is lacking


def test_work_is_tried_once_more_after_giving_back(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(shortage, "give_back_memory", lambda: done.append("given back"))

    def work() -> str:
        done.append("tried")
        if done.count("tried") == 1:
            lack()
        return "made"

    assert tried_twice(work) == "made" and done == ["tried", "given back", "tried"]
    with pytest.raises(torch.OutOfMemoryError):
        tried_twice(lack)
    done.clear()
    with pytest.raises(ZeroDivisionError):
        tried_twice(lambda: done.append("tried") or 1 // 0)
    assert done == ["tried"]


def test_waits_grow_until_a_keyframe_is_made() -> None:
    lacking = Shortage()
    assert lacking.allows(0.0)
    waits = []
    now = 0.0
    for _ in range(7):
        waits.append(lacking.lacked(now))
        assert not lacking.allows(now + waits[-1] - 0.01) and lacking.allows(now + waits[-1])
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    lacking.lacked(now)
    lacking.over()
    assert lacking.allows(now) and lacking.lacked(now) == 1


class Camera:
    """A pipeline of one camera, and its frames."""

    def __init__(self, mode: str) -> None:
        torch.manual_seed(0)
        self.clock, self.said, self.number = Clock(), [], 0
        self.engine = Engine(Mila(ModelConfig.tiny()).eval(), "cpu", "fp32", threads=1)
        self.pipeline = Pipeline(
            self.engine, ["front"], mode, 1.0, clock=self.clock, on_error=lambda _, text: self.said.append(text)
        )

    def frame(self, after: float = 0.1) -> dict[str, float]:
        """Milliseconds by stage of the next frame."""
        self.clock.now += after
        self.number += 1
        with self.pipeline.fast_thread():
            picture = np.full((64, 64, 3), self.number, np.uint8)
            return self.pipeline.answer(Ask("front", picture, TASKS, 60.0, self.clock.now, self.number))[0].milliseconds

    def keyframe(self) -> int:
        return self.pipeline.keyframe_state("front", self.clock.now, self.number).number

    def problem(self) -> str | None:
        return self.pipeline.keyframe_state("front", self.clock.now, self.number).problem


@pytest.mark.parametrize("mode", ["asynchronous", "synchronous"])
def test_keyframes_wait_when_memory_is_lacking_for_them(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(mode)
    tries: list[float] = []

    def keyframe(*_: object, **__: object) -> None:
        tries.append(camera.clock.now)
        lack()

    try:
        with monkeypatch.context() as patched:
            patched.setattr(camera.engine, "keyframe", keyframe)
            assert "fast" in camera.frame()
            wait(lambda: camera.said)
            assert "no memory is left for the slow network, which is tried again in 1 s" in camera.said[0]
            assert camera.problem() == camera.said[0] and len(tries) == 2
            assert "fast" in camera.frame(0.5) and len(tries) == 2  # not tried
            assert "fast" in camera.frame(0.6)
            wait(lambda: len(camera.said) == 2)
            assert len(tries) == 4 and "in 2 s" in camera.said[1]
        camera.frame(1.5)
        assert camera.keyframe() == 0
        camera.frame(0.6)
        wait(lambda: camera.keyframe() == 1)
        assert camera.problem() is None
    finally:
        camera.pipeline.close()


@pytest.mark.parametrize("half", ["look", "tell"])
def test_a_frame_without_memory_frees_the_keyframe_s(half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera("asynchronous")
    try:
        camera.frame()
        wait(lambda: camera.keyframe() == 1)
        assert "ila" in camera.frame()
        with monkeypatch.context() as patched:
            patched.setattr(camera.engine, half, lack)
            for _ in range(8):  # in a quarter of a second: one shortage, one wait
                with pytest.raises(torch.OutOfMemoryError):
                    camera.frame(0.03)
        assert camera.keyframe() == 0 and camera.problem() == (
            "no memory is left for frames: no keyframe is tried for 1 s"
        )
        assert "ila" not in camera.frame()
        camera.frame(1.1)
        wait(lambda: camera.keyframe() > 0)
        assert "ila" in camera.frame()
    finally:
        camera.pipeline.close()


def test_arithmetic_is_counted_when_there_is_memory_again(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera("asynchronous")
    counted = camera.engine.flops
    tries: list[int] = []

    def lacking_at_first(*of: object) -> object:
        tries.append(1)
        if len(tries) < 3:
            lack()
        return counted(*of)  # type: ignore[arg-type]

    monkeypatch.setattr(camera.engine, "flops", lacking_at_first)
    try:
        camera.frame()
        wait(lambda: len(tries) == 2)
        wait(lambda: camera.said)
        assert "no memory is left for counting its arithmetic, which is tried again in 1 s" in camera.said[0]
        camera.frame(0.5)
        assert len(tries) == 2
        camera.frame(0.6)
        wait(lambda: camera.engine.known_flops((64, 64), TASKS) is not None)
    finally:
        camera.pipeline.close()
