"""Ways to answer a frame from an earlier keyframe: MILA's attention, and what it is to be measured against.

All of them see the same slow network and heads of one checkpoint; none of the rivals has anything to train.

- "mila": the fast network, attention to the keyframe, the fast heads.
- "reuse": the keyframe's features as they are, the slow heads: what a robot has that runs the slow network now and
  then.
- "flow": the keyframe's features warped to the frame by optical flow, the slow heads (Deep Feature Flow: Zhu et al.,
  CVPR 2017). The flow is OpenCV's DIS (Kroeger et al., ECCV 2016), no network; there is no learned scale map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mila_ros.errors import UserError
from mila_ros.models.flops import Flops
from mila_ros.models.layers import sample_at
from mila_ros.models.mila import Mila, pad_to_stride
from mila_ros.models.networks import Features
from mila_ros.optical_flow import OpticalFlow, grey


@dataclass(frozen=True)
class Seen:
    """A picture, and what both networks make of it."""

    image: Tensor
    """(1, 3, H, W), RGB in 0..1."""
    slow: Features | None
    """None where the slow network did not look."""
    fast: Features


class Carrier(Protocol):
    """A way to answer a frame from what is remembered."""

    needs: tuple[str, ...]
    """Which networks look at a frame between keyframes."""

    def remember(self, keyframe: Seen, before: Any) -> Any:
        """The memory after a keyframe; before: the memory until then, None at first."""

    def carry(self, frame: Seen, memory: Any) -> Features:
        """Features for a frame between keyframes."""

    def frame_flops(self, flops: Flops) -> float:
        """Arithmetic of such a frame, of networks alone."""


class Attention:
    """MILA's own."""

    needs = ("fast",)

    def __init__(self, model: Mila) -> None:
        self._model = model

    def remember(self, keyframe: Seen, before: Any) -> Any:
        assert keyframe.slow is not None
        return self._model.remember(keyframe.slow, keyframe.fast, before)

    def carry(self, frame: Seen, memory: Any) -> Features:
        return self._model.propagate(frame.fast, memory)

    def frame_flops(self, flops: Flops) -> float:
        return flops.fast_frame


class Reuse:
    """The keyframe's features, unwarped."""

    needs: tuple[str, ...] = ()

    def __init__(self, _model: Mila) -> None:
        pass

    def remember(self, keyframe: Seen, before: Any) -> Any:
        return keyframe

    def carry(self, frame: Seen, memory: Any) -> Features:
        slow: Features = memory.slow
        return slow

    def frame_flops(self, flops: Flops) -> float:
        return flops.heads_slow


class FlowWarp(Reuse):
    """The keyframe's features where optical flow finds them."""

    def __init__(self, model: Mila) -> None:
        super().__init__(model)
        self._flow = OpticalFlow()

    def carry(self, frame: Seen, memory: Any) -> Features:
        slow: Features = memory.slow
        size = (slow.height, slow.width)
        flow = self._flow.between(*grey(frame.image, size), *grey(memory.image, size))
        return warped(slow, torch.from_numpy(flow).permute(2, 0, 1)[None].to(slow.coarse))


def warped(features: Features, flow: Tensor) -> Features:
    """Features of a keyframe as they would be if its pixels stood where flow came from.

    Args:
        features: of the keyframe, from a picture of h x w pixels (before padding).
        flow: (1, 2, h, w), x and y in pixels: from each pixel of the frame to where it was in the keyframe.
    """
    padded = pad_to_stride(flow)
    return features._replace(coarse=_sampled(features.coarse, padded), detail=_sampled(features.detail, padded))


def _sampled(map_: Tensor, flow: Tensor) -> Tensor:
    """A map at a stride, (1, C, H / s, W / s), looked up along the mean flow (1, 2, H, W) of each of its cells."""
    stride = flow.shape[-1] // map_.shape[-1]
    return sample_at(map_, F.avg_pool2d(flow, stride) / stride)


_KINDS = {"mila": Attention, "reuse": Reuse, "flow": FlowWarp}
CARRIERS = tuple(_KINDS)


def make_carrier(name: str, model: Mila) -> Carrier:
    """A carrier by its name.

    Raises:
        UserError: there is none of this name.
    """
    if name not in _KINDS:
        raise UserError(f'no way to carry features is called "{name}"; there are {", ".join(CARRIERS)}')
    made: Carrier = _KINDS[name](model)
    return made
