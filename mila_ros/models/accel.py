"""Accel: the keyframe's answers where they are now, corrected by what the fast network answers itself.

Source: Jain, Wang, Gonzalez, "Accel: A Corrective Fusion Network for Efficient Semantic Segmentation on Video", CVPR
2019. Its reference branch warps a keyframe's features along optical flow and answers from them; its update branch, a
lighter network, answers the current picture alone; a 1 x 1 convolution over both answers, task by task, is what comes
out.

Differences from the paper: there it is segmentation alone, here every task (class scores, log depth, normals before
they get unit length); the flow is that of flow.py, found between the fast network's features, from the keyframe at
once and not step by step from frame to frame; the update branch is the fast network with its own heads, of whatever
width; and the convolution is a residual to the keyframe's answer that begins at zero, not at random, since training
here is short. `Mila` has both heads answer and hands the answers on.

Cost beside the flow's (flow.py): the slow heads run on every frame, too, as wide as they are; the fusion itself takes
4 K^2 FLOPs a stride-4 position for a task with K channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mila_ros.models.config import ModelConfig
from mila_ros.models.flow import Warping
from mila_ros.models.propagation import Carried, Keyframe


class AccelPropagation(Warping):
    """What was warped, for the slow network's heads; and what joins their answers with those of the fast ones."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fusion = AnswerFusion(config.answer_channels)

    def forward(
        self, current: Tensor, memory: Keyframe, tasks: Sequence[str], match: bool = False
    ) -> dict[str, Carried]:
        there, detail = self.warped(current, memory)
        return dict.fromkeys(tasks, Carried(there, detail, apart=True))


class AnswerFusion(nn.Module):
    """Two raw answers a task, (B, K, h, w) each -> one: the keyframe's, and what a 1 x 1 convolution over both adds.

    It adds nothing at first, and where weights decay they decay to that.

    Args:
        channels: K by task.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict({task: nn.Conv2d(2 * count, count, 1) for task, count in channels.items()})
        self.scale(0.0)

    @torch.no_grad()
    def scale(self, share: float, tasks: Sequence[str] | None = None) -> None:
        """Leave so much of what it adds, for these tasks; None: for all."""
        for task in self.tasks if tasks is None else tasks:
            for parameter in self.tasks[task].parameters():
                parameter.mul_(share)

    def forward(self, keyframe: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The keyframe's answers where they are now, and the current frame's own, of the same tasks."""
        return {task: keyframe[task] + self._added(task, keyframe[task], own[task]) for task in own}

    def _added(self, task: str, keyframe: Tensor, own: Tensor) -> Tensor:
        layer = self.tasks[task]
        assert isinstance(layer, nn.Conv2d)
        # Another runtime's heads (runtime/graph_backend.py) answer in single precision, whatever the weights are.
        both: Tensor = layer(torch.cat([keyframe, own], dim=1).to(layer.weight.dtype))
        return both
