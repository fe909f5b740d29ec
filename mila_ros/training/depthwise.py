"""Depthwise convolutions whose gradients a CPU finds in single precision.

oneDNN has no fast kernel for the gradients of depthwise convolutions in bfloat16: those of 5 x 5 take four to eight
times as long as in single precision, and were more than half of a training step. What goes forward stays in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Pair = list[int]


class _Depthwise(torch.autograd.Function):
    """conv2d with as many groups as input channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape = stride, padding, dilation
        return torch.ops.aten.convolution(x, weight, None, stride, padding, dilation, False, [0, 0], x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.shape
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        tensors = (gradients[0].float(), x.float(), weight.float())
        shape = (stride, padding, dilation, False, [0, 0], x.shape[1])
        to_x, to_weight, _ = torch.ops.aten.convolution_backward(*tensors, None, *shape, wanted)
        return (
            None if to_x is None else to_x.to(x.dtype),
            None if to_weight is None else to_weight.to(weight.dtype),
            None,
            None,
            None,
        )


class DepthwiseGradients(TorchFunctionMode):
    """While it is entered, autocast depthwise convolutions on a CPU have their gradients found in single precision."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7 and _fits(*args):
            x, weight, _bias, stride, padding, dilation, _groups = args
            kind = torch.get_autocast_dtype("cpu")
            return _Depthwise.apply(x.to(kind), weight.to(kind), *([*pair] for pair in (stride, padding, dilation)))
        return func(*args, **(kwargs or {}))


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, _: Any, groups: int) -> bool:
    return (
        groups == x.shape[1] == weight.shape[0]
        and bias is None
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and weight.requires_grad
        and not isinstance(padding, str)
        and not isinstance(stride, int)
    )
