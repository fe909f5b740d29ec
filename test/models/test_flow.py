"""Learned flow: what has moved is found where it went, and what has not is carried as it is."""

from __future__ import annotations

import pytest
import torch

from mila_ros.models.config import ModelConfig
from mila_ros.models.flow import FlowPropagation, cost_volume, offsets
from mila_ros.models.mila import Mila
from mila_ros.models.propagation import Keyframe
from mila_ros.models.propagations import make_propagation


def carry() -> FlowPropagation:
    torch.manual_seed(0)
    config = ModelConfig(classes=("a", "b"), channels=32, query_channels=32, propagation="learned-flow")
    made = make_propagation(config).eval()
    assert isinstance(made, FlowPropagation) and not made.look_ups()
    return made


def keyframe(described: torch.Tensor) -> Keyframe:
    *_, height, width = described.shape
    return Keyframe(described, torch.randn(1, 32, height, width), torch.randn(1, 3, 2 * height, 2 * width))


def test_a_cost_volume_is_the_cosine_to_each_place_near_by() -> None:
    torch.manual_seed(1)
    current, other = torch.randn(2, 5, 4, 6), torch.randn(2, 5, 4, 6)
    cost, where = cost_volume(current, other, 2), offsets(2, current)
    assert cost.shape == (2, 25, 4, 6) and where.shape == (25, 2)
    for k, (right, down) in enumerate(where.long().tolist()):
        row, column = 1, 3
        inside = 0 <= row + down < 4 and 0 <= column + right < 6
        common = other[1].mean(dim=(1, 2))
        near = other[1, :, row + down, column + right] - common if inside else torch.zeros(5)
        wanted = torch.nn.functional.cosine_similarity(current[1, :, row, column] - common, near, dim=0)
        torch.testing.assert_close(cost[1, k, row, column], wanted)


@pytest.mark.parametrize("size", [(12, 16), (13, 17)])
def test_without_motion_a_keyframe_is_carried_as_it_is(size: tuple[int, int]) -> None:
    way = carry()
    now = torch.randn(1, 32, *size)
    then = keyframe(now)
    found = way(now, way.remember(then), ["depth", "normals"])
    assert found["depth"] is found["normals"]
    torch.testing.assert_close(found["depth"].coarse, then.carried, atol=0.02, rtol=0)
    torch.testing.assert_close(found["depth"].detail, then.detail, atol=0.04, rtol=0)


@pytest.mark.parametrize("moved", [(2, 0), (-4, 2), (8, -10)])
@pytest.mark.parametrize("smooth", [False, True], ids=["noise", "smooth"])
def test_what_moved_is_found_before_anything_is_learned(moved: tuple[int, int], smooth: bool) -> None:
    right, down = moved
    way = carry()
    now = torch.randn(1, 32, 32, 40)
    if smooth:  # as features are: neighbours alike, and everything alike in part
        now = torch.nn.functional.avg_pool2d(now, 5, 1, 2) + torch.randn(1, 32, 1, 1)
    then = torch.roll(now, (down, right), (2, 3))
    error = way.flow(now, then)[0, :, 12:20, 12:28] - torch.tensor([float(right), float(down)])[:, None, None]
    assert error.norm(dim=0).mean() < (0.5 if smooth else 0.05)


def test_a_keyframe_of_another_size_is_refused() -> None:
    way = carry()
    with pytest.raises(ValueError, match="make a new keyframe"):
        way(torch.zeros(1, 32, 6, 9), way.remember(keyframe(torch.zeros(1, 32, 6, 8))), ["depth"])


def test_details_reach_the_heads() -> None:
    torch.manual_seed(0)
    model = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"propagation": "learned-flow"})).eval()
    for parameter in model.fast_heads.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        memory, now = model.keyframe(image), model.glance(image)
        other = memory._replace(remembered=memory.remembered._replace(detail=torch.rand_like(memory.remembered.detail)))
        one, two = (
            model.predict(model.propagate(now, m), ("depth",), torch.tensor([60.0]), (32, 48)) for m in (memory, other)
        )
    assert not torch.equal(one["depth"], two["depth"])
