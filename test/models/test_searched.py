"""Attention in windows that follow what has moved: found far beyond a window, and plain attention where nothing did."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mila_ros.errors import UserError
from mila_ros.models.config import ModelConfig
from mila_ros.models.flops import count_flops
from mila_ros.models.ila import LocalAttention
from mila_ros.models.mila import Mila
from mila_ros.models.searched import SearchedAttention

SIZES = {"query_in": 16, "key_in": 16, "value_in": 16, "query_channels": 16, "value_channels": 16}


def make(reach: int = 8, window: int = 5, locate: bool = True, tile: int = 4) -> SearchedAttention:
    torch.manual_seed(0)
    attention = SearchedAttention(reach=reach, window=window, tile=tile, locate=locate, **SIZES)
    attention.start_as_look_up()
    return attention.eval()


def scene(height: int = 40, width: int = 56) -> Tensor:
    """Features that differ from place to place, of one length, so that nothing is as like a place as itself."""
    rough = torch.randn(1, 16, height // 4, width // 4, generator=torch.Generator().manual_seed(1))
    fine = torch.randn(1, 16, height, width, generator=torch.Generator().manual_seed(2))
    return 8 * F.normalize(F.interpolate(rough, size=(height, width), mode="bilinear") + fine, dim=1)


@pytest.mark.parametrize("moved", [(0, 0), (1, 0), (-3, 2), (7, -9), (-8, 8)])
@torch.no_grad()
def test_what_moved_far_is_found_again(moved: tuple[int, int]) -> None:
    dx, dy = moved
    now = scene()
    before = torch.roll(now, (dy, dx), dims=(2, 3))
    attention = make()
    found, shift = attention.look(now, attention.remember(before, before))
    inner = (..., slice(14, -14), slice(14, -14))
    assert shift is not None
    expected = torch.tensor([float(dx), float(dy)]).view(1, 2, 1, 1).expand_as(shift)
    torch.testing.assert_close(shift[inner], expected[inner], atol=0.3, rtol=0)
    assert (found - now)[inner].abs().mean() < 0.05 * now.abs().mean()
    plain = LocalAttention(window=5, tile=4, locate=True, **SIZES).eval()
    plain.load_state_dict(attention.state_dict())  # the search has no weights
    missed = (plain(now, plain.remember(before, before)) - now)[inner].abs().mean()
    assert (missed > 0.5 * now.abs().mean()) == (max(abs(dx), abs(dy)) > 2)


@pytest.mark.parametrize("size", [(40, 56), (30, 41), (7, 5)])
@pytest.mark.parametrize("locate", [True, False])
@torch.no_grad()
def test_where_nothing_moved_it_is_plain_attention(size: tuple[int, int], locate: bool) -> None:
    now = scene()[..., : size[0], : size[1]].repeat(2, 1, 1, 1)
    attention = make(window=9, locate=locate)
    plain = LocalAttention(window=9, tile=4, locate=locate, **SIZES).eval()
    plain.load_state_dict(attention.state_dict())
    searched, ordinary = attention.look(now, attention.remember(now, now)), plain.look(now, plain.remember(now, now))
    torch.testing.assert_close(searched, ordinary)  # at the borders, too: nothing outside takes weight


@torch.no_grad()
def test_an_even_wall_stays_and_pictures_of_a_batch_are_searched_apart() -> None:
    attention = make()
    wall = torch.ones(1, 16, 40, 56)
    assert not attention.search(attention.query(wall), attention.remember(wall, wall)).any()
    now = torch.cat([scene(), scene()])
    before = torch.cat([now[:1], torch.roll(now[1:], 6, dims=3)])
    moved = attention.search(attention.query(now), attention.remember(before, before)).view(2, 10, 14, 2)
    assert not moved[0].any()
    assert (moved[1, 3:-3, 3:-3] == torch.tensor([6, 0])).all()


@torch.no_grad()
def test_half_precision_on_a_cpu_finds_the_same() -> None:
    now = scene()
    before = torch.roll(now, (-4, 6), dims=(2, 3))
    attention = make()
    expected, far = attention.look(now, attention.remember(before, before))
    attention = attention.to(torch.bfloat16)
    now, before = now.bfloat16(), before.bfloat16()
    found, shift = attention.look(now, attention.remember(before, before))
    assert found.dtype == torch.bfloat16 and shift is not None and far is not None
    inner = (..., slice(12, -12), slice(12, -12))
    torch.testing.assert_close(found.float()[inner], expected[inner], atol=0.2, rtol=0.05)
    torch.testing.assert_close(shift.float()[inner], far[inner], atol=0.2, rtol=0)


def test_gradients_reach_everything_that_is_learned_even_after_inference() -> None:
    attention = make().train()
    with torch.inference_mode():  # what is kept for a size must not be of inference
        attention.look(scene(), attention.remember(scene(), scene()))
    now = scene()
    found, shift = attention.look(now, attention.remember(torch.roll(now, 6, dims=3), now))
    assert shift is not None
    (found.square().mean() + shift.square().mean()).backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_network_whose_windows_may_move_answers_alike_where_nothing_did() -> None:
    torch.manual_seed(0)
    values = ModelConfig.tiny().to_dict() | {"warp": True, "working_pixels": 96 * 128}
    stays, follows = (Mila(ModelConfig.from_dict(values | {"reach": reach})).eval() for reach in (0, 6))
    follows.load_state_dict(stays.state_dict())
    image = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        one, other = (m.propagate(m.glance(image), m.keyframe(image), match=True) for m in (stays, follows))
    assert one.match is not None and other.match is not None
    for task in ("segmentation", "depth"):
        torch.testing.assert_close(one.of(task), other.of(task))
    torch.testing.assert_close(one.match, other.match)


def test_arithmetic_is_counted_alike_at_first_and_again() -> None:
    model = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"warp": True, "reach": 6}))
    assert count_flops(model, 72, 104) == count_flops(model, 72, 104)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"reach": 3}, "must be even"),
        ({"reach": -2}, "must be even"),
        ({"reach": 8, "tile": 5}, "must be even"),
        ({"reach": 8, "frames": 2}, "set frames to 1"),
        ({"reach": 8, "propagation": "laps"}, "reach"),
    ],
)
def test_impossible_reaches_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ModelConfig.from_dict(ModelConfig.tiny().to_dict() | values)
