"""Narrower fast parts from trained ones: the channels that count most stay, and the mean of the others does.

Source: channels are ranked by what they add to the variance of the next layer, by the statistics that batch
normalisation has kept of them (Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV
2017, ranks by the scale of normalisation alone). It is a start for training, and no network to use as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mila_ros.models.heads import Head, Heads
from mila_ros.models.layers import ConvBlock
from mila_ros.models.mila import Mila
from mila_ros.models.propagation import Joining


@torch.no_grad()
def narrow(wide: Mila, model: Mila) -> None:
    """Fill the fast network and the fast heads of `model` where they are narrower than those of `wide`, in place."""
    narrow_last_layer(wide.fast.merge8[0][1], wide.fast.merge8[1], model.fast.merge8[0][1], model.fast.merge8[1])
    narrow_heads(wide.fast_heads, model.fast_heads)


@torch.no_grad()
def narrow_joining(wide: nn.Module | None, part: nn.Module) -> None:
    """The same for what joins (propagation.py) in a propagation or a look-up, from one of the same kind.

    Where there is none, or it read other maps, it begins by adding nothing.
    """
    names = {} if wide is None else dict(wide.named_modules())
    for name, own in part.named_modules():
        if not isinstance(own, Joining):
            continue
        known = names.get(name)
        alike = isinstance(known, Joining) and known[0].conv.weight.shape[1] == own[0].conv.weight.shape[1]
        if isinstance(known, Joining) and alike:
            narrow_last_layer(known[0], known[1], own[0], own[1])
        elif not isinstance(known, Joining) or known[1].weight.shape != own[1].weight.shape:
            own.scale(0.0)


@torch.no_grad()
def narrow_last_layer(block: ConvBlock, last: nn.Conv2d, into: ConvBlock, into_last: nn.Conv2d) -> None:
    """Fewer channels between a block and the linear layer behind it, in place; as many as before: nothing is done.

    Both have the inputs and outputs that they had.
    """
    count = into_last.weight.shape[1]
    if count == last.weight.shape[1] or block.conv.weight.shape[1] != into.conv.weight.shape[1]:
        return
    mean, variance = _rectified(block.norm)
    kept = _most(last.weight.flatten(1).square().sum(0) * variance, count)
    _take(block, into, kept)
    into_last.weight.copy_(last.weight[:, kept])
    if last.bias is not None and into_last.bias is not None:
        into_last.bias.copy_(last.bias + _lost(last.weight.flatten(1), mean, kept))


@torch.no_grad()
def narrow_heads(wide: Heads, heads: Heads) -> None:
    """Narrower heads of the same tasks from wider ones, in place; as wide as they were: nothing is done."""
    count = len(heads.detail.norm.weight)
    if count == len(wide.detail.norm.weight):
        return
    pairs = [(_head(wide, task), _head(heads, task)) for task in heads.tasks]
    # Details are added to every task's channels, so all tasks keep the same ones.
    worth = []
    for old, _ in pairs:
        share = _linear(_block(old.fine[1])) * _block(old.fine[0]).norm.weight
        worth.append(share.square().sum(0) / share.square().sum())
    kept = _most(torch.stack(worth).sum(0), count)
    _take(wide.detail, heads.detail, kept, heads.detail_in + min(wide.carried_in, heads.carried_in))
    for old, new in pairs:
        new.coarse[0].load_state_dict(old.coarse[0].state_dict())
        _take(_block(old.coarse[1]), _block(new.coarse[1]), kept)
        old_depth, new_depth = _block(old.fine[0]), _block(new.fine[0])
        _take(old_depth, new_depth, kept)
        # The wider block with fewer inputs, then with fewer outputs: what was left out had a mean, too.
        between = ConvBlock(count, len(_block(old.fine[1]).norm.weight))
        between.load_state_dict(
            _block(old.fine[1]).state_dict() | {"0.weight": _block(old.fine[1]).conv.weight[:, kept]}
        )
        raw = _block(old.fine[1]).conv.weight.flatten(1)
        between.norm.running_mean -= _lost(raw, old_depth.norm.bias, kept)
        narrow_last_layer(between, old.out, _block(new.fine[1]), new.out)


def _head(heads: Heads, task: str) -> Head:
    head = heads.tasks[task]
    assert isinstance(head, Head)
    return head


def _block(module: nn.Module) -> ConvBlock:
    assert isinstance(module, ConvBlock)
    return module


def _take(block: ConvBlock, into: ConvBlock, kept: Tensor, inputs: int | None = None) -> None:
    """Some output channels of a block, with its inputs (or, depthwise, with their own).

    inputs: how many of these both have, the first ones; what else the new block reads begins by adding nothing.
    """
    into.conv.weight.zero_()
    into.conv.weight[:, :inputs] = block.conv.weight[kept][:, :inputs]
    for name, value in block.norm.state_dict().items():
        into.norm.state_dict()[name].copy_(value[kept] if value.ndim else value)


def _linear(block: ConvBlock) -> Tensor:
    """(C_out, C_in): a pointwise block's weights, in units of what its normalisation divides by."""
    norm = block.norm
    assert norm.running_var is not None
    return block.conv.weight.flatten(1) * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None]


def _rectified(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel behind a normalisation and ReLU, if it is normally distributed before."""
    spread = norm.weight.abs().clamp(min=1e-6)
    normal = torch.distributions.Normal(torch.zeros_like(spread), torch.ones_like(spread))
    at = norm.bias / spread
    above, dense = normal.cdf(at), normal.log_prob(at).exp()
    mean = norm.bias * above + spread * dense
    square = (norm.bias**2 + spread**2) * above + norm.bias * spread * dense
    return mean, (square - mean**2).clamp(min=0)


def _most(worth: Tensor, count: int) -> Tensor:
    """Indices of the channels that are worth most, in their order."""
    return worth.topk(count).indices.sort().values


def _lost(weight: Tensor, mean: Tensor, kept: Tensor) -> Tensor:
    """(C_out, C_in), (C_in,) -> (C_out,): the mean of what the channels that are left out would have added."""
    left = torch.ones_like(mean)
    left[kept] = 0.0
    return weight @ (mean * left)
