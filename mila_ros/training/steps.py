"""What one step of each stage computes: from a batch to a scalar to minimise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mila_ros.models.flow import Warping
from mila_ros.models.layers import resize
from mila_ros.models.mila import Mila
from mila_ros.models.networks import Features
from mila_ros.models.propagation import Carried, Keyframe
from mila_ros.training.adversary import PatchCritic, adversarial_losses, rising
from mila_ros.training.augmentation import Batch
from mila_ros.training.losses import (
    distillation_losses,
    end_point_error,
    feature_loss,
    task_losses,
    uncertainty_weighted,
)
from mila_ros.training.settings import TrainSettings
from mila_ros.training.temporal import TemporalConsistency


class Step(nn.Module):
    """A stage of training: weighted losses by name of a batch; their sum is minimised.

    Args:
        model: in training.
        settings: of the stage.
        class_weights: (K,).
    """

    class_weights: Tensor

    def __init__(self, model: Mila, settings: TrainSettings, class_weights: Tensor) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.register_buffer("class_weights", class_weights)
        self.step = 0
        learned = settings.task_weighting == "learned" and settings.stage != "flow"  # which has no task
        self.log_variance = nn.ParameterDict({t: torch.zeros(()) for t in model.config.tasks} if learned else {})

    def trained(self) -> list[nn.Module]:
        """The parts of the model that learn; everything else of it is frozen."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of tasks, by the fixed weights or by learned ones on top of them."""
        losses = {name: loss * self.settings.task_weights.get(name, 1.0) for name, loss in losses.items()}
        return uncertainty_weighted(losses, self.log_variance)

    def by_weight(self, losses: dict[str, Tensor]) -> Tensor:
        """Their sum by the same weights, which are not learned from them."""
        shares = {t: self.settings.task_weights.get(t, 1.0) for t in losses}
        for task, variance in self.log_variance.items():
            if task in shares:
                shares[task] = shares[task] * torch.exp(-variance.detach())
        return torch.stack([shares[task] * loss for task, loss in losses.items()]).sum()


def working_zoom(model: Mila, height: int, width: int) -> float:
    """Size of a picture at the networks' working size over its own.

    Depth is learned as it will be asked for, whatever size is trained at: the same view, with fewer pixels, has a
    shorter focal length and the same depth.
    """
    return (model.config.working_pixels / (height * width)) ** 0.5


class SlowStep(Step):
    """Stage one: slow network and its heads on single pictures."""

    def trained(self) -> list[nn.Module]:
        return [self.model.slow, self.model.slow_heads]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        model = self.model
        coarse, detail = model.slow(batch.image)
        size = batch.truth.depth.shape[-2:]
        height, width = batch.image.shape[-2:]
        features = Features(coarse, detail, height, width, working_zoom(model, height, width), slow=True)
        answers = model.predict(features, model.config.tasks, batch.focal, (size[0], size[1]))
        return self.weighted(task_losses(answers, batch.truth, self.class_weights, self.settings.depth_metres))


class FastStep(Step):
    """Stage two: fast network, propagation and fast heads learn the tasks and to agree with the frozen slow network."""

    def __init__(self, model: Mila, settings: TrainSettings, class_weights: Tensor) -> None:
        super().__init__(model, settings, class_weights)
        self.critic = PatchCritic(model.config.channels) if settings.adversary_weight else None
        self.temporal = TemporalConsistency() if settings.temporal_weight else None

    def trained(self) -> list[nn.Module]:
        return [self.model.fast, self.model.propagation, self.model.fast_heads]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        model, settings = self.model, self.settings
        assert batch.keyframes is not None
        tasks = model.config.tasks
        rows, columns = batch.truth.depth.shape[-2:]
        size = (rows, columns)
        height, width = batch.image.shape[-2:]
        count = len(batch.image)
        past = batch.keyframes.transpose(0, 1)  # by keyframe, the newest first
        with torch.no_grad():
            # All pictures at once: the keyframes to carry from, the current one to be taught by.
            coarse, details = model.slow(torch.cat([*past, batch.image]))
            *carried, target = zip(coarse.split(count), details.split(count), strict=True)
            zoom = working_zoom(model, height, width)
            teacher = model.predict(Features(*target, height, width, zoom, slow=True), tasks, batch.focal, size)
        current, detail, found, before = self._carried(batch.image, past, carried)
        # Some pictures are answered without a keyframe, so that the fast network can do that too.
        alone = torch.rand(count, 1, 1, 1, device=current.device) < settings.alone
        together = _left_out(found, current, alone)
        seen = Features(current, detail, height, width, zoom, slow=False).joined(together)
        answers = model.predict(seen, tasks, batch.focal, size)
        if seen.apart and settings.alone:
            own = Features(current, detail, height, width, zoom, slow=False)
            said_alone = model.predict(own, tasks, batch.focal, size)
            answers = {task: torch.where(alone, said_alone[task], answers[task]) for task in tasks}
        losses = task_losses(answers, batch.truth, self.class_weights, self.settings.depth_metres)
        if settings.distillation:
            for name, loss in distillation_losses(answers, teacher).items():
                losses[name] = losses[name] + settings.distillation * loss
        losses = self.weighted(losses)
        if settings.feature_weight:
            different = {id(brought): brought.coarse for brought in together.values()}  # one where tasks share it
            likeness = torch.stack([feature_loss(value, target[0]) for value in different.values()]).mean()
            losses["features"] = settings.feature_weight * likeness
        if settings.glance_weight:
            losses["glance"] = settings.glance_weight * feature_loss(current, target[0])
        if self.temporal is not None:
            then = Features(*(before or model.fast(past[0])), height, width, zoom, slow=False)
            said = model.predict(then, tasks, batch.focal, size)
            agreement = self.temporal(answers, said, batch.image, past[0])
            losses["temporal"] = settings.temporal_weight * self.by_weight(agreement)
        if self.critic is not None:
            verdict, fooled = adversarial_losses(self.critic, target[0], current)
            share = rising(self.step, settings.adversary_rise)
            losses["critic"], losses["adversary"] = verdict, settings.adversary_weight * share * fooled
        return losses

    def _carried(
        self, image: Tensor, past: Tensor, carried: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, dict[str, Carried], tuple[Tensor, Tensor] | None]:
        """What the fast network sees now (features, details), what the keyframes add to it, by task, and what the fast
        network sees of the newest keyframe, where it looks at it.

        past, carried: pictures of keyframes, and the slow network's features and details of them; the newest first.
        """
        model, count = self.model, len(image)
        if model.config.keys == "slow":
            current, detail = model.fast(image)
            described, before = [coarse for coarse, _ in carried], None
        else:
            seen, details = model.fast(torch.cat([*past, image]))
            *described, current = seen.split(count)
            detail, before = details[-count:], (described[0], details[:count])
        memory: Any = None
        for looks, knows in reversed(list(zip(described, carried, strict=True))):
            memory = model.propagation.remember(Keyframe(looks, *knows), memory)
        assert memory is not None
        return current, detail, model.propagation(current, memory, model.config.tasks), before


def _left_out(found: dict[str, Carried], current: Tensor, alone: Tensor) -> dict[str, Carried]:
    """What keyframes brought, but nothing for the pictures that are `alone`, (B, 1, 1, 1); tasks go on sharing."""
    kept: dict[int, Carried] = {}
    for brought in found.values():
        detail = None if brought.detail is None else brought.detail * ~alone
        kept[id(brought)] = brought._replace(coarse=torch.where(alone, current, brought.coarse), detail=detail)
    return {task: kept[id(brought)] for task, brought in found.items()}


class FlowStep(Step):
    """Before stage two, where optical flow carries: the fast network and the flow learn from flow that is known."""

    def trained(self) -> list[nn.Module]:
        way = self.model.propagation
        assert isinstance(way, Warping)
        return [self.model.fast, way.far, way.near]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        model, way = self.model, self.model.propagation
        assert isinstance(way, Warping) and batch.keyframes is not None and batch.flow is not None
        newest = batch.keyframes[:, 0]
        if model.config.keys == "slow":
            current, _ = model.fast(batch.image)
            with torch.no_grad():
                described, _ = model.slow(newest)
        else:
            described, current = model.fast(torch.cat([newest, batch.image]))[0].chunk(2)
        far, near = way.flows(current, described)
        coarse = resize(2 * far, near.shape[-2:])
        return {"far": 0.5 * end_point_error(coarse, batch.flow), "near": end_point_error(near, batch.flow)}


STAGES: dict[str, type[Step]] = {"slow": SlowStep, "fast": FastStep, "flow": FlowStep}
