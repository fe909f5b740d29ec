"""Task heads: stride-8 features and stride-4 details in, one dense answer a task out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mila_ros.models.config import ModelConfig
from mila_ros.models.layers import ConvBlock, resize, separable

_START_DEPTH = 2.5
"""Metres: an untrained depth head says this everywhere, a usual distance indoors."""


class Head(nn.Module):
    """One task: (B, C, H/8, W/8) and details (B, D, H/4, W/4) -> (B, out, H/4, W/4)."""

    def __init__(self, c_in: int, channels: int, out: int) -> None:
        super().__init__()
        self.coarse = separable(c_in, channels)
        self.fine = separable(channels, channels)
        self.out = nn.Conv2d(channels, out, 1)

    def forward(self, coarse: Tensor, detail: Tensor) -> Tensor:
        x = resize(self.coarse(coarse), detail.shape[-2:]) + detail
        return self.out(self.fine(x))


class Heads(nn.Module):
    """All tasks of one network; only those asked for are computed.

    Args:
        config: tasks and classes.
        detail_in: channels of the network's own stride-4 map.
        channels: width.
        carried_in: channels of a keyframe's, which is read beside it; 0: none is.
    """

    def __init__(self, config: ModelConfig, detail_in: int, channels: int, carried_in: int = 0) -> None:
        super().__init__()
        self.detail_in, self.carried_in = detail_in, carried_in
        self.detail = ConvBlock(detail_in + carried_in, channels, relu=False)
        outputs = config.answer_channels
        self.tasks = nn.ModuleDict({task: Head(config.channels, channels, out) for task, out in outputs.items()})

    @torch.no_grad()
    def start_from(self, trained: Heads) -> None:
        """Take over another network's trained heads, of this width.

        Its details are read where they are carried along; own ones start by adding nothing. Where none are carried,
        what they added starts as their mean.
        """
        self.tasks.load_state_dict(trained.tasks.state_dict())
        if self.carried_in:
            weight = self.detail.conv.weight
            weight.zero_()
            weight[:, self.detail_in :] = trained.detail.conv.weight
            self.detail.norm.load_state_dict(trained.detail.norm.state_dict())
        else:
            self.detail.norm.weight.zero_()
            self.detail.norm.bias.copy_(trained.detail.norm.bias)

    def forward(
        self, coarse: Mapping[str, Tensor], detail: Tensor, carried: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Raw answers at stride 4: class scores, log of canonical depth over 2.5 m, unnormalised normals.

        Args:
            coarse: (B, C, H/8, W/8) by task; only these tasks are answered.
            detail: (B, D, H/4, W/4).
            carried: (B, D', H/4, W/4) by task; None (no keyframe): zeros.
        """
        if not self.carried_in:
            return self._answers(coarse, dict.fromkeys(coarse, self.detail(detail)))
        if carried is None:
            nothing = detail.new_zeros(len(detail), self.carried_in, *detail.shape[-2:])
            carried = dict.fromkeys(coarse, nothing)
        read: dict[int, Tensor] = {}
        for task in coarse:  # tasks that looked together are read together
            key = id(carried[task])
            if key not in read:
                read[key] = self.detail(torch.cat([detail, carried[task]], dim=1))
        return self._answers(coarse, {task: read[id(carried[task])] for task in coarse})

    def _answers(self, coarse: Mapping[str, Tensor], details: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {task: self.tasks[task](features, details[task]) for task, features in coarse.items()}


def metric_depth(raw: Tensor, focal: Tensor, config: ModelConfig) -> Tensor:
    """Metres from the depth head's answer, for a camera's own focal length.

    A camera of twice the focal length shows things twice as large, so the same picture is twice as far: depth is
    learned for one canonical focal length and scaled (Metric3D, Yin et al. 2023).

    Args:
        raw: (B, 1, h, w).
        focal: (B,), fx in pixels of the network's input.
    """
    limit = math.log(config.max_depth / _START_DEPTH)
    canonical = raw.float().clamp(-5.0, limit).exp() * _START_DEPTH
    scale = focal.to(canonical).view(-1, 1, 1, 1) / config.canonical_focal
    return canonical * scale


def unit_normals(raw: Tensor) -> Tensor:
    """Unit vectors from the normals head's answer: (B, 3, h, w) -> same."""
    raw = raw.float()
    x, y, z = raw.unbind(1)  # on a CPU a sum along so short a dimension takes twice the time
    return raw * (x * x + y * y + z * z).clamp(min=1e-12).rsqrt()[:, None]
