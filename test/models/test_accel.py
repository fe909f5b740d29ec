"""Accel: the keyframe's answers where they are now, and the current frame's own, joined; nothing else reaches them."""

from __future__ import annotations

import pytest
import torch

from mila_ros.models.accel import AccelPropagation, AnswerFusion
from mila_ros.models.config import TASKS, ModelConfig
from mila_ros.models.flops import count_flops
from mila_ros.models.mila import Memory, Mila
from mila_ros.models.networks import Features

FOCAL, SIZE = torch.tensor([60.0]), (64, 96)


@pytest.fixture
def model() -> Mila:
    torch.manual_seed(0)
    made = Mila(
        ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"propagation": "accel", "working_pixels": 64 * 96})
    ).eval()
    assert isinstance(made.propagation, AccelPropagation)
    return made


def carried(model: Mila) -> tuple[Memory, Features, Features]:
    """A keyframe, what the fast network sees of the next picture, and both together."""
    before, now = torch.rand(1, 3, *SIZE), torch.rand(1, 3, *SIZE)
    memory, seen = model.keyframe(before), model.glance(now)
    return memory, seen, model.propagate(seen, memory)


@torch.no_grad()
def test_it_begins_as_the_keyframe_s_answers_where_they_are_now(model: Mila) -> None:
    memory, seen, both = carried(model)
    there, detail = model.propagation.warped(seen.coarse, memory.remembered)
    wanted = model.predict(memory.features._replace(coarse=there, detail=detail), TASKS, FOCAL, SIZE)
    for task, answer in model.predict(both, TASKS, FOCAL, SIZE).items():
        torch.testing.assert_close(answer, wanted[task], msg=task)


@torch.no_grad()
def test_what_is_seen_now_corrects_them_task_by_task(model: Mila) -> None:
    memory, seen, both = carried(model)
    raw = model.fast_heads(dict.fromkeys(TASKS, seen.coarse), seen.detail)
    layer = model.propagation.fusion.tasks["normals"]
    layer.weight.copy_(torch.cat([-torch.eye(3), torch.eye(3)], dim=1)[..., None, None])
    found = model._heads(both, ("normals", "depth"))
    torch.testing.assert_close(found["normals"], raw["normals"])
    there, detail = model.propagation.warped(seen.coarse, memory.remembered)
    torch.testing.assert_close(found["depth"], model.slow_heads({"depth": there}, detail)["depth"])
    assert set(found) == {"normals", "depth"} and model._heads(both, ()) == {}


@torch.no_grad()
def test_without_a_keyframe_the_fast_network_answers_alone(model: Mila) -> None:
    seen = model.glance(torch.rand(1, 3, *SIZE))
    assert not model.propagate(seen, None).apart
    alone = model._heads(model.propagate(seen, None), TASKS)
    torch.testing.assert_close(alone, model.fast_heads(dict.fromkeys(TASKS, seen.coarse), seen.detail))


def test_both_networks_heads_count_where_both_answer(model: Mila) -> None:
    flops = count_flops(model, *SIZE)
    assert flops.heads > flops.heads_alone + flops.heads_slow  # the fusion, too
    assert flops.alone_frame == flops.fast + flops.heads_alone < flops.fast_frame


def test_a_keyframe_of_another_size_is_refused(model: Mila) -> None:
    memory, _, _ = carried(model)
    with pytest.raises(ValueError, match="make a new keyframe"):
        model.propagate(model.glance(torch.rand(1, 3, 64, 128)), memory)


@torch.no_grad()
def test_half_of_what_sets_a_fusion_apart_lies_half_way() -> None:
    fusion = AnswerFusion({"depth": 1, "normals": 3})
    own, keyframe = ({task: torch.rand(1, k, 4, 5) for task, k in (("depth", 1), ("normals", 3))} for _ in range(2))
    torch.testing.assert_close(fusion(keyframe, own), keyframe)
    for layer in fusion.tasks.values():
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
    learned = fusion(keyframe, own)
    fusion.scale(0.5)
    for task, between in fusion(keyframe, own).items():
        torch.testing.assert_close(between, (learned[task] + keyframe[task]) / 2)
