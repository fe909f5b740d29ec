"""A tiny folder in NYUv2's layout, for tests: rooms of two planes and a box, with labels and depth."""

from pathlib import Path

import cv2
import numpy as np

from mila_ros.worlds.nyuv2 import DEPTH_UNIT


def make_tree(folder: Path, names: list[str], height: int = 96, width: int = 128) -> Path:
    """Write rgb/, depth8/ and label40/ for each name; the same names give the same pictures."""
    for kind in ("rgb", "depth8", "label40"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name in names:
        random = np.random.default_rng(int(name))
        labels = np.zeros((height, width), np.uint8)
        depth = np.full((height, width), 4.0, np.float32)
        floor = np.arange(height // 2, height)
        labels[floor] = 1
        depth[floor] = (4.0 * (height / 2) / np.maximum(floor, 1) * 0.9)[:, None]
        x, y = int(random.integers(10, width - 50)), int(random.integers(10, height - 40))
        labels[y : y + 30, x : x + 40] = 4
        depth[y : y + 30, x : x + 40] = 1.5
        labels[:2] = 255
        colours = np.array([[200, 200, 210], [90, 140, 90], [0, 0, 0], [0, 0, 0], [60, 60, 190]], np.uint8)
        rgb = colours[np.minimum(labels, 4)] + random.integers(0, 20, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "rgb" / f"{name}.jpg"), rgb)
        cv2.imwrite(str(folder / "depth8" / f"{name}.png"), np.round(depth / DEPTH_UNIT - 0.5).astype(np.uint8))
        cv2.imwrite(str(folder / "label40" / f"{name}.png"), labels)
    return folder
