"""Inter-frame local attention (ILA): for every position of the current frame, where was it in the keyframe?

Source: Kim et al., "MILA: Multi-Task Learning from Videos via Efficient Inter-Frame Attention", ICCVW 2021. Every
position of the current feature map is a query; the P x P positions around it in the keyframe's map are its keys and
values; softmax over the window, or over the windows of T remembered keyframes at once (multi-frame, MF). Cost:
2 * H * W * T * P^2 * (C_qk + C_v) FLOPs, plus the projections.

Differences from the paper: queries are grouped in tiles that share one haloed tile of keys, so that the whole look-up
is one `scaled_dot_product_attention` (several times the arithmetic of the bare window, and still far faster than
gathering P x P keys for each query); a learned bias for each relative position; positions outside the picture are
masked with minus infinity, since zero padding would take weight. With `locate` the window's own coordinates are
carried as two more values, which gives the mean displacement (a soft argmax) for almost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mila_ros.models.layers import check_same_size, finished

_MATCH_GAIN = 2.0
"""Scale of queries and keys at the start: features of unit variance that agree outweigh those that do not."""
_NEARNESS = 2.5
"""Cells: spread of the bell with which near places are preferred at the start."""
_RECENCY = 1.0
"""By how much (in the logarithm of the weight) a keyframe is preferred to the one before it at the start."""
_MASKS_KEPT = 8
"""Sizes of pictures, and numbers of keyframes, whose masks are kept."""


class KeyTiles(NamedTuple):
    """Keyframes prepared for look-up, once: keys and values of each query tile with its halo.

    n = tiles in the picture, k = tile + window - 1, T = keyframes, the newest first.
    """

    keys: Tensor
    """(B, n, T * k * k, C_qk); with `locate` zeros behind them."""
    values: Tensor
    """(B, n, T * k * k, C_v); with `locate` columns and rows behind them, then zeros."""
    height: int
    """Of the feature map, in cells."""
    width: int


def attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention within each tile: (B, n, q, C), (B, n, k, C) twice, (1, n or 1, q, k) -> (B, n, q, C)."""
    half = queries.dtype == torch.bfloat16
    if queries.device.type == "cpu" and (half or torch.compiler.is_exporting()) and not torch.is_grad_enabled():
        # On a CPU the fused kernel takes twice the time of two plain products in bfloat16, since tiles are small; and
        # it is the queries that are turned, since they are few.
        scores = torch.matmul(keys, (queries * scale).transpose(-1, -2)).float() + bias.transpose(-1, -2)
        return torch.matmul(scores.softmax(dim=-2).to(values.dtype).transpose(-1, -2), values)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=scale)


def grid(height: int, width: int, tile: int) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return -(-height // tile), -(-width // tile)


def tiled(x: Tensor, tile: int) -> Tensor:
    """(B, C, H, W) -> (B, n, tile * tile, C), zeros beyond the border."""
    rows, columns = grid(x.shape[-2], x.shape[-1], tile)
    right, bottom = columns * tile - x.shape[-1], rows * tile - x.shape[-2]
    if right or bottom:  # even a padding by nothing is a copy
        x = F.pad(x, (0, right, 0, bottom))
    b, c = x.shape[:2]
    # Channels last, a row of a tile is one piece of memory: all that is swapped are such pieces.
    x = x.permute(0, 2, 3, 1).reshape(b * rows, tile, columns, tile * c).transpose(1, 2)
    return x.reshape(b, rows * columns, tile * tile, c)


def untiled(x: Tensor, tile: int, height: int, width: int) -> Tensor:
    """The reverse of `tiled`."""
    rows, columns = grid(height, width, tile)
    b, _, _, c = x.shape
    x = x.reshape(b * rows, columns, tile, tile * c).transpose(1, 2)
    x = x.reshape(b, rows * tile, columns * tile, c)[:, :height, :width].permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def halo(x: Tensor, tile: int, radius: int) -> Tensor:
    """(B, C, H, W) -> (B, n, k * k, C), k = tile + 2 * radius: each tile and what is around it, zeros outside."""
    rows, columns = grid(x.shape[-2], x.shape[-1], tile)
    right, bottom = columns * tile - x.shape[-1] + radius, rows * tile - x.shape[-2] + radius
    x = F.pad(x, (radius, right, radius, bottom))
    k = tile + 2 * radius
    b, c = x.shape[:2]
    x = x.unfold(2, k, tile).unfold(3, k, tile)  # (B, C, rows, columns, k, k)
    return x.permute(0, 2, 3, 4, 5, 1).reshape(b, rows * columns, k * k, c)


def window_pairs(tile: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each (query, key) pair of a tile and its halo, (tile * tile, k * k): which of the window's places the key has
    (0..window * window - 1), and whether it lies inside the window at all."""
    k = tile + window - 1
    offset = torch.arange(k, device=device)[None, :] - torch.arange(tile, device=device)[:, None]
    inside = (offset >= 0) & (offset < window)
    offset = offset.clamp(0, window - 1)
    near = (inside[:, None, :, None] & inside[None, :, None, :]).reshape(tile * tile, k * k)
    index = (offset[:, None, :, None] * window + offset[None, :, None, :]).reshape(tile * tile, k * k)
    return index, near


def padded(x: Tensor, channels: int) -> Tensor:
    """Zeros behind the last dimension, to a multiple of eight of at least `channels`, as a GPU's kernels want it."""
    return F.pad(x, (0, -(-channels // 8) * 8 - x.shape[-1]))


class LocalAttention(nn.Module):
    """Look-up of each query position in a P x P window of one or more keyframes.

    Args:
        query_in: channels of the current frame's features.
        key_in: channels of the keyframe features that describe a place.
        value_in: channels of the keyframe features that are carried.
        query_channels: C_qk.
        value_channels: C_v.
        window: P, odd, in cells.
        tile: side of a query tile in cells; speed only.
        frames: T, how many keyframes are looked up together.
        locate: also tell where each position looked, for two more channels of values (`look`).
    """

    def __init__(
        self,
        query_in: int,
        key_in: int,
        value_in: int,
        query_channels: int,
        value_channels: int,
        window: int,
        tile: int,
        frames: int = 1,
        locate: bool = False,
    ) -> None:
        super().__init__()
        self.locate = locate
        self.query_channels, self.value_channels = query_channels, value_channels
        self.window = window
        self.tile = tile
        self.frames = frames
        self.query = nn.Conv2d(query_in, query_channels, 1)
        self.key = nn.Conv2d(key_in, query_channels, 1)
        self.value = nn.Conv2d(value_in, value_channels, 1)
        self.position_bias = nn.Parameter(torch.zeros(window * window))
        if frames > 1:
            self.age_bias = nn.Parameter(torch.zeros(frames))
        self._masks: dict[tuple[int, int, int], Tensor] = {}

    @torch.no_grad()
    def start_as_look_up(self) -> None:
        """Weights with which a place finds its like nearby and brings it back as it is.

        Needs equal channels of query and key features, and of value features and values.
        """
        nn.init.orthogonal_(self.query.weight.flatten(1), gain=_MATCH_GAIN)
        self.key.weight.copy_(self.query.weight)
        nn.init.dirac_(self.value.weight)
        for layer in (self.query, self.key, self.value):
            if layer.bias is not None:
                layer.bias.zero_()
        r = self.window // 2
        offset = torch.arange(-r, r + 1, dtype=torch.float32)
        square = offset[:, None] ** 2 + offset[None, :] ** 2
        self.position_bias.copy_(-square.flatten() / (2 * _NEARNESS**2))
        if self.frames > 1:
            self.age_bias.copy_(-_RECENCY * torch.arange(self.frames))

    def train(self, mode: bool = True) -> LocalAttention:
        """Switch modes; the learned bias may change in training, so the mask made from it is not kept."""
        self._masks = {}
        super().train(mode)
        return self

    def remember(self, described: Tensor, carried: Tensor) -> KeyTiles:
        """Project and tile a keyframe: (B, key_in, H, W), (B, value_in, H, W) -> KeyTiles. Once a keyframe."""
        height, width = described.shape[-2:]
        keys, values = (halo(x, self.tile, self.window // 2) for x in (self.key(described), self.value(carried)))
        if self.locate:
            places = self._places(values)
            values = torch.cat([values, places[None, None].expand(*values.shape[:2], -1, -1)], dim=-1)
            keys, values = self._of_one_width(keys), self._of_one_width(values)
        return KeyTiles(keys, values, height, width)

    def joined(self, newest: KeyTiles, before: Sequence[KeyTiles]) -> KeyTiles:
        """Keyframes to look up together, of one size each: the newest, and those before it (the latest first)."""
        used = [newest, *before[: self.frames - 1]]
        if len(used) == 1:
            return newest
        keys, values = torch.cat([t.keys for t in used], dim=2), torch.cat([t.values for t in used], dim=2)
        return newest._replace(keys=keys, values=values)

    def forward(self, features: Tensor, memory: KeyTiles) -> Tensor:
        """(B, query_in, H, W) and up to T keyframes of the same H, W -> what was found there, (B, C_v, H, W).

        Raises: as `look`.
        """
        return self.look(features, memory)[0]

    def look(self, features: Tensor, memory: KeyTiles) -> tuple[Tensor, Tensor | None]:
        """As `forward`, and where it was found if `locate` is on: (B, 2, H, W), columns and rows from each position to
        the mean of the places that it looked at, in cells.

        Raises:
            ValueError: the keyframe has another size (after a change of resolution it must be made anew).
        """
        height, width = features.shape[-2:]
        check_same_size((height, width), (memory.height, memory.width))
        queries = tiled(self.query(features), self.tile)
        if self.locate:
            queries = self._of_one_width(queries)
        side = self.tile + self.window - 1
        bias = self._bias(height, width, memory.keys.shape[2] // (side * side), queries)
        scale = self.query_channels**-0.5
        found = attend(queries, memory.keys, memory.values, bias, scale)
        return self._split(found, height, width)

    def _split(self, found: Tensor, height: int, width: int) -> tuple[Tensor, Tensor | None]:
        """(B, n, tile * tile, C) -> values, and displacements if they were looked up, too."""
        values = untiled(found[..., : self.value_channels], self.tile, height, width)
        if not self.locate:
            return values, None
        # From the middle of the halo to the query: what is left is how far away it looked.
        exact = torch.promote_types(found.dtype, torch.float32)
        places = found[..., self.value_channels : self.value_channels + 2].to(exact)
        return values, untiled(places - self._places(found, self.tile).to(exact), self.tile, height, width)

    def _of_one_width(self, x: Tensor) -> Tensor:
        """Zeros behind the channels: fused attention wants all of one width."""
        return padded(x, max(self.query_channels, self.value_channels + 2))

    def _places(self, like: Tensor, side: int | None = None) -> Tensor:
        """(n, 2): column and row of each position of a tile or (None) of its halo, in cells from their middle.

        Small numbers in steps of a half, which bfloat16 holds exactly.
        """
        side = self.tile + self.window - 1 if side is None else side
        steps = torch.arange(side, device=like.device, dtype=like.dtype) - (side - 1) / 2
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        return torch.stack([columns, rows], dim=-1).flatten(0, 1)

    def _bias(self, height: int, width: int, frames: int, like: Tensor) -> Tensor:
        """(1, n, tile * tile, T * k * k): learned inside the window, minus infinity outside it or the picture."""
        constant = not self.position_bias.requires_grad or not torch.is_grad_enabled()
        key = (height, width, frames)
        kept = self._masks.get(key) if constant and not self.training else None
        if kept is not None and kept.dtype == like.dtype and kept.device == like.device:
            return kept
        index, visible = self._geometry(height, width, like.device)
        bias = self.position_bias.to(like.dtype)[index]
        bias = bias.masked_fill(~visible, float("-inf"))[None]
        if self.frames > 1:
            bias = torch.cat([bias + self.age_bias[age].to(like.dtype) for age in range(frames)], dim=-1)
        if constant and not self.training:
            # Cameras may differ in size; fewer than T keyframes are there only at the beginning.
            latest = list(self._masks.items())[1 - _MASKS_KEPT :]
            finished(bias)
            self._masks = dict(latest) | {key: bias}
        return bias

    def _geometry(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which entry of the position bias belongs to each (query, key) pair, and which pairs may see each other."""
        t, r = self.tile, self.window // 2
        k = t + 2 * r
        rows, columns = grid(height, width, t)
        index, near = window_pairs(t, self.window, device)
        query, around = torch.arange(t, device=device), torch.arange(k, device=device)

        def outside(cells: int, tiles: int) -> tuple[Tensor, Tensor]:
            start = torch.arange(tiles, device=device)[:, None] * t
            keys = start - r + around[None, :]
            return (keys < 0) | (keys >= cells), (start + query[None, :]) >= cells

        key_out_y, query_out_y = outside(height, rows)
        key_out_x, query_out_x = outside(width, columns)
        key_out = key_out_y[:, None, :, None] | key_out_x[None, :, None, :]
        query_out = query_out_y[:, None, :, None] | query_out_x[None, :, None, :]
        # A query of the padding is thrown away; it may see anything, since a row of nothing but -inf is NaN and
        # would poison the gradients.
        visible = near & (~key_out.reshape(rows * columns, 1, k * k) | query_out.reshape(rows * columns, t * t, 1))
        return index, visible
