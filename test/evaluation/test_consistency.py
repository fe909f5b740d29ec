"""Agreement along the motion: a pattern that moves with the picture agrees, one that stands still does not."""

from __future__ import annotations

import cv2
import numpy as np

from mila_ros.evaluation.consistency import Consistency

H, W, MOVE = 96, 128, 4


def pictures(frames: int):
    noise = np.random.default_rng(0).integers(0, 255, (H // 4, W // 2, 3), dtype=np.uint8)
    wide = cv2.resize(noise, (2 * W, H), interpolation=cv2.INTER_CUBIC)
    for i in range(frames):
        yield wide[:, i * MOVE : i * MOVE + W]


def test_what_moves_along_agrees_and_what_stands_still_does_not() -> None:
    consistency = Consistency()
    stripes = (np.arange(2 * W) // 8 % 2).astype(np.uint8)[None].repeat(H, 0)
    for i, picture in enumerate(pictures(5)):
        moving = stripes[:, i * MOVE : i * MOVE + W]
        answers = {
            "moving": {"segmentation": moving, "depth": 1 + moving.astype(np.float32)},
            "standing": {"segmentation": stripes[:, :W], "depth": 1 + stripes[:, :W].astype(np.float32)},
        }
        consistency.update(np.ascontiguousarray(picture), answers, i * 33_000_000)
    found = consistency.compute()
    assert consistency.pairs == 4
    assert found["moving"]["segmentation_agreement"] > 0.95
    assert found["standing"]["segmentation_agreement"] < 0.65
    assert found["moving"]["depth_change"] < 0.05 < 0.2 < found["standing"]["depth_change"]


def test_a_pause_or_another_size_is_no_pair() -> None:
    consistency = Consistency()
    depth = np.ones((H, W), np.float32)
    for stamp, size in ((0, 1), (2_000_000_000, 1), (2_030_000_000, 2), (2_060_000_000, 2)):
        picture = np.zeros((H // size, W // size, 3), np.uint8)
        consistency.update(picture, {"slow": {"depth": depth[::size, ::size]}}, stamp)
    assert consistency.pairs == 1
    found = consistency.compute()["slow"]
    assert found["depth_change"] == 0.0 and found["pairs"] == 1 and "DIS" in found["flow"]
