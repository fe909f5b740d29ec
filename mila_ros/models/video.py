"""Video classification by alignment or LAPS: the job that both were published for, on features of a frozen backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mila_ros.models.alignment import Alignment
from mila_ros.models.laps import LeapAttention, leap_pairs, shift_clip
from mila_ros.models.layers import ConvBlock, ResidualBlock

TEMPORAL = ("plain", "alignment", "laps")
"""Ways to let frames know of each other; "plain": not at all, until they are averaged."""


class VideoClassifier(nn.Module):
    """(B, T, C, H, W) features of frames -> (B, K) scores.

    Every way has the same layers before and behind: a projection, a block a frame, the mean over frames and places.

    Args:
        channels_in: C.
        classes: K.
        frames: T.
        temporal: one of TEMPORAL.
        channels: of the layers inside.

    Raises:
        ValueError: another way.
    """

    def __init__(self, channels_in: int, classes: int, frames: int, temporal: str, channels: int = 64) -> None:
        super().__init__()
        if temporal not in TEMPORAL:
            raise ValueError(f'temporal must be one of {", ".join(TEMPORAL)}; got "{temporal}"')
        self.temporal, self.frames = temporal, frames
        self.project = ConvBlock(channels_in, channels)
        self.alignment = Alignment(channels) if temporal == "alignment" else None
        # Long leaps first, as published: frames half a clip apart, then a quarter.
        self.leaps = [frames // 2, frames // 4] if temporal == "laps" else []
        self.attention = nn.ModuleList([LeapAttention(channels) for _ in self.leaps])
        self.block = nn.Sequential(ResidualBlock(channels), nn.Dropout(0.2))
        self.classify = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        x = self.project(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        if self.alignment is not None:
            x = self._aligned(x, self.alignment)
        for leap, attention in zip(self.leaps, self.attention, strict=True):
            x = self._leapt(shift_clip(x), leap, attention)
        x = self.block(x.flatten(0, 1)).mean(dim=(2, 3))
        scores: Tensor = self.classify(x.unflatten(0, features.shape[:2]).mean(dim=1))
        return scores

    @staticmethod
    def _aligned(x: Tensor, alignment: Alignment) -> Tensor:
        """Each frame but the first with the one before it."""
        now, before = x[:, 1:].flatten(0, 1), x[:, :-1].flatten(0, 1)
        aligned = alignment(now, now, before, before).unflatten(0, (len(x), x.shape[1] - 1))
        return torch.cat([x[:, :1], aligned], dim=1)

    def _leapt(self, x: Tensor, leap: int, attention: nn.Module) -> Tensor:
        """Each frame with the one a leap away, both ways: a clip is known as a whole."""
        earlier, later = (list(side) for side in zip(*leap_pairs(self.frames, leap), strict=True))
        a, b = x[:, earlier].flatten(0, 1), x[:, later].flatten(0, 1)
        out = torch.empty_like(x)
        out[:, earlier] = (a + attention(a, b)).unflatten(0, (len(x), len(earlier)))
        out[:, later] = (b + attention(b, a)).unflatten(0, (len(x), len(later)))
        return out
