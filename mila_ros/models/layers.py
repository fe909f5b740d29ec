"""Convolution blocks and resampling that every network here is built from."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation, ReLU: (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, groups: int = 1, relu: bool = True) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(c_out),
        ]
        if relu:
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution."""
        layer = self[0]
        assert isinstance(layer, nn.Conv2d)
        return layer

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The normalisation; not there any more once it was folded (fuse.py)."""
        layer = self[1]
        assert isinstance(layer, nn.BatchNorm2d)
        return layer


def separable(c_in: int, c_out: int, kernel: int = 3) -> nn.Sequential:
    """Depthwise then pointwise convolution (MobileNet, Howard et al. 2017), each with normalisation."""
    return nn.Sequential(ConvBlock(c_in, c_in, kernel, groups=c_in, relu=False), ConvBlock(c_in, c_out))


class ResidualBlock(nn.Module):
    """x + conv(conv(x)) (He et al. 2016): (B, C, H, W) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvBlock(channels, channels, 3), ConvBlock(channels, channels, 3, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x), inplace=not torch.is_grad_enabled())


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, pixel centres aligned as OpenCV does: (B, C, H, W) -> (B, C, *size)."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """As `resize`, for answers of a few channels: (B, C, H, W) float32, C at most 4 -> (B, C, *size).

    On a CPU, where nothing is learned, by OpenCV: a tenth of PyTorch's time.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return resize(x, size)
    channels_last = x.permute(0, 2, 3, 1).contiguous().numpy()
    pictures = [cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR) for picture in channels_last]
    large = torch.stack([torch.from_numpy(picture).view(*size, -1) for picture in pictures])
    return large.permute(0, 3, 1, 2)


def sample_at(x: Tensor, shift: Tensor, step: int = 1) -> Tensor:
    """A map looked up beside each position, bilinear; beyond the border its last row or column.

    Args:
        x: (B, C, H, W).
        shift: (B, 2, h, w), columns and rows of x: from each position to the place that is looked up.
        step: h and w are those of every `step`-th row and column of x.

    Returns:
        (B, C, h, w) of x's type; the arithmetic is in single precision, since places need it.
    """
    height, width = x.shape[-2:]
    rows = torch.arange(0, height, step, device=x.device, dtype=torch.float32) + 0.5
    columns = torch.arange(0, width, step, device=x.device, dtype=torch.float32) + 0.5
    shift = shift.float()
    # -1 and 1 are the outer edges of the first and the last pixel.
    grid = torch.stack(
        [(shift[:, 0] + columns) * (2.0 / width) - 1.0, (shift[:, 1] + rows[:, None]) * (2.0 / height) - 1.0], dim=-1
    )
    found = F.grid_sample(x.float(), grid, "bilinear", "border", align_corners=False)
    return found.to(x.dtype, memory_format=torch.channels_last)  # as convolutions are fastest


def finished(made: Tensor) -> None:
    """Wait for what is kept for later: on a GPU it may be another stream that reads it."""
    if made.is_cuda:
        torch.cuda.current_stream(made.device).synchronize()


HEAD_CHANNELS = 32
"""Of an attention head, at least."""


def multi_head_attention(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Every position of one map attends to all positions of others.

    Args:
        query: (B, C, H, W).
        keys, values: (B, C, h, w) each, of any sizes.

    Returns:
        (B, C, H, W).
    """
    heads = max(1, query.shape[1] // HEAD_CHANNELS)
    while query.shape[1] % heads:  # as many as divide the channels evenly
        heads -= 1

    def by_head(x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, heads, H * W, C / heads)
        return x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)

    key, value = (torch.cat([by_head(x) for x in maps], dim=2) for maps in (keys, values))
    found = F.scaled_dot_product_attention(by_head(query), key, value)
    return found.transpose(2, 3).reshape(query.shape)


def check_same_size(frame: tuple[int, ...], keyframe: tuple[int, ...]) -> None:
    """Raises:
    ValueError: the keyframe's map (h, w) has another size than the frame's: the camera's resolution has changed.
    """
    if tuple(frame) != tuple(keyframe):
        raise ValueError(
            f"keyframe of {keyframe[0]} x {keyframe[1]} cells cannot answer a frame of {frame[0]} x {frame[1]}: "
            "make a new keyframe"
        )


class PyramidContext(nn.Module):
    """Pyramid pooling (PSPNet, Zhao et al. 2017): each position sees averages over the whole picture.

    (B, C_in, H, W) -> (B, C_out, H, W).
    """

    def __init__(self, c_in: int, c_out: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        inner = max(8, c_in // len(bins))
        self.bins = bins
        self.branches = nn.ModuleList([ConvBlock(c_in, inner) for _ in bins])
        self.project = ConvBlock(c_in + inner * len(bins), c_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for side, branch in zip(self.bins, self.branches, strict=True):
            maps.append(resize(branch(F.adaptive_avg_pool2d(x, side)), x.shape[-2:]))
        return self.project(torch.cat(maps, dim=1))
