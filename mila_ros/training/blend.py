"""Half-way back: what a stage learned, mixed in weight space with what it began from.

Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022: between a good start and what
fine-tuning makes of it lie weights that are better than both on data that was not trained on; few labelled pictures are
soon learned by heart. The good start of a fast stage is the propagated features as they are, without the residual that
joins them with the current frame's, read by the slow network's own heads; that of a slow stage the slow network that it
was given.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from mila_ros.models.accel import AnswerFusion
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.models.propagation import Joining
from mila_ros.training.settings import TrainSettings


def blend_share(settings: TrainSettings, config: ModelConfig) -> float:
    """How much of what a stage learned is kept, where its settings leave that open."""
    if settings.blend is not None:
        return settings.blend
    return 0.5 if settings.stage == "fast" and config.fast_head_width == config.head_channels else 1.0


@torch.no_grad()
def blended(model: Mila, share: float) -> Mila:
    """A copy whose fast heads and what joins are so much what was learned, 0..1, and else their start.

    Raises:
        ValueError: a share outside of 0..1.
    """
    _check(share)
    mixed = copy.deepcopy(model)
    start = copy.deepcopy(model.fast_heads)
    start.start_from(model.slow_heads)
    begun = start.state_dict()
    for name, value in mixed.fast_heads.state_dict().items():
        if value.is_floating_point():
            value.lerp_(begun[name], 1 - share)
    for part in mixed.propagation.modules():
        if isinstance(part, (Joining, AnswerFusion)):
            part.scale(share)
    return mixed


@torch.no_grad()
def blended_slow(model: Mila, start: Mapping[str, Tensor], share: float) -> Mila:
    """A copy whose slow network and slow heads are so much what was learned, 0..1, and else `start`, by name.

    Raises:
        ValueError: a share outside of 0..1.
    """
    _check(share)
    mixed = copy.deepcopy(model)
    for name, value in mixed.state_dict().items():
        if name in start and value.is_floating_point():
            value.lerp_(start[name].to(value), 1 - share)
    return mixed


def slow_weights(model: Mila) -> dict[str, Tensor]:
    """What `blended_slow` goes back to, as it is now."""
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith("slow")}


def _check(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"the share of what was learned is {share}, not a number from 0 to 1")
