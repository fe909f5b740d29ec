"""Training of a small video classifier (models/video.py) on the features of a frozen backbone: seconds, not hours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mila_ros.models.video import VideoClassifier

_BATCH = 16
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class ClipFeatures:
    """Clips as a backbone sees them."""

    features: Tensor
    """(N, T, C, H, W), half precision."""
    labels: Tensor
    """(N,), int64."""


@torch.inference_mode()
def clip_features(backbone: nn.Module, level: int, rgb: Tensor, labels: Tensor) -> ClipFeatures:
    """Features of one level of a backbone for clips (N, T, 3, H, W), uint8."""
    found = [backbone(clip.float() / 255)[level].half() for clip in rgb]
    return ClipFeatures(torch.stack(found), labels)


def train_classifier(clips: ClipFeatures, classes: int, temporal: str, seed: int, epochs: int) -> VideoClassifier:
    """A classifier, trained from random weights by AdamW with one cycle of the learning rate; in evaluation mode.

    The seed decides weights and order; all ways (`temporal`) see the same clips in the same order.
    """
    count, frames, channels = clips.features.shape[:3]
    torch.manual_seed(seed)
    model = VideoClassifier(channels, classes, frames, temporal).train()
    optimizer = torch.optim.AdamW(model.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    order = torch.Generator().manual_seed(seed)
    steps = epochs * (count // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=max(steps, 1))
    for _ in range(epochs):
        shuffled = torch.randperm(count, generator=order)
        for chosen in shuffled.split(_BATCH)[: count // _BATCH]:
            scores = model(clips.features[chosen].float())
            loss = F.cross_entropy(scores, clips.labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: VideoClassifier, clips: ClipFeatures) -> float:
    """Share of clips whose class is found."""
    right = 0
    for features, labels in zip(clips.features.split(_BATCH), clips.labels.split(_BATCH), strict=True):
        right += int((model(features.float()).argmax(dim=1) == labels).sum())
    return right / len(clips.labels)
