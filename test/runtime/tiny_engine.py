"""A tiny network, and what is asked of it, for every runtime that may run it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.passing import Answer

SEARCHED = {"warp": True, "reach": 4}
SIZE = (64, 96)
TASKS = ("segmentation", "depth", "normals")


def tiny(**changes: object) -> Mila:
    torch.manual_seed(0)
    values = ModelConfig.tiny().to_dict() | {"working_pixels": SIZE[0] * SIZE[1]} | changes
    model = Mila(ModelConfig.from_dict(values))
    for parameter in model.propagation.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())  # as checkpoints keep them
    return model.eval()


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Shapes, and the same a little further: in mere noise every rounding finds another place."""
    coarse = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    fine = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear")[0].permute(1, 2, 0)
    first = (fine * 255).byte().numpy()
    return first, np.roll(first, (8, 16), (0, 1))


def engine(model: Mila, backend: str, precision: str = "fp32", said: list[str] | None = None) -> Engine:
    say = None if said is None else said.append
    return Engine(model, "cpu", precision, threads=1, slow_threads=1, backend=backend, say=say)


def answers(made: Engine, tasks: tuple[str, ...] = TASKS, confidence: bool = False) -> tuple[Answer, Answer, Answer]:
    """Of a keyframe, of a frame without one, and of a frame after it."""
    first, later = pictures()
    with made.fast_thread():
        made.warm_up(*SIZE)
        picture = made.upload(first)
        memory, _ = made.keyframe(picture)
        one = made.answer_keyframe(picture, memory, tasks, 100.0, confidence)
        alone = made.answer(made.upload(later), None, tasks, 100.0, confidence)
        return one, alone, made.answer(made.upload(later), memory, tasks, 100.0, confidence, match="depth" in tasks)


def assert_alike(a: Answer, b: Answer, rtol: float, apart: float) -> None:
    assert a.by_task().keys() == b.by_task().keys()
    if a.segmentation is not None:
        assert b.segmentation is not None and (a.segmentation != b.segmentation).mean() <= apart
    for x, y in ((a.depth, b.depth), (a.normals, b.normals), (a.confidence, b.confidence)):
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)
    assert (a.match is None) == (b.match is None)
    if a.match is not None and b.match is not None:
        assert a.match == pytest.approx(b.match, abs=rtol)
