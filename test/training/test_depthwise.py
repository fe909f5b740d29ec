"""Depthwise convolutions under autocast: the same answers and gradients, these in single precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mila_ros.training.depthwise import DepthwiseGradients


def gradients(conv: nn.Conv2d, x: Tensor, single: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of a sum, and what came out."""
    conv.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        if single:
            with DepthwiseGradients():
                y = conv(x)
        else:
            y = conv(x)
    (y.float() * torch.linspace(0, 1, y.numel()).view_as(y)).sum().backward()
    assert x.grad is not None and conv.weight.grad is not None
    return y.detach(), x.grad, conv.weight.grad.clone()


@pytest.mark.parametrize("shape", [{"kernel_size": 5, "padding": 2}, {"kernel_size": 3, "stride": 2, "dilation": 2}])
def test_gradients_are_those_of_autocast(shape: dict[str, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, groups=6, bias=False, **shape)
    x = torch.randn(2, 6, 16, 20)
    ours, theirs = gradients(conv, x, single=True), gradients(conv, x, single=False)
    assert torch.equal(ours[0], theirs[0]) and ours[0].dtype == torch.bfloat16
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02 * float(b.abs().max()))


def test_what_is_not_depthwise_or_not_learned_goes_its_usual_way() -> None:
    whole, depthwise = nn.Conv2d(6, 6, 3, bias=False), nn.Conv2d(6, 6, 3, groups=6, bias=False)

    def made_by(conv: nn.Conv2d, autocast: bool = True) -> str:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), DepthwiseGradients():
            return type(conv(torch.randn(1, 6, 8, 8)).grad_fn).__name__

    assert made_by(depthwise) == "_DepthwiseBackward"
    assert made_by(whole) == made_by(depthwise, autocast=False) == "ConvolutionBackward0"
    assert made_by(depthwise.requires_grad_(False)) == "NoneType"
