"""Answers to two frames are to agree along the motion between them: the rival without a keyframe.

Source: Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference" (ETC), ECCV 2020: a loss in
training, and nothing at all in use. Differences: flow is OpenCV's DIS and not a network's; pixels that were not seen
before are left out by checking it both ways; depth and normals are to agree, too, as with a teacher
(losses.distillation_losses), though a point's depth does change a little when the camera moves.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mila_ros.models.layers import sample_at
from mila_ros.optical_flow import OpticalFlow, grey
from mila_ros.training.losses import distillation_losses


class TemporalConsistency:
    """How far answers to a frame are from those to an earlier one, by task."""

    def __init__(self) -> None:
        self._flow = OpticalFlow()

    def __call__(
        self, answers: dict[str, Tensor], before: dict[str, Tensor], image: Tensor, earlier: Tensor
    ) -> dict[str, Tensor]:
        """Losses; gradients reach both answers.

        Args:
            answers, before: by task, (B, C, h, w), to `image` and to `earlier`.
            image, earlier: (B, 3, H, W), RGB in 0..1; H and W are the same multiple of h and w.
        """
        shift, seen = self.matches(image, earlier, next(iter(answers.values())).shape[-1])
        carried = {
            # What was not seen before agrees with itself.
            task: torch.where(seen, sample_at(before[task], shift), value.detach().to(before[task]))
            for task, value in answers.items()
        }
        return distillation_losses(answers, carried)

    def matches(self, image: Tensor, earlier: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        """Where each cell was, (B, 2, h, w) in cells from where it is, and whether it was seen, (B, 1, h, w)."""
        stride = image.shape[-1] // columns
        pairs = [self._flow.checked(now, then) for now, then in zip(grey(image), grey(earlier), strict=True)]
        flow = torch.from_numpy(np.stack([back for back, _ in pairs])).permute(0, 3, 1, 2).to(image.device)
        seen = torch.from_numpy(np.stack([known for _, known in pairs]))[:, None].to(image.device)
        return F.avg_pool2d(flow, stride) / stride, F.avg_pool2d(seen.float(), stride) > 0.99
