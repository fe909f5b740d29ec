"""Propagation by optical flow that is learned with the tasks: what attention is to be measured against.

Source: a keyframe's features are warped along the flow of a network that learns with the tasks (Deep Feature Flow, Zhu
et al., CVPR 2017). The flow is found as PWC-Net finds it (Sun et al., CVPR 2018): from cost volumes, coarse to fine,
the finer one between what is already warped. As there, it may learn from exact flow first (training stage "flow").

Differences from the papers: flow is found between the fast network's features, which are there anyway, so no second
network looks at the pictures; it begins at the mean place of the best matches (soft argmax over the cost volume), and
not at zero, since the tasks' and the features' losses, from which it may learn alone, have gradients that reach a cell
far; there is no scale map. What is warped is joined with what is seen now as after attention: a residual that begins at
zero. Accel (accel.py), which warps along the same flow, joins answers instead.

Cost, for N = H * W positions: cost volumes N * (85 + 50) C FLOPs, which PyTorch's counter does not see (they are no
matrix products), convolutions of the flow N * 62 900, of the residual N * 55 300; at 640 x 480 and C = 96 that is 0.06,
0.30 and 0.27 GFLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mila_ros.models.config import ModelConfig
from mila_ros.models.layers import ConvBlock, check_same_size, resize, sample_at
from mila_ros.models.propagation import Carried, Joining, Keyframe, Propagation

_FAR, _NEAR = 6, 2
"""Cells that matches are looked for away from a place: at stride 16, and at stride 8 from where that has led."""
_FAR_WIDTH, _NEAR_WIDTH = 64, 32
_SHARPNESS = 100.0
"""Of the soft argmax, at first: by how much a cosine of 1 outweighs one of 0, as a logarithm. Neighbours are much
alike: on a trained network's features 20 finds little but the window's mean."""


def cost_volume(current: Tensor, other: Tensor, reach: int) -> Tensor:
    """How like each place of one map is to those near it in another: (B, C, H, W) twice -> (B, K, H, W), cosines.

    K = (2 reach + 1)^2: rows from above to below, in each columns from left to right. Beyond the border all is zero.
    What all places have in common, the other map's mean, is left out of both: it would make everything alike.
    """
    side, height = 2 * reach + 1, current.shape[-2]
    common = other.mean(dim=(2, 3), keepdim=True)
    own = F.normalize((current - common).float(), dim=1)[..., None]
    theirs = F.pad(F.normalize((other - common).float(), dim=1), [reach] * 4)
    # Row by row of the square: all at once would be that many copies of a map, as matrix products each is tiny.
    rows = [(own * theirs[:, :, down : down + height].unfold(3, side, 1)).sum(dim=1) for down in range(side)]
    return torch.cat([row.permute(0, 3, 1, 2) for row in rows], dim=1).to(current.dtype)


def offsets(reach: int, like: Tensor) -> Tensor:
    """Where the places of a cost volume lie: (K, 2), columns and rows."""
    line = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], dim=1)


class FlowStep(nn.Module):
    """One level: a flow, made better by a cost volume.

    Args:
        reach: of the cost volume, in cells.
        width: channels of the convolutions.
        depth: how many of these with neighbours there are.
        begins: whether there is no flow yet, which then begins at the mean place of the best matches.
    """

    def __init__(self, reach: int, width: int, depth: int, begins: bool) -> None:
        super().__init__()
        self.reach = reach
        self.sharpness = nn.Parameter(torch.tensor(_SHARPNESS).log()) if begins else None
        last = nn.Conv2d(width, 2, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        convolutions = [ConvBlock(width, width, 3) for _ in range(depth)]
        self.better = nn.Sequential(ConvBlock((2 * reach + 1) ** 2 + 2, width), *convolutions, last)

    def forward(self, current: Tensor, other: Tensor, flow: Tensor | None = None) -> Tensor:
        """(B, C, H, W) twice, (B, 2, H, W) in cells -> (B, 2, H, W): from each place to where it is in the other."""
        if flow is not None:
            other = sample_at(other, flow)
        cost = cost_volume(current, other, self.reach)
        if flow is None:
            assert self.sharpness is not None
            share = (self.sharpness.exp() * cost.float()).softmax(dim=1)
            flow = torch.einsum("bkhw,kc->bchw", share, offsets(self.reach, share)).to(cost.dtype)
        better: Tensor = flow + self.better(torch.cat([cost, flow.to(cost.dtype)], dim=1))
        return better


class Warping(Propagation):
    """The keyframe's features and details where optical flow has found them."""

    def __init__(self) -> None:
        super().__init__()
        self.far = FlowStep(_FAR, _FAR_WIDTH, 2, begins=True)
        self.near = FlowStep(_NEAR, _NEAR_WIDTH, 1, begins=False)

    def flows(self, current: Tensor, described: Tensor) -> tuple[Tensor, Tensor]:
        """From each place to where it was in the keyframe, columns and rows, in cells of the map it is given on.

        (B, C, H, W) twice -> (B, 2, H / 2, W / 2) rounded up, what the search at stride 16 found; and (B, 2, H, W), at
        stride 8, which is better.
        """
        far: Tensor = self.far(*(F.avg_pool2d(x, 2, ceil_mode=True) for x in (current, described)))
        near: Tensor = self.near(current, described, resize(2 * far, current.shape[-2:]))
        return far, near

    def flow(self, current: Tensor, described: Tensor) -> Tensor:
        """The better one of `flows`."""
        return self.flows(current, described)[1]

    def warped(self, current: Tensor, memory: Keyframe) -> tuple[Tensor, Tensor]:
        """The keyframe's features (B, C, H, W) and details (B, C_d, 2 H, 2 W) where they are now."""
        described, carried, detail = memory
        check_same_size(current.shape[-2:], carried.shape[-2:])
        flow = self.flow(current, described)
        finer = resize(flow, detail.shape[-2:]) * (detail.shape[-1] / carried.shape[-1])
        return sample_at(carried, flow), sample_at(detail, finer)


class FlowPropagation(Warping):
    """What was warped, and a residual that corrects it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fuse = Joining(2 * config.channels, config.fast_hidden_width, config.channels)

    def forward(
        self, current: Tensor, memory: Keyframe, tasks: Sequence[str], match: bool = False
    ) -> dict[str, Carried]:
        there, detail = self.warped(current, memory)
        joined = there + self.fuse(torch.cat([current, there], dim=1))
        return dict.fromkeys(tasks, Carried(joined, detail))
