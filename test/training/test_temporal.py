"""Answers that moved as the picture did agree; those that did not, do not; what came into view is left out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.training.data import Pool
from mila_ros.training.settings import TrainSettings
from mila_ros.training.steps import FastStep
from mila_ros.training.temporal import TemporalConsistency

from .test_steps import stage

SHIFT, STRIDE = 12, 4


def textured() -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((128, 160)).astype(np.float32)
    scales = sum(side * cv2.GaussianBlur(noise, (0, 0), side, borderType=cv2.BORDER_REFLECT) for side in (2, 5, 12))
    grey = cv2.normalize(scales, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A frame, and the one before, in which everything stood further to the left."""
    now = torch.from_numpy(textured()).permute(2, 0, 1)[None].float() / 255
    return now, torch.roll(now, -SHIFT, dims=3)


def answers(scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    classes = torch.randn(1, 4, 32, 40, generator=generator) * scale
    depth = torch.rand(1, 1, 32, 40, generator=generator) + 1
    normals = torch.nn.functional.normalize(torch.randn(1, 3, 32, 40, generator=generator), dim=1)
    return {"segmentation": classes, "depth": depth, "normals": normals}


def moved(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {task: torch.roll(value, -SHIFT // STRIDE, dims=3) for task, value in values.items()}


def test_where_a_cell_was_and_whether_it_was_seen() -> None:
    shift, seen = TemporalConsistency().matches(*pair(), columns=40)
    assert shift.shape == (1, 2, 32, 40) and seen.shape == (1, 1, 32, 40)
    inner = seen[0, 0].clone()
    assert inner[:, 8:-8].float().mean() > 0.95
    assert not inner[:, : SHIFT // STRIDE].any()  # came into view
    torch.testing.assert_close(shift[0, 0][inner].median(), torch.tensor(-SHIFT / STRIDE), atol=0.05, rtol=0)
    torch.testing.assert_close(shift[0, 1][inner].median(), torch.tensor(0.0), atol=0.05, rtol=0)


def test_answers_that_move_along_agree() -> None:
    loss, given = TemporalConsistency(), answers()
    along, stays = loss(given, moved(given), *pair()), loss(given, given, *pair())
    assert set(along) == {"segmentation", "depth", "normals"}
    for task, value in along.items():
        assert value < 0.3 * stays[task], task


def test_gradients_reach_both_frames_but_not_what_came_into_view() -> None:
    now = {task: value.requires_grad_() for task, value in answers().items()}
    before = {task: value.requires_grad_() for task, value in answers(0.5).items()}
    sum(TemporalConsistency()(now, before, *pair()).values()).backward()
    for task in now:
        for gradient in (now[task].grad, before[task].grad):
            assert gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any()), task
    assert not now["depth"].grad[..., : SHIFT // STRIDE].any()


def test_it_is_part_of_a_step(pool: Pool) -> None:
    plain, batch = stage({}, 1.0, pool)
    settings = TrainSettings(data="nyuv2:unused", rendered_clips=0, stage="fast", start="x", alone=1, temporal_weight=2)
    losses = FastStep(plain.model, settings, plain.class_weights).train()(batch)
    assert losses["temporal"] > 0 and "temporal" not in plain(batch)
    losses["temporal"].backward()
    assert plain.model.fast.lateral8.conv.weight.grad.any()
    assert all(p.grad is None for p in plain.model.slow.parameters())


@pytest.mark.parametrize("wrong", [{"stage": "slow", "alone": 1.0}, {"stage": "fast", "start": "x", "alone": 0.5}])
def test_only_for_a_fast_network_that_answers_alone(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match="the stage fast with alone: 1"):
        TrainSettings(data="nyuv2:unused", temporal_weight=1.0, **wrong)  # type: ignore[arg-type]
