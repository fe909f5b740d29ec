"""The slow and the fast network: picture in, stride-8 features and a stride-4 map of details out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mila_ros.models.backbones import Backbone
from mila_ros.models.config import ModelConfig
from mila_ros.models.cross_attention import SequentialCrossAttention
from mila_ros.models.layers import ConvBlock, PyramidContext, ResidualBlock, resize, separable
from mila_ros.models.propagation import Carried


class Features(NamedTuple):
    """What heads read."""

    coarse: Tensor
    """(B, C, H / 8, W / 8): meaning; of one kind for both networks, so that one can be carried to the other."""
    detail: Tensor
    """(B, C_d, H / 4, W / 4): edges, from the picture itself."""
    height: int
    """Of the resized picture before padding, in pixels."""
    width: int
    zoom: float
    """Size of the resized picture over that of the camera's."""
    slow: bool
    """Which network's heads answer."""
    by_task: Mapping[str, Tensor] | None = None
    """In place of `coarse`, for the tasks named: after propagation each may have been looked up on its own."""
    details: Mapping[str, Tensor] | None = None
    """Beside `detail`, for the tasks named: the keyframe's, where they are now (`warp`)."""
    match: Tensor | None = None
    """(B,): how alike this frame and its keyframe look (propagation.py); None where that is not known."""
    apart: bool = False
    """`by_task` and `details` are a keyframe's, for the slow heads; `coarse` and `detail` are this frame's own."""

    def of(self, task: str) -> Tensor:
        """The stride-8 map that a task's head reads."""
        return self.coarse if self.by_task is None else self.by_task[task]

    def joined(self, carried: Mapping[str, Carried]) -> Features:
        """With what propagation brought, by task."""
        details = {task: brought.detail for task, brought in carried.items() if brought.detail is not None}
        match = next((brought.match for brought in carried.values()), None)
        coarse = {task: brought.coarse for task, brought in carried.items()}
        apart = any(brought.apart for brought in carried.values())
        return self._replace(by_task=coarse, details=details or None, match=match, apart=apart)


class SlowNetwork(nn.Module):
    """Backbone to stride 32, context over the whole picture, top-down decoder to stride 8 (FPN, Lin et al. 2017)."""

    def __init__(
        self,
        backbone: str,
        channels: int,
        out_channels: int,
        pretrained: bool,
        cross_tasks: int = 0,
        zoom: float = 1.0,
    ) -> None:
        """
        cross_tasks: how many tasks attend to each other between strides 32 and 16; 0: no cross attention.
        zoom: pictures are enlarged about so much first; what comes out has the cells of the picture that came in.
        """
        super().__init__()
        self.zoom = zoom
        self.backbone = Backbone(backbone, (4, 8, 16, 32), pretrained, drop_path=0.1)
        c4, c8, c16, c32 = self.backbone.channels
        self.detail_channels = c4
        self.context = PyramidContext(c32, channels)
        self.lateral16 = ConvBlock(c16, channels)
        self.merge16 = ConvBlock(channels, channels, 3)
        self.cross = SequentialCrossAttention(cross_tasks, channels) if cross_tasks else None
        self.lateral8 = ConvBlock(c8, channels)
        self.fuse = nn.Sequential(ConvBlock(3 * channels, channels), nn.Dropout2d(0.1))
        self.refine = nn.Sequential(
            ResidualBlock(channels), ResidualBlock(channels), nn.Conv2d(channels, out_channels, 1)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), RGB in 0..1, H and W multiples of 32 -> (B, C, H/8, W/8), (B, C_d, H/4, W/4)."""
        height, width = image.shape[-2:]
        coarse, detail = self._seen(resize(image, self.seen_size(height, width)))
        return resize(coarse, (height // 8, width // 8)), resize(detail, (height // 4, width // 4))

    def seen_size(self, height: int, width: int) -> tuple[int, int]:
        """The size (h, w) to which a picture is enlarged: multiples of 32, so its sides may grow unlike by some %."""
        if self.zoom == 1.0:
            return height, width
        return max(1, round(height * self.zoom / 32)) * 32, max(1, round(width * self.zoom / 32)) * 32

    def _seen(self, image: Tensor) -> tuple[Tensor, Tensor]:
        f4, f8, f16, f32 = self.backbone(image)
        p32 = self.context(f32)
        if self.cross is not None:
            p32 = self.cross.deepest(p32)
        p16 = self.merge16(self.lateral16(f16) + resize(p32, f16.shape[-2:]))
        if self.cross is not None:
            p16, p32 = self.cross(p16, p32)
        p8 = self.lateral8(f8) + resize(p16, f8.shape[-2:])
        levels = [p8, resize(p16, f8.shape[-2:]), resize(p32, f8.shape[-2:])]
        return self.refine(self.fuse(torch.cat(levels, dim=1))), f4


class FastNetwork(nn.Module):
    """A backbone's first stages on the half-size picture: a quarter of the positions, most of the cues for matching."""

    quarter: Tensor

    def __init__(self, backbone: str, channels: int, hidden: int, trim: int, pretrained: bool) -> None:
        """
        hidden: channels before the last layer.
        trim: how many of the last blocks of the backbone's deepest stage are left out.
        """
        super().__init__()
        strides = (2, 4, 8, 16)  # 4, 8, 16, 32 of the full picture
        self.backbone = Backbone(backbone, strides, pretrained, trim=trim)
        c4, c8, c16, c32 = self.backbone.channels
        self.detail_channels = c4
        self.lateral32 = ConvBlock(c32, channels // 2)
        self.lateral16 = ConvBlock(c16, channels // 2)
        self.merge16 = separable(channels // 2, channels // 2, 5)
        self.lateral8 = ConvBlock(c8, channels // 2)
        # Ends without ReLU: what it is to resemble, the slow network's features, has both signs.
        self.merge8 = nn.Sequential(separable(channels // 2, hidden), nn.Conv2d(hidden, channels, 1))
        self.register_buffer("quarter", torch.full((1, 1, 1, 1), 0.25), persistent=False)

    @classmethod
    def of(cls, config: ModelConfig, pretrained: bool) -> FastNetwork:
        """As a configuration has it."""
        return cls(config.fast_backbone, config.channels, config.fast_hidden_width, config.fast_trim, pretrained)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), RGB in 0..1, H and W multiples of 32 -> (B, C, H/8, W/8), (B, C_d, H/4, W/4)."""
        # The mean of each 2 x 2 pixels; as a convolution it takes a tenth of avg_pool2d's time on a CPU.
        half = F.conv2d(image, self.quarter.expand(3, 1, 2, 2), stride=2, groups=3)
        f4, f8, f16, f32 = self.backbone(half)
        p16 = self.merge16(self.lateral16(f16) + resize(self.lateral32(f32), f16.shape[-2:]))
        return self.merge8(self.lateral8(f8) + resize(p16, f8.shape[-2:])), f4
