"""Local attention whose windows are moved, tile by tile, to where a coarse search has found the tile in the keyframe.

A window of P x P cells sees nothing of what has moved further than P / 2, and a larger one costs its square. So each
tile of queries first looks for itself as a whole: what it looks like at half the resolution is compared with the
keyframe at every displacement within reach, its neighbours are heard, and the best displacement is where its window is
laid (block matching, as in video coding; coarse to fine, as in optical flow since Lucas and Kanade, 1981). The paper's
windows stay where they are; with moved ones a smaller window is enough.

The search has no parameters and no gradient: it compares the very queries and keys that attention learns to compare,
so a network that was trained without it can be given it.

Cost beside attention's: 2 * H / 2 * W / 2 * (t + 2 R)^2 * C_qk FLOPs, with R the reach and t the tile's side in cells
of half the resolution; and keys and values are gathered for each frame, not once a keyframe.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mila_ros.models.ila import LocalAttention, attend, grid, halo, padded, tiled, untiled, window_pairs
from mila_ros.models.layers import check_same_size, finished

_STEP = 2
"""Cells: displacements that are tried are multiples of it, and looks are means over squares of it."""
_OUTSIDE = -1e4
"""Score of a key outside the picture: no softmax gives it weight."""
_NEARNESS = 0.02
"""How much better (in cosine) a match must be for each step further away: an even wall should stay where it is."""


class SearchedMaps(NamedTuple):
    """A keyframe prepared for look-up: its maps, with a border as wide as windows can be laid beyond the picture.

    n = tiles in the picture, h and w = height and width with that border, k = side of what is searched around a tile.
    """

    keys: Tensor
    """(B, h * w, C): keys, then a channel that tells what lies outside, then zeros."""
    values: Tensor
    """(B, h * w, C): values, then zeros."""
    looks: Tensor
    """(B, n, C_qk, k * k): what half the resolution looks like around each tile, unit vectors or (outside) zeros."""
    height: int
    """Of the feature map, in cells."""
    width: int


class SearchedAttention(LocalAttention):
    """As LocalAttention, in windows that follow what has moved; one keyframe.

    Args:
        reach: cells, even: how far from a tile its window may be laid, along each axis.
        named: LocalAttention's; `tile` is even and `frames` 1.
    """

    def __init__(self, *, reach: int, **named: Any) -> None:
        super().__init__(**named)
        if reach % _STEP or self.tile % _STEP or self.frames > 1:
            raise ValueError(f"reach {reach}, tile {self.tile}: both must be even, and one keyframe, not {self.frames}")
        self.reach = reach

    def remember(self, described: Tensor, carried: Tensor) -> SearchedMaps:  # type: ignore[override]
        """Project a keyframe: (B, key_in, H, W), (B, value_in, H, W) -> SearchedMaps. Once a keyframe."""
        height, width = described.shape[-2:]
        keys, values = self.key(described), self.value(carried)
        looks = halo(_halved(keys.detach()), self.tile // _STEP, self.reach // _STEP).transpose(-1, -2).contiguous()
        inside = self._bordered(torch.ones_like(keys[:, :1]))[..., 0]
        keys = self._bordered(keys)
        keys[..., self.query_channels] = (1 - inside) * _OUTSIDE
        return SearchedMaps(keys, self._bordered(values), looks, height, width)

    def look(self, features: Tensor, memory: SearchedMaps) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """As LocalAttention's; the displacement that is told is that of the window and that within it together."""
        height, width = features.shape[-2:]
        check_same_size((height, width), (memory.height, memory.width))
        plan = _plan(height, width, self.tile, self.window, self.reach, features.device)
        queries = self.query(features)
        moved = self.search(queries, memory)
        index = plan.first + (moved[..., 1:] * plan.across + moved[..., :1])
        keys, values = _gathered(memory.keys, index), _gathered(memory.values, index)
        if self.locate:
            at = self.value_channels
            values.add_(F.pad(self._places(values), (at, values.shape[-1] - at - 2)))
        tiles = tiled(queries, self.tile)
        # The channel behind a query's own listens to what keys say of lying outside.
        tiles = torch.cat([tiles, tiles.new_ones(*tiles.shape[:-1], 1)], dim=-1)
        tiles = F.pad(tiles, (0, keys.shape[-1] - tiles.shape[-1]))
        bias = self.position_bias.to(tiles.dtype)[plan.entry].masked_fill(plan.far, -torch.inf)[None, None]
        found = attend(tiles, keys, values, bias, self.query_channels**-0.5)
        carried, shift = self._split(found, height, width)
        if shift is None:
            return carried, None
        laid = moved.to(shift.dtype)[:, :, None].expand(-1, -1, self.tile**2, -1)
        return carried, shift + untiled(laid, self.tile, height, width)

    @torch.no_grad()
    def search(self, queries: Tensor, memory: SearchedMaps) -> Tensor:
        """Where each tile was, as a whole: (B, C_qk, H, W) -> (B, n, 2), columns and rows, in cells, int64."""
        plan = _plan(memory.height, memory.width, self.tile, self.window, self.reach, queries.device)
        own = tiled(_halved(queries), self.tile // _STEP)
        scores = torch.matmul(own, memory.looks).flatten(2)[:, :, plan.pairs].float().sum(dim=2)
        scores = _heard(scores, plan.rows, plan.columns) * plan.share + plan.favour
        return plan.steps[scores.argmax(dim=2)] * _STEP

    def _bordered(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, h * w, C'): zeros around it, and behind it as many as attention needs."""
        rows, columns = grid(x.shape[-2], x.shape[-1], self.tile)
        edge = self.reach + self.window // 2
        right, bottom = columns * self.tile - x.shape[-1] + edge, rows * self.tile - x.shape[-2] + edge
        x = F.pad(x, (edge, right, edge, bottom)).flatten(2).transpose(1, 2)
        return padded(x, max(self.query_channels + 1, self.value_channels + 2)).contiguous()


class _Plan(NamedTuple):
    """What depends on sizes alone. D displacements, (Q, K) pairs of a tile's queries and its window's keys."""

    first: Tensor
    """(n, K): indices of each tile's window in a bordered map, as long as it is not moved."""
    across: int
    """The bordered map's width."""
    entry: Tensor
    """(Q, K): the position bias of each pair."""
    far: Tensor
    """(Q, K): pairs further apart than the window."""
    rows: int
    columns: int
    """Of tiles."""
    steps: Tensor
    """(D, 2): columns and rows, in steps."""
    pairs: Tensor
    """(t * t, D): which pairs of looks, flattened, are to be compared for each displacement."""
    share: Tensor
    """(n, D): one over how many comparisons lay inside the picture."""
    favour: Tensor
    """(n, D): less the further away, minus infinity where the most lies outside the picture."""


@functools.lru_cache(maxsize=16)
def _plan(height: int, width: int, tile: int, window: int, reach: int, device: torch.device) -> _Plan:
    with torch.inference_mode(False), torch.no_grad(), device:  # kept for training, too, where no inference tensor goes
        rows, columns = grid(height, width, tile)
        k, across = tile + window - 1, columns * tile + 2 * (reach + window // 2)
        corner = (torch.arange(rows)[:, None] * tile + reach) * across + torch.arange(columns) * tile + reach
        inner = torch.arange(k)[:, None] * across + torch.arange(k)
        entry, near = window_pairs(tile, window, device)

        t, r = tile // _STEP, reach // _STEP
        dy, dx = (x.flatten() for x in torch.meshgrid(*2 * [torch.arange(2 * r + 1)], indexing="ij"))
        y, x = (x.flatten()[:, None] for x in torch.meshgrid(*2 * [torch.arange(t)], indexing="ij"))
        side = t + 2 * r
        pairs = (y * t + x) * side**2 + (y + dy) * side + (x + dx)
        steps = torch.stack([dx - r, dy - r], dim=1)
        here = _halved(torch.ones(1, 1, height, width))
        both = (tiled(here, t) * halo(here, t, r)[..., 0][..., pairs % side**2]).sum(dim=2)
        favour = (-_NEARNESS * steps.float().norm(dim=1)).expand_as(both)
        stays = both[..., len(steps) // 2, None]  # less than t * t where tiles themselves reach beyond the picture
        favour = favour.masked_fill(both < 0.5 * stays, -torch.inf)
        share = 1 / _heard(both, rows, columns).clamp(min=1)
        first = corner.flatten()[:, None] + inner.flatten()
        finished(first)
        return _Plan(first, across, entry, ~near, rows, columns, steps, pairs, share, favour)


def _halved(x: Tensor) -> Tensor:
    """What squares of 2 x 2 look like: (B, C, H, W) -> (B, C, H / 2, W / 2), rounded up; unit vectors."""
    return F.normalize(F.avg_pool2d(x, _STEP, ceil_mode=True, count_include_pad=False), dim=1)


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, C), (B, n, k) -> (B, n, k, C)."""
    batch, places, channels = x.shape
    start = torch.arange(batch, device=x.device).view(-1, 1, 1) * places
    return x.flatten(0, 1).index_select(0, (index + start).flatten()).view(*index.shape, channels)


def _heard(scores: Tensor, rows: int, columns: int) -> Tensor:
    """(B, n, D): sums over each tile and its eight neighbours, its own thrice."""
    b, _, d = scores.shape
    x = scores.transpose(1, 2).reshape(b, d, rows, columns)
    x = 9 * F.avg_pool2d(x, 3, 1, 1) + 2 * x
    return x.flatten(2).transpose(1, 2)
