"""What one step of each stage computes: from a batch to a scalar to minimise."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from mila_ros.models.mila import Mila
from mila_ros.models.networks import Features
from mila_ros.training.data import Batch
from mila_ros.training.losses import distillation_losses, feature_loss, task_losses
from mila_ros.training.settings import TrainSettings


class Step(Protocol):
    """A stage of training."""

    def trained(self) -> list[nn.Module]:
        """The parts that learn; everything else is frozen."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is minimised."""


def working_zoom(model: Mila, height: int, width: int) -> float:
    """Size of a picture at the networks' working size over its own.

    Depth is learned as it will be asked for, whatever size is trained at: the same view, with fewer pixels, has a
    shorter focal length and the same depth.
    """
    return (model.config.working_pixels / (height * width)) ** 0.5


class SlowStep(nn.Module):
    """Stage one: slow network and its heads on single pictures."""

    def __init__(self, model: Mila, settings: TrainSettings, class_weights: Tensor) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.register_buffer("class_weights", class_weights)

    def trained(self) -> list[nn.Module]:
        return [self.model.slow, self.model.slow_heads]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        model = self.model
        coarse, detail = model.slow(batch.image)
        size = batch.truth.depth.shape[-2:]
        height, width = batch.image.shape[-2:]
        features = Features(coarse, detail, height, width, working_zoom(model, height, width), slow=True)
        answers = model.predict(features, model.config.tasks, batch.focal, (size[0], size[1]))
        losses = task_losses(answers, batch.truth, self.class_weights)
        return {name: loss * self.settings.task_weights.get(name, 1.0) for name, loss in losses.items()}


class FastStep(nn.Module):
    """Stage two: fast network, propagation and fast heads learn the tasks and to agree with the frozen slow network."""

    def __init__(self, model: Mila, settings: TrainSettings, class_weights: Tensor) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.register_buffer("class_weights", class_weights)

    def trained(self) -> list[nn.Module]:
        return [self.model.fast, self.model.propagation, self.model.fast_heads]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        model, settings = self.model, self.settings
        assert batch.keyframe is not None
        rows, columns = batch.truth.depth.shape[-2:]
        size = (rows, columns)
        height, width = batch.image.shape[-2:]
        count = len(batch.image)
        with torch.no_grad():
            # Both pictures at once: the keyframe to carry from, the current one to be taught by.
            coarse, detail = model.slow(torch.cat([batch.keyframe, batch.image]))
            carried, target = coarse[:count], coarse[count:]
            zoom = working_zoom(model, height, width)
            taught = Features(target, detail[count:], height, width, zoom, slow=True)
            teacher = model.predict(taught, model.config.tasks, batch.focal, size)
        current, detail, found = self._carried(batch, carried)
        # Some pictures are answered without a keyframe, so that the fast network can do that too.
        alone = torch.rand(count, 1, 1, 1, device=current.device) < settings.alone
        features = torch.where(alone, current, found)
        seen = Features(features, detail, height, width, zoom, slow=False)
        answers = model.predict(seen, model.config.tasks, batch.focal, size)
        losses = task_losses(answers, batch.truth, self.class_weights)
        if settings.distillation:
            for name, loss in distillation_losses(answers, teacher).items():
                losses[name] = losses[name] + settings.distillation * loss
        losses = {name: loss * settings.task_weights.get(name, 1.0) for name, loss in losses.items()}
        if settings.feature_weight:
            losses["features"] = settings.feature_weight * feature_loss(features, target)
        return losses

    def _carried(self, batch: Batch, carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the fast network sees now (features, details), and the same enriched by the keyframe."""
        model = self.model
        if model.config.keys == "slow":
            current, detail = model.fast(batch.image)
            described = carried
        else:
            count = len(batch.image)
            assert batch.keyframe is not None
            both, details = model.fast(torch.cat([batch.keyframe, batch.image]))
            described, current, detail = both[:count], both[count:], details[count:]
        tiles = model.propagation.remember(described, carried)
        return current, detail, model.propagation(current, tiles)
