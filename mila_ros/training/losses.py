"""Losses of the three tasks, and of features that should look like the slow network's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mila_ros.worlds.frames import IGNORE


@dataclass
class Truth:
    """Ground truth of a batch at the resolution of the answers."""

    labels: Tensor
    """(B, h, w), int64; IGNORE where unlabelled."""
    depth: Tensor
    """(B, h, w), metres; 0 where unknown."""
    normals: Tensor
    """(B, 3, h, w), unit; all zero where unknown."""


def segmentation_loss(scores: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Cross entropy over labelled pixels: (B, K, h, w), (B, h, w) -> scalar; 0 where nothing is labelled."""
    if not bool((labels != IGNORE).any()):
        return scores.sum() * 0.0
    return F.cross_entropy(scores.float(), labels, weight=class_weights, ignore_index=IGNORE, label_smoothing=0.02)


def depth_loss(depth: Tensor, truth: Tensor, metres_share: float = 0.2) -> Tensor:
    """Error of log depth, a share of the error in metres, and of the slopes of log depth at three scales.

    The slopes keep flat things flat and edges sharp (MegaDepth, Li and Snavely, CVPR 2018). The error in metres is
    squared below 1 m: where a room's size is in doubt, it asks for the mean, the logarithm's for the median.

    Args:
        depth: (B, 1, h, w), metres.
        truth: (B, h, w), metres; 0 where unknown.
        metres_share: weight of the error in metres.
    """
    predicted, truth = depth[:, 0].float().clamp(min=1e-3), truth.float()
    known = truth > 0
    log_error = (predicted.log() - truth.clamp(min=1e-3).log()) * known
    count = known.sum().clamp(min=1)
    loss = log_error.abs().sum() / count
    metres = F.huber_loss(predicted * known, truth, delta=1.0, reduction="sum") / count
    slope = log_error.new_zeros(())
    for scale in (1, 2, 4):
        e, k = log_error[:, ::scale, ::scale], known[:, ::scale, ::scale]
        for a in (1, 2):
            both = k.narrow(a, 1, k.shape[a] - 1) & k.narrow(a, 0, k.shape[a] - 1)
            slope = slope + (e.diff(dim=a).abs() * both).sum() / both.sum().clamp(min=1)
    return loss + metres_share * metres + 0.5 * slope


def normals_loss(normals: Tensor, truth: Tensor) -> Tensor:
    """Mean chord between unit vectors, close to the mean angle in radians: (B, 3, h, w) twice -> scalar."""
    truth = truth.float()
    known = truth.square().sum(dim=1) > 0.5
    cosine = (normals.float() * truth).sum(dim=1)
    chord = (2.0 - 2.0 * cosine).clamp(min=1e-6).sqrt()
    return (chord * known).sum() / known.sum().clamp(min=1)


def task_losses(
    answers: dict[str, Tensor], truth: Truth, class_weights: Tensor | None, metres_share: float
) -> dict[str, Tensor]:
    """The loss of each task that was answered; metres_share: see `depth_loss`."""
    losses: dict[str, Tensor] = {}
    if "segmentation" in answers:
        losses["segmentation"] = segmentation_loss(answers["segmentation"], truth.labels, class_weights)
    if "depth" in answers:
        losses["depth"] = depth_loss(answers["depth"], truth.depth, metres_share)
    if "normals" in answers:
        losses["normals"] = normals_loss(answers["normals"], truth.normals)
    return losses


def distillation_losses(answers: dict[str, Tensor], teacher: dict[str, Tensor]) -> dict[str, Tensor]:
    """How far the fast answers are from the slow network's on the same picture, everywhere (labels or not)."""
    losses: dict[str, Tensor] = {}
    if "segmentation" in answers:
        said = answers["segmentation"].float().log_softmax(dim=1)
        wanted = teacher["segmentation"].float().log_softmax(dim=1)
        losses["segmentation"] = F.kl_div(said, wanted, log_target=True, reduction="none").sum(dim=1).mean()
    if "depth" in answers:
        losses["depth"] = (answers["depth"].clamp(min=1e-3).log() - teacher["depth"].clamp(min=1e-3).log()).abs().mean()
    if "normals" in answers:
        losses["normals"] = normals_loss(answers["normals"], teacher["normals"])
    return losses


def feature_loss(features: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of features, in units of the teacher's variance (plain L2 feature distillation)."""
    scale = teacher.float().var().clamp(min=1e-6)
    return F.mse_loss(features.float(), teacher.float()) / scale


def end_point_error(flow: Tensor, truth: Tensor) -> Tensor:
    """Mean distance between where flow ends and where it should: (B, 2, h, w) twice, NaN where unknown -> scalar."""
    known = truth.isfinite().all(dim=1)
    error = flow.float() - torch.where(known[:, None], truth, flow.float().detach())
    return ((error.square().sum(dim=1) + 1e-6).sqrt() * known).sum() / known.sum().clamp(min=1)


def class_weights(counts: Tensor, power: float) -> Tensor:
    """Weights that lift rare classes: frequency to the power of -`power`, mean 1 over pixels, at most 4.

    Args:
        counts: (K,), labelled pixels of each class in the training set.
        power: 0 for none, 1 for all classes alike.
    """
    share = (counts.double() / counts.sum().clamp(min=1)).clamp(min=1e-5)
    weights = share**-power
    weights = weights / (weights * share).sum()
    return weights.clamp(max=4.0).float()


def uncertainty_weighted(losses: dict[str, Tensor], log_variance: nn.ParameterDict) -> dict[str, Tensor]:
    """Losses weighted by learned homoscedastic uncertainty (Kendall et al., CVPR 2018): exp(-s) * loss + s / 2."""
    return {
        name: torch.exp(-log_variance[name]) * loss + 0.5 * log_variance[name] if name in log_variance else loss
        for name, loss in losses.items()
    }
