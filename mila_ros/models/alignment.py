"""Implicit learnable alignment: which parts of two frames matter to each other, without saying what moved where.

Source: Tu et al., "Implicit Temporal Modeling with Learnable Alignment for Video Recognition", ICCV 2023. From a pair
of frames one interactive point a frame is predicted; a soft box around it (one inside, falling to zero outside, its
gradient moves the point) weights that frame's features; the pooled, weighted features of both are their mutual
information, which, with what the comparison itself found, joins the current frame's features.

Differences from the paper: frames are a keyframe and the current one, not neighbours of a clip; the mutual information
joins by a gate that starts at zero, in place of one more token of a transformer, since there are no tokens here; the
points are not shaken in training.

Cost, for N = H * W positions: the interaction N * (36 C + 4 C M + 18 M^2) FLOPs with M = 64 channels; the rest is
pooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mila_ros.models.config import ModelConfig
from mila_ros.models.layers import ConvBlock, check_same_size, separable
from mila_ros.models.propagation import Carried, Joining, Keyframe, Propagation

if TYPE_CHECKING:
    from mila_ros.models.attention import LookUp

_INTERACTION = 64
"""M: channels in which two frames are compared."""
_REACH = 0.75
"""Points stay within this share of the picture's half size from its middle."""
_BOX = 0.25
"""Half the side of the box whose weight is one, in half sizes of the picture."""
_FALL = 1.5
"""By how much the weight falls in a half size of the picture outside the box."""


def soft_box(points: Tensor, height: int, width: int) -> Tensor:
    """Weights around a point: (B, 2), x and y in -1..1 from the middle to the border -> (B, 1, H, W) in 0..1."""
    along = []
    for axis, cells in ((0, width), (1, height)):
        places = (torch.arange(cells, device=points.device, dtype=points.dtype) + 0.5) * (2.0 / cells) - 1.0
        distance = (places[None] - points[:, axis : axis + 1]).abs()
        along.append((1.0 - _FALL * (distance - _BOX)).clamp(0.0, 1.0))
    x, y = along
    return (y[:, :, None] * x[:, None, :])[:, None]


class Alignment(nn.Module):
    """Adds to a frame's features what matters of it and a keyframe to each other.

    A gate of zero, at which it starts, makes it the identity.

    Args:
        channels: C, of all maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.interaction = nn.Sequential(
            separable(2 * channels, _INTERACTION), ConvBlock(_INTERACTION, _INTERACTION, 3)
        )
        self.points = nn.Linear(_INTERACTION, 4)
        nn.init.zeros_(self.points.weight)  # both points start in the middle
        nn.init.zeros_(self.points.bias)
        first = nn.Linear(2 * channels + _INTERACTION, channels)
        self.mutual = nn.Sequential(first, nn.GELU(), nn.Linear(channels, channels))
        self.gate = nn.Parameter(torch.zeros(channels))

    def compare(self, current: Tensor, described: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) twice -> what the comparison found, (B, M), and the interactive points, (B, 4): x and y in the
        current frame, x and y in the keyframe, -1..1.
        """
        compared = self.interaction(torch.cat([current, described], dim=1))
        found = F.adaptive_max_pool2d(compared, 1).flatten(1)
        return found, torch.tanh(self.points(found)) * _REACH

    def forward(self, features: Tensor, current: Tensor, described: Tensor, carried: Tensor) -> Tensor:
        """
        Args:
            features: (B, C, H, W), to be added to.
            current: (B, C, H, W), what the current frame looks like.
            described: (B, C, H, W), what the keyframe looked like, by the same network.
            carried: (B, C, H, W), what is known about the keyframe.

        Returns:
            (B, C, H, W).
        """
        height, width = features.shape[-2:]
        found, points = self.compare(current, described)
        pooled = [found]
        for point, known in ((points[:, :2], features), (points[:, 2:], carried)):
            weight = soft_box(point, height, width)
            pooled.append((weight * known).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp(min=1e-3))
        mutual = self.mutual(torch.cat(pooled, dim=1))
        return features + (self.gate * mutual)[:, :, None, None]


class _Remembered(NamedTuple):
    keyframe: Keyframe
    looked_up: Any
    """The memory of the attention inside."""


class AlignedPropagation(Propagation):
    """The keyframe's features, where they are or where attention finds them, with mutual information of both frames.

    Args:
        config: channels.
        attention: what carries features; None: they stay where they were.
    """

    def __init__(self, config: ModelConfig, attention: Propagation | None) -> None:
        super().__init__()
        c = config.channels
        self.attention = attention
        self.fuse = None if attention is not None else Joining(2 * c, config.fast_hidden_width, c)
        self.alignment = Alignment(c)

    def look_ups(self) -> Mapping[str, LookUp]:
        return {} if self.attention is None else self.attention.look_ups()

    def remember(self, keyframe: Keyframe, before: Any = None) -> _Remembered:
        if self.attention is None:
            return _Remembered(keyframe, None)
        return _Remembered(keyframe, self.attention.remember(keyframe, None if before is None else before.looked_up))

    def forward(
        self, current: Tensor, memory: _Remembered, tasks: Sequence[str], match: bool = False
    ) -> dict[str, Carried]:
        described, carried, _ = memory.keyframe
        check_same_size(current.shape[-2:], carried.shape[-2:])
        if self.attention is None:
            assert self.fuse is not None
            joined = carried + self.fuse(torch.cat([current, carried], dim=1))
            found = dict.fromkeys(tasks, Carried(joined, None))
        else:
            found = self.attention(current, memory.looked_up, tasks, match)
        aligned: dict[int, Carried] = {}
        for brought in found.values():  # tasks that share features go on sharing them
            if id(brought) not in aligned:
                features = self.alignment(brought.coarse, current, described, carried)
                aligned[id(brought)] = brought._replace(coarse=features)
        return {task: aligned[id(brought)] for task, brought in found.items()}
