"""Metrics at answers whose score is known."""

import numpy as np
import pytest
import torch

from mila_ros.evaluation.metrics import TaskMetrics
from mila_ros.worlds.frames import IGNORE


def test_metrics_know_a_perfect_answer_and_a_wrong_one() -> None:
    labels = torch.tensor([[[0, 1], [1, IGNORE]]], dtype=torch.uint8)
    depth = torch.tensor([[[1.0, 2.0], [4.0, np.nan]]])
    normals = torch.zeros(1, 2, 2, 3)
    normals[..., 2] = -1
    truth = {"segmentation": labels, "depth": depth, "normals": normals}
    perfect = TaskMetrics(("segmentation", "depth", "normals"), 3)
    perfect.update({"segmentation": labels.clamp(max=2), "depth": torch.nan_to_num(depth), "normals": normals}, truth)
    result = perfect.compute()
    assert result["segmentation"]["miou"] == 1
    assert result["segmentation"]["iou"][2] is None
    assert result["depth"] == {"rmse": 0, "abs_rel": 0, "delta1": 1}
    assert result["normals"]["mean_deg"] < 0.1
    wrong = TaskMetrics(("segmentation", "depth", "normals"), 3)
    tilted = torch.zeros(1, 2, 2, 3)
    tilted[..., 0] = 1
    wrong.update({"segmentation": 1 - labels.clamp(max=1), "depth": 2 * depth, "normals": tilted}, truth)
    result = wrong.compute()
    assert result["segmentation"]["pixel_accuracy"] == 0
    assert result["depth"]["abs_rel"] == pytest.approx(1)
    assert result["depth"]["rmse"] == pytest.approx(np.sqrt((1 + 4 + 16) / 3))
    assert result["depth"]["delta1"] == 0
    assert result["normals"]["median_deg"] == pytest.approx(90, abs=0.02)
    empty = TaskMetrics(("depth",), 0)
    empty.update({"depth": depth}, {"depth": None})
    assert empty.compute()["depth"]["rmse"] is None
