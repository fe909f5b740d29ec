"""Propagation by inter-frame local attention, MILA's own; how what it finds is joined with what is seen now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mila_ros.models.config import ModelConfig
from mila_ros.models.ila import KeyTiles, LocalAttention
from mila_ros.models.layers import resize, sample_at
from mila_ros.models.propagation import Carried, Joining, Keyframe, Propagation
from mila_ros.models.searched import SearchedAttention


class Remembered(NamedTuple):
    """Keyframes as propagation wants them; the keys are names of look-ups."""

    newest: Mapping[str, KeyTiles]
    before: tuple[Mapping[str, KeyTiles], ...]
    """The keyframes before it that are still looked up, the latest first."""
    together: Mapping[str, KeyTiles]
    """All of them joined: once a keyframe, not once a frame."""
    maps: Keyframe | None
    """The newest keyframe itself, kept where it is to be warped."""


class LookUp(nn.Module):
    """Local attention, and a residual that joins what it found with what is seen now.

    It starts as a look-up and no more: values are the slow network's features themselves, queries and keys compare
    like with like, near places are preferred, and what is seen now adds nothing. So training starts from the slow
    network's quality and not from noise.

    What attention brings is a mean over a window, and blurred. With `warp` the keyframe is sampled at the mean place
    instead, between cells too, and the mean is one more input of the residual. (Deep Feature Flow, Zhu et al., CVPR
    2017, warps by the flow of a network of its own; here the flow is a by-product.)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config.channels
        kind = partial(SearchedAttention, reach=config.reach) if config.reach else LocalAttention
        self.attention = kind(
            query_in=c,
            key_in=c,
            value_in=c,
            query_channels=config.query_channels,
            value_channels=c,
            window=config.window,
            tile=config.tile,
            frames=config.frames,
            locate=config.warp,
        )
        self.attention.start_as_look_up()
        self.fuse = Joining(3 * c if config.warp else 2 * c, config.fast_hidden_width, c)

    def look_up(self, current: Tensor, keyframes: KeyTiles, maps: Keyframe | None, match: bool = False) -> Carried:
        """(B, C, H, W), keyframes, and the newest one's own maps if they are to be warped."""
        found, shift = self.attention.look(current, keyframes)
        if shift is None:
            return Carried(found + self.fuse(torch.cat([current, found], dim=1)), None)
        assert maps is not None
        described, coarse, detail = maps
        there = sample_at(coarse, shift)
        # Joined with channels last, as they lie in memory: a runtime that takes this literally reorders nothing.
        laid = there.permute(0, 2, 3, 1)
        known = torch.cat([current.permute(0, 2, 3, 1), found.permute(0, 2, 3, 1), laid], dim=-1).permute(0, 3, 1, 2)
        joined = (laid + self.fuse(known).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        finer = resize(shift, detail.shape[-2:]) * (detail.shape[-1] / coarse.shape[-1])
        alike = _alike(current, described, shift) if match else None
        return Carried(joined, sample_at(detail, finer), alike)


def _alike(current: Tensor, described: Tensor, shift: Tensor) -> Tensor:
    """(B, C, H, W) twice, (B, 2, H, W) -> (B,): mean cosine between each cell and the one it was found at.

    Of every other row and column: a mean needs no more.
    """
    found = sample_at(described, shift[..., ::2, ::2], step=2)
    own = current.permute(0, 2, 3, 1)[:, ::2, ::2]
    return F.cosine_similarity(own.float(), found.permute(0, 2, 3, 1).float(), dim=-1).mean(dim=(1, 2))


class AttentionPropagation(Propagation):
    """By local attention (ila.py), with one look-up or several."""

    def remember(self, keyframe: Keyframe, before: Remembered | None = None) -> Remembered:
        """As every way's; of what was remembered the last T - 1 keyframes are kept."""
        described, carried, _ = keyframe
        attention = {name: part.attention for name, part in self.look_ups().items()}
        newest = {name: part.remember(described, carried) for name, part in attention.items()}
        older: list[Mapping[str, KeyTiles]] = []
        if before is not None:
            size, kept = tuple(described.shape[-2:]), next(iter(attention.values())).frames - 1
            known = [before.newest, *before.before][:kept]
            older = [tiles for tiles in known if all((t.height, t.width) == size for t in tiles.values())]
        together = {
            name: part.joined(newest[name], [tiles[name] for tiles in older]) for name, part in attention.items()
        }
        warped = any(part.locate for part in attention.values())
        return Remembered(newest, tuple(older), together, keyframe if warped else None)


class SharedPropagation(LookUp, AttentionPropagation):
    """One look-up for all tasks."""

    def look_ups(self) -> Mapping[str, LookUp]:
        return {"all": self}

    def forward(
        self, current: Tensor, memory: Remembered, tasks: Sequence[str], match: bool = False
    ) -> dict[str, Carried]:
        return dict.fromkeys(tasks, self.look_up(current, memory.together["all"], memory.maps, match))


class TaskPropagation(AttentionPropagation):
    """A look-up, so a query, key and value, for each task (task-specific attention, TS)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict({task: LookUp(config) for task in config.tasks})

    def look_ups(self) -> Mapping[str, LookUp]:
        return dict(self.tasks.items())  # type: ignore[arg-type]

    def forward(
        self, current: Tensor, memory: Remembered, tasks: Sequence[str], match: bool = False
    ) -> dict[str, Carried]:
        parts = self.look_ups()
        return {
            task: parts[task].look_up(current, memory.together[task], memory.maps, match and task == tasks[0])
            for task in tasks
        }
