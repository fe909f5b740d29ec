"""Losses vanish at the truth and leave out what is unknown; weights of classes and tasks."""

import math

import pytest
import torch

from mila_ros.training.losses import (
    class_weights,
    depth_loss,
    feature_loss,
    normals_loss,
    segmentation_loss,
    uncertainty_weighted,
)
from mila_ros.worlds.frames import IGNORE


def test_learned_task_weights_follow_the_size_of_losses() -> None:
    """The best s of exp(-s) * loss + s / 2 is log(2 * loss): a task of twice the loss counts half."""
    weights = torch.nn.ParameterDict({"depth": torch.zeros(()), "normals": torch.zeros(())})
    optimizer = torch.optim.Adam(weights.parameters(), 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        losses = {"depth": torch.tensor(2.0), "normals": torch.tensor(0.5), "features": torch.tensor(1.0)}
        weighted = uncertainty_weighted(losses, weights)
        torch.stack(list(weighted.values())).sum().backward()
        optimizer.step()
    assert weights["depth"].item() == pytest.approx(math.log(4), abs=0.02)
    assert weights["normals"].item() == pytest.approx(0, abs=0.02)
    assert float(weighted["features"]) == 1.0


def test_losses_are_lowest_at_the_truth() -> None:
    torch.manual_seed(0)
    depth = 1 + torch.rand(2, 8, 8)
    assert float(depth_loss(depth[:, None], depth)) == pytest.approx(0, abs=1e-6)
    assert float(depth_loss(depth[:, None] * 1.1, depth)) > 0.09
    unknown = depth.clone()
    unknown[:, :4] = 0
    wrong = depth[:, None].clone()
    wrong[:, :, :4] = 50
    assert float(depth_loss(wrong, unknown)) == pytest.approx(0, abs=1e-6)
    normals = torch.nn.functional.normalize(torch.randn(2, 3, 8, 8), dim=1)
    assert float(normals_loss(normals, normals)) < 2e-3
    assert float(normals_loss(-normals, normals)) == pytest.approx(2, abs=1e-3)
    labels = torch.randint(0, 4, (2, 8, 8))
    right = 20 * torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    assert float(segmentation_loss(right, labels, None)) < float(segmentation_loss(right * 0, labels, None))
    nothing = torch.full_like(labels, IGNORE)
    assert float(segmentation_loss(right, nothing, None)) == 0
    features = torch.randn(2, 8, 4, 4)
    assert float(feature_loss(features, features)) == 0


def test_rare_classes_weigh_more_and_the_mean_stays() -> None:
    weights = class_weights(torch.tensor([900.0, 90.0, 10.0]), power=0.3)
    assert weights[0] < weights[1] < weights[2] <= 4
    assert class_weights(torch.tensor([900.0, 100.0]), power=0.0).tolist() == [1, 1]
