"""Implicit learnable alignment: the soft box, the gate, the points, and how it carries features."""

import pytest
import torch

from mila_ros.models.alignment import AlignedPropagation, Alignment, soft_box
from mila_ros.models.config import ModelConfig
from mila_ros.models.propagation import Keyframe
from mila_ros.models.propagations import make_propagation


def test_the_box_is_whole_around_its_point_and_falls_outside() -> None:
    weight = soft_box(torch.tensor([[0.5, -0.5]]), 40, 40)[0, 0]
    assert weight.shape == (40, 40)
    assert weight[10, 30] == 1 and weight[6:14, 26:34].min() == 1
    assert weight[39, 0] == 0
    row = weight[10]
    assert (row[:30].diff() >= 0).all() and (row[34:].diff() <= 0).all()
    middle = soft_box(torch.zeros(1, 2), 6, 8)[0, 0]
    torch.testing.assert_close(middle, middle.flip(0, 1))


def test_the_point_learns_through_the_edge_of_its_box() -> None:
    point = torch.zeros(1, 2, requires_grad=True)
    picture = torch.zeros(1, 1, 20, 20)
    picture[..., 15:] = 1.0  # what matters is on the right
    optimiser = torch.optim.SGD([point], lr=0.2)
    for _ in range(40):
        optimiser.zero_grad()
        weight = soft_box(point, 20, 20)
        (-(weight * picture).sum() / weight.sum()).backward()
        optimiser.step()
    assert point[0, 0] > 0.3 and abs(point[0, 1]) < 0.05


def test_a_gate_of_zero_is_the_identity() -> None:
    torch.manual_seed(0)
    align = Alignment(16)
    features, current, described, carried = (torch.randn(2, 16, 6, 8) for _ in range(4))
    torch.testing.assert_close(align(features, current, described, carried), features)
    torch.nn.init.ones_(align.gate)
    added = align(features, current, described, carried) - features
    assert added.abs().max() > 1e-3
    assert added.std(dim=(2, 3)).max() < 1e-5  # one vector a picture
    assert align.compare(current, described)[1].abs().max() == 0  # both in the middle, before training


@pytest.mark.parametrize("kind", ["alignment", "attention+alignment"])
def test_before_training_it_carries_what_it_is_put_beside(kind: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(classes=("a", "b"), channels=32, query_channels=32, propagation=kind)
    carry = make_propagation(config).eval()
    assert isinstance(carry, AlignedPropagation)
    keyframe = Keyframe(torch.randn(1, 32, 12, 15), torch.randn(1, 32, 12, 15), torch.zeros(1, 3, 24, 30))
    current = torch.randn(1, 32, 12, 15)
    found = carry(current, carry.remember(keyframe, carry.remember(keyframe)), ["depth", "normals"])
    assert found["depth"] is found["normals"]
    if kind == "alignment":
        torch.testing.assert_close(found["depth"].coarse, keyframe.carried)
    else:
        inner = carry.attention
        expected = inner(current, inner.remember(keyframe), ["depth"])["depth"]
        torch.testing.assert_close(found["depth"].coarse, expected.coarse)
    with pytest.raises(ValueError, match="make a new keyframe"):
        carry(torch.zeros(1, 32, 12, 14), carry.remember(keyframe), ["depth"])
