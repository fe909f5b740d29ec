"""LAPS: leap attention for what is far away in time, periodic shift for what is near, at little or no cost.

Source: Zhang, Cheng, Hao, Ngo, "Long-term Leap Attention, Short-term Periodic Shift for Video Classification", ACM MM
2022. The periodic shift (P-shift) gives some channels of a frame's features to its neighbour in time, in turns, with
no parameters. Leap attention (LA) lets the positions of two frames, a leap apart, attend to each other's and to their
own, so that time costs two frames of attention and not all of them.

Differences from the paper: only the past is known to a robot, so channels come from the earlier frame and none go
back; as propagation the earlier frame is the keyframe, which is both a leap away and the only one kept. In a clip
(`leap_pairs`) frames are paired as published.

Cost, for N positions a frame: LA 8 C N^2 FLOPs and the projections, 12 C^2 a position; P-shift none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from mila_ros.models.config import ModelConfig
from mila_ros.models.layers import check_same_size, multi_head_attention, resize
from mila_ros.models.propagation import Carried, Joining, Keyframe, Propagation

PERIOD = 4
"""Every fourth channel is taken from the past."""


def periodic_shift(current: Tensor, past: Tensor, period: int = PERIOD) -> Tensor:
    """Every `period`-th channel from the frame before: (B, C, ...) twice -> (B, C, ...). No parameters."""
    kept = torch.arange(current.shape[1], device=current.device) % period != period - 1
    return torch.where(kept.view(1, -1, *[1] * (current.ndim - 2)), current, past)


def shift_clip(frames: Tensor, period: int = PERIOD) -> Tensor:
    """P-shift along a clip, (B, T, C, ...) -> same: each frame looks one back; the first keeps what it has."""
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    return periodic_shift(frames.flatten(0, 1), before.flatten(0, 1), period).unflatten(0, frames.shape[:2])


def leap_pairs(frames: int, leap: int) -> list[tuple[int, int]]:
    """Which frames of a clip attend to each other: each with the one `leap` later, every frame once.

    Raises:
        ValueError: they cannot be paired so.
    """
    if leap < 1 or frames % (2 * leap):
        raise ValueError(f"{frames} frames cannot be paired {leap} apart: they must be a multiple of {2 * leap}")
    return [(t, t + leap) for start in range(0, frames, 2 * leap) for t in range(start, start + leap)]


class LeapAttention(nn.Module):
    """Positions of the current frame attend to their own frame's and to those of one a leap away.

    Args:
        channels: C, of all maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.query_key = nn.Conv2d(channels, 2 * channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, current: Tensor, past: Tensor, known: Tensor | None = None) -> Tensor:
        """(B, C, H, W) twice -> what was found for each position of the current frame, (B, C, H, W).

        known: (B, C, H, W), what the past frame's positions bring; None: what they look like.
        """
        query, key = self.query_key(self.norm(current)).chunk(2, dim=1)
        _, past_key = self.query_key(self.norm(past)).chunk(2, dim=1)
        values = [self.value(current), self.value(past if known is None else known)]
        attended: Tensor = self.out(multi_head_attention(query, [key, past_key], values))
        return attended


class LapsPropagation(Propagation):
    """Channels shifted in from the keyframe, leap attention to it, and a residual that joins both with its features.

    Attention is over all pairs of positions, so at stride 16, between means of 2 x 2 cells.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config.channels
        self.leap = LeapAttention(c)
        self.fuse = Joining(2 * c, config.fast_hidden_width, c)

    def forward(
        self, current: Tensor, memory: Keyframe, tasks: Sequence[str], match: bool = False
    ) -> dict[str, Carried]:
        described, carried, _ = memory
        check_same_size(current.shape[-2:], carried.shape[-2:])
        shifted = periodic_shift(current, described)
        halved = [F.avg_pool2d(x, 2, ceil_mode=True) for x in (shifted, described, carried)]
        leapt = resize(self.leap(*halved), current.shape[-2:])
        return dict.fromkeys(tasks, Carried(carried + self.fuse(torch.cat([shifted, leapt], dim=1)), None))
