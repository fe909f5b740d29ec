"""How a keyframe's features reach the current frame: what every way to carry them takes and gives.

The ways themselves stand in attention.py (MILA's own), alignment.py, laps.py, flow.py and accel.py; propagations.py
chooses one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mila_ros.models.layers import ConvBlock

if TYPE_CHECKING:
    from mila_ros.models.attention import LookUp


class Keyframe(NamedTuple):
    """A picture to be looked up."""

    described: Tensor
    """(B, C, H, W), what a place looks like."""
    carried: Tensor
    """(B, C, H, W), what the slow network knows about it."""
    detail: Tensor
    """(B, C_d, 2 H, 2 W), the slow network's details."""


class Carried(NamedTuple):
    """What reaches a task's head from keyframes."""

    coarse: Tensor
    """(B, C, H, W): what was found, joined with what is seen now."""
    detail: Tensor | None
    """(B, C_d, 2 H, 2 W): the keyframe's details, where they are now; None where they are not carried
    (`ModelConfig.carries_details`)."""
    match: Tensor | None = None
    """(B,): how alike both frames look where one was found in the other, mean cosine, at most 1; low: the scene has
    left the keyframe. None without `warp`, or where nobody asked."""
    apart: bool = False
    """Both maps are the keyframe's alone, for the slow heads, whose answers meet those of the fast ones (accel.py)."""


class Joining(nn.Sequential):
    """A residual from several maps, (B, C_in, H, W) -> (B, C, H, W), which starts at zero.

    So training starts from what was carried, the slow network's quality, and not from noise.
    """

    def __init__(self, channels_in: int, hidden: int, channels: int) -> None:
        last = nn.Conv2d(hidden, channels, 1)
        super().__init__(ConvBlock(channels_in, hidden), last)
        self.scale(0.0)

    @torch.no_grad()
    def scale(self, share: float) -> None:
        """Leave so much of what it adds."""
        for parameter in self[1].parameters():
            parameter.mul_(share)


class Propagation(nn.Module):
    """Every way to carry features has these two calls."""

    def look_ups(self) -> Mapping[str, LookUp]:
        """Local attention inside, by name: of a task, or "all" for every task; where there is none, nothing."""
        return {}

    def remember(self, keyframe: Keyframe, before: Any = None) -> Any:
        """Prepare a keyframe, once; as it is, where nothing is to be prepared.

        before: what was remembered until now; of several keyframes the last are kept, if they have this size.
        """
        return keyframe

    def forward(self, current: Tensor, memory: Any, tasks: Sequence[str], match: bool = False) -> dict[str, Carried]:
        """(B, C, H, W) and what is remembered -> what is known for each of the tasks; only what these need is computed.

        match: also tell how alike both frames look, if this way can (for one of the tasks, the first).

        Raises:
            ValueError: the keyframes are of another size.
        """
        raise NotImplementedError
