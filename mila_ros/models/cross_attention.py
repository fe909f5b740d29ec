"""Sequential cross attention: tasks look at each other, then each task looks at its own coarser scale.

Source: Kim, Choi, Min, "Sequential Cross Attention Based Multi-Task Learning", ICIP 2022. Three parts: self-attention
over the encoder's deepest features; the cross-task attention module (CTAM), in which every task's map at one scale
asks the other tasks' maps at that scale; the cross-scale attention module (CSAM), in which each task's finer map asks
its coarser one. Tasks first and scales second, since all scales and tasks at once would be quadratic in both.

Differences from the paper: it stands inside the slow network's decoder at strides 16 and 32, not at all four scales,
for attention over all pairs of positions at stride 8 would cost several times the network; at stride 16 keys and
values are means of 2 x 2 positions (spatial reduction, PVT, Wang et al. 2021); after it tasks are joined again, for
one map is carried from keyframes; self-attention is plain, not shifted windows. The result is a residual that starts
at zero, so a trained decoder can be given it (stage slow, `start`).

Cost, for K tasks of c channels and N = H * W positions at stride 32: CTAM 20 K (K - 1) c N^2 FLOPs, CSAM 16 K c N^2,
self-attention over C channels 4 C N^2; and their projections, 8 c^2 a position at most.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from mila_ros.models.layers import ConvBlock, multi_head_attention


class CrossAttention(nn.Module):
    """One map asks others, by all pairs of positions: (B, C, H, W), n x (B, C, h, w) -> (B, C, H, W), a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.norm_asked = LayerNorm2d(channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key_value = nn.Conv2d(channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, asking: Tensor, asked: list[Tensor]) -> Tensor:
        keys, values = zip(*(self.key_value(self.norm_asked(x)).chunk(2, dim=1) for x in asked), strict=True)
        return asking + self.out(multi_head_attention(self.query(self.norm(asking)), keys, values))


class CrossTask(nn.Module):
    """CTAM: K maps (B, C, H, W), one a task -> the same, each with what it found in the others.

    One task has nobody to ask and passes through.

    Args:
        tasks: K.
        channels: C.
        shrink: side of the square of positions whose mean is one key.
    """

    def __init__(self, tasks: int, channels: int, shrink: int = 1) -> None:
        super().__init__()
        self.shrink = shrink
        self.ask = nn.ModuleList([CrossAttention(channels) for _ in range(tasks)] if tasks > 1 else [])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        if not self.ask:
            return maps
        asked = [_shrunk(x, self.shrink) for x in maps]
        return [ask(maps[i], asked[:i] + asked[i + 1 :]) for i, ask in enumerate(self.ask)]


class CrossScale(nn.Module):
    """CSAM: each task's finer map asks the same task's coarser one; K x (B, C, H, W), K x (B, C, h, w) -> the finer."""

    def __init__(self, tasks: int, channels: int) -> None:
        super().__init__()
        self.ask = nn.ModuleList([CrossAttention(channels) for _ in range(tasks)])

    def forward(self, finer: list[Tensor], coarser: list[Tensor]) -> list[Tensor]:
        return [ask(fine, [coarse]) for ask, fine, coarse in zip(self.ask, finer, coarser, strict=True)]


class SequentialCrossAttention(nn.Module):
    """Self-attention, CTAM and CSAM between the decoder's maps at strides 32 and 16.

    Args:
        tasks: how many.
        channels: of the decoder.
        width: of a task's own maps.
    """

    def __init__(self, tasks: int, channels: int, width: int = 64) -> None:
        super().__init__()
        self.self_attention = CrossAttention(channels)
        self.split32 = nn.ModuleList([ConvBlock(channels, width) for _ in range(tasks)])
        self.split16 = nn.ModuleList([ConvBlock(channels, width) for _ in range(tasks)])
        self.tasks32 = CrossTask(tasks, width)
        self.tasks16 = CrossTask(tasks, width, shrink=2)
        self.scales = CrossScale(tasks, width)
        self.join32 = nn.Conv2d(tasks * width, channels, 1)
        self.join16 = nn.Conv2d(tasks * width, channels, 1)
        for layer in (self.self_attention.out, self.join32, self.join16):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def deepest(self, p32: Tensor) -> Tensor:
        """Self-attention over the deepest features: (B, C, H/32, W/32) -> same."""
        attended: Tensor = self.self_attention(p32, [p32])
        return attended

    def forward(self, p16: Tensor, p32: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H/16, W/16), (B, C, H/32, W/32) -> the same, each with what the tasks found out together."""
        coarser = self.tasks32([split(p32) for split in self.split32])
        finer = self.scales(self.tasks16([split(p16) for split in self.split16]), coarser)
        return p16 + self.join16(torch.cat(finer, dim=1)), p32 + self.join32(torch.cat(coarser, dim=1))


def _shrunk(x: Tensor, side: int) -> Tensor:
    return x if side == 1 else F.avg_pool2d(x, side, ceil_mode=True)
