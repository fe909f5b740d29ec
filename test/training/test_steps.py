"""A step of the fast stage, for every way to carry features: what learns, and what pictures without a keyframe get."""

import pytest
import torch

from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.training.augmentation import Augmentation, Batch
from mila_ros.training.data import Batches, Pool
from mila_ros.training.settings import TrainSettings
from mila_ros.training.steps import FastStep, SlowStep
from mila_ros.worlds.labels import load_labels

CLASSES = load_labels("nyu40").classes
WAYS = [
    {},
    {"warp": True},
    {"attention": "task", "warp": True},
    {"frames": 2},
    {"keys": "slow"},
    {"propagation": "alignment"},
    {"propagation": "attention+alignment", "warp": True},
    {"propagation": "laps"},
    {"propagation": "learned-flow"},
    {"propagation": "accel"},
]


def stage(way: dict[str, object], alone: float, pool: Pool) -> tuple[FastStep, Batch]:
    torch.manual_seed(0)
    model = Mila(
        ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"classes": CLASSES, "working_pixels": 64 * 96} | way)
    )
    for parameter in model.propagation.parameters():  # past the zeros that it starts with
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    settings = TrainSettings(data="nyuv2:unused", rendered_clips=0, alone=alone)
    augmentation = Augmentation(64, 96, colour=0.0)
    batches = Batches([(pool, 1.0)], 3, augmentation, model.config.frames, torch.Generator().manual_seed(0))
    return FastStep(model, settings, torch.ones(len(CLASSES))).train(), batches.next()


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_everything_that_is_trained_learns_and_nothing_else(pool: Pool, way: dict[str, object], half: bool) -> None:
    step, batch = stage(way, 0.0, pool)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = step(batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in step.model.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.any())
        trained = name.startswith(("fast.", "propagation.", "fast_heads."))
        # A constant added to every score of a softmax changes nothing: such biases have no gradient, but for rounding.
        if trained and not name.endswith(("attention.key.bias", "query_key.bias")):
            assert learns, name
        # Gradients pass through the slow heads to what Accel has warped; the trainer keeps them frozen.
        passed = name.startswith("slow_heads.") and way == {"propagation": "accel"}
        if not trained and not passed:
            assert parameter.grad is None, name


def test_cross_attention_learns_with_the_slow_network(pool: Pool) -> None:
    fast, batch = stage({"cross_attention": True}, 0.0, pool)
    cross = fast.model.slow.cross
    assert cross is not None
    for layer in (cross.join16, cross.join32, cross.self_attention.out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    sum(SlowStep(fast.model, fast.settings, torch.ones(len(CLASSES))).train()(batch).values()).backward()
    for name, parameter in cross.named_parameters():
        if not name.endswith("key_value.bias"):  # half of it is the keys': a constant in a softmax
            assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("way", [{}, {"warp": True}, {"propagation": "laps"}, {"propagation": "accel"}], ids=str)
def test_pictures_without_a_keyframe_learn_nothing_from_it(pool: Pool, way: dict[str, object]) -> None:
    step, batch = stage(way, 1.0, pool)
    sum(step(batch).values()).backward()
    for name, parameter in step.model.propagation.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in step.model.fast.parameters())
