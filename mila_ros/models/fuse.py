"""Folding of batch normalisation into the convolutions before it: the same answers, fewer passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mila_ros.models.mila import STRIDE, Mila


def fuse_for_inference(model: Mila) -> Mila:
    """Fold every normalisation that follows a convolution, in place.

    Which convolution feeds which normalisation is seen by running one small picture through the network, so it
    holds for any timm backbone.

    Args:
        model: in evaluation mode; it cannot be trained afterwards.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("only a model in evaluation mode can be fused")
    pairs = _conv_norm_pairs(model)
    names = {id(module): name for name, module in model.named_modules()}
    for conv, norm in pairs:
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(f"{names[id(norm)]} has no statistics to fold")
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = weight, bias
        # timm's normalisation brings the activation along; PyTorch's own does not.
        after = getattr(norm, "act", None) or nn.Identity()
        parent, _, child = names[id(norm)].rpartition(".")
        setattr(model.get_submodule(parent), child, after)
    return model.requires_grad_(False)


def _conv_norm_pairs(model: Mila) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions whose output goes straight into a normalisation."""
    made_by: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_conv(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made_by[id(output)] = module
        kept.append(output)  # an id is only unique while its object lives

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        conv = made_by.get(id(inputs[0]))
        if conv is not None and all(module is not norm for _, norm in pairs):
            pairs.append((conv, module))

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, 2 * STRIDE, 2 * STRIDE, device=parameter.device, dtype=parameter.dtype)
    focal, size = torch.ones(1, device=parameter.device), (STRIDE, STRIDE)
    try:
        with torch.no_grad():
            memory = model.keyframe(image)
            features = model.propagate(model.glance(image), memory)
            for known in (features, memory.features):
                model.predict(known, model.config.tasks, focal, size)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs
