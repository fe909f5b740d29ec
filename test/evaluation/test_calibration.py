"""Calibration of confidence, against torchmetrics and by hand, and where it is reported."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from mila_ros.evaluation.calibration import BINS, Calibration
from mila_ros.evaluation.replay_plots import calibration as plot


def test_it_agrees_with_torchmetrics_over_several_frames() -> None:
    rng = np.random.default_rng(0)
    sums, sure, right = Calibration(), [], []
    for _ in range(3):
        confidence = rng.uniform(0, 1, (20, 30)).astype(np.float32)
        truth, ids = (rng.integers(0, 3, (20, 30)).astype(np.uint8) for _ in range(2))
        truth[:5] = 255
        sums.update(confidence, ids, truth)
        sure.append(confidence[5:].ravel())
        right.append((ids == truth)[5:].ravel())
    expected = binary_calibration_error(
        torch.from_numpy(np.concatenate(sure)), torch.from_numpy(np.concatenate(right)).long(), n_bins=BINS, norm="l1"
    )
    assert sums.compute()["ece"] == pytest.approx(float(expected), abs=1e-6)


def test_by_hand_and_nothing_of_nothing() -> None:
    sums = Calibration()
    assert sums.compute() is None
    nothing = np.full((1, 1), 255, np.uint8)
    sums.update(np.ones((1, 1), np.float32), nothing, nothing)
    assert sums.compute() is None
    truth = np.zeros((1, 4), np.uint8)
    sums.update(np.float32([[1.0, 1.0, 0.5, 0.5]]), np.uint8([[0, 1, 0, 1]]), truth)
    found = sums.compute()
    assert found == {"ece": 0.25, "confidence": [0.5, 1.0], "accuracy": [0.5, 0.5], "share": [0.5, 0.5]}
    assert plot({"slow": {"metrics": {}}}) is None
    drawn = plot({"slow": {"calibration": found}, "mila/10": {"metrics": {}}})
    fewer = plot({"slow": {"calibration": found | {"confidence": [0.5], "accuracy": [0.5]}}})
    assert drawn.startswith("<svg") and drawn.count("<use") > fewer.count("<use")  # a mark a bin
