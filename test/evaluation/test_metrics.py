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
    assert result["depth"] == {"rmse": 0, "abs_rel": 0, "delta1": 1, "delta1_scaled": 1}
    assert result["normals"]["mean_deg"] < 0.1
    wrong = TaskMetrics(("segmentation", "depth", "normals"), 3)
    tilted = torch.zeros(1, 2, 2, 3)
    tilted[..., 0] = 1
    wrong.update({"segmentation": 1 - labels.clamp(max=1), "depth": 2 * depth, "normals": tilted}, truth)
    result = wrong.compute()
    assert result["segmentation"]["pixel_accuracy"] == 0
    assert result["depth"]["abs_rel"] == pytest.approx(1)
    assert result["depth"]["rmse"] == pytest.approx(np.sqrt((1 + 4 + 16) / 3))
    assert result["depth"]["delta1"] == 0 and result["depth"]["delta1_scaled"] == 1  # twice as far everywhere
    assert result["normals"]["median_deg"] == pytest.approx(90, abs=0.02)
    empty = TaskMetrics(("depth",), 0)
    empty.update({"depth": depth}, {"depth": None})
    assert empty.compute()["depth"]["rmse"] is None


def test_no_answer_is_as_wrong_as_can_be() -> None:
    metrics = TaskMetrics(("normals",), 0)
    true = torch.zeros(1, 1, 4, 3)
    true[..., 2] = -1
    true[0, 0, 3] = np.nan
    said = true.nan_to_num(0.5)
    said[0, 0, 0] = np.nan
    said[0, 0, 1, 2] = -np.inf
    metrics.update({"normals": said}, {"normals": true})
    assert metrics.compute()["normals"]["mean_deg"] == pytest.approx(120)
    with pytest.raises(ValueError, match="cannot be judged"):
        metrics.update({"normals": said[:, :, :2]}, {"normals": true})


def test_depth_is_also_judged_with_each_picture_s_median_made_right() -> None:
    rng = np.random.default_rng(6)
    true = rng.uniform(0.5, 8, (3, 5, 7))
    said = true * rng.uniform(0.7, 1.4, true.shape) * np.array([0.5, 1.0, 3.0])[:, None, None]
    true[1, 0] = np.nan
    metrics = TaskMetrics(("depth",), 0)
    metrics.update({"depth": torch.from_numpy(said)}, {"depth": torch.from_numpy(true)})
    near = []
    for picture, its_truth in zip(said, true, strict=True):
        known = np.isfinite(its_truth)
        s, t = picture[known], its_truth[known]
        s = s * np.quantile(t, 0.5, method="lower") / np.quantile(s, 0.5, method="lower")
        near.append(np.maximum(s / t, t / s) < 1.25)
    found = metrics.compute()["depth"]
    assert found["delta1_scaled"] == pytest.approx(np.concatenate(near).mean(), rel=1e-9)
    assert found["delta1_scaled"] > found["delta1"]


def test_random_answers_against_plain_numpy() -> None:
    rng = np.random.default_rng(5)
    classes, shape = 7, (3, 20, 30)
    said, true = rng.integers(0, classes, shape), rng.integers(0, classes - 1, shape)  # the last class never occurs
    true[0, :4] = IGNORE
    normals, true_normals = (rng.normal(size=(*shape, 3)) for _ in range(2))
    normals, true_normals = (n / np.linalg.norm(n, axis=-1, keepdims=True) for n in (normals, true_normals))
    metrics = TaskMetrics(("segmentation", "normals"), classes)
    for index in range(shape[0]):  # a frame at a time: sums, not means of means
        metrics.update(
            {
                "segmentation": torch.from_numpy(said[index]).to(torch.uint8),
                "normals": torch.from_numpy(normals[index]),
            },
            {
                "segmentation": torch.from_numpy(true[index]).to(torch.uint8),
                "normals": torch.from_numpy(true_normals[index]),
            },
        )
    found = metrics.compute()
    known = true != IGNORE
    overlaps = [((said == c) & (true == c)).sum() for c in range(classes)]
    unions = [(((said == c) | (true == c)) & known).sum() for c in range(classes)]
    iou = [o / u for o, u in zip(overlaps, unions, strict=True)][:-1]
    np.testing.assert_allclose(found["segmentation"]["iou"][:-1], iou, rtol=1e-6)
    assert found["segmentation"]["iou"][-1] is None
    assert found["segmentation"]["miou"] == pytest.approx(np.mean(iou), rel=1e-6)
    assert found["segmentation"]["pixel_accuracy"] == pytest.approx((said == true)[known].mean(), rel=1e-6)
    angle = np.degrees(np.arccos(np.clip((normals * true_normals).sum(axis=-1), -1, 1)))
    assert found["normals"]["mean_deg"] == pytest.approx(angle.mean(), rel=1e-6)
    assert found["normals"]["median_deg"] == pytest.approx(np.median(angle), abs=0.2)
    for name, limit in (("within_11_25", 11.25), ("within_22_5", 22.5), ("within_30", 30.0)):
        assert found["normals"][name] == pytest.approx((angle < limit).mean(), abs=1e-6)
