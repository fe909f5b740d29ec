"""A tiny folder in CamVid's layout, for tests: sky, road and a car that drives from left to right."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

_COLOURS = np.array([[220, 160, 120], [80, 80, 80], [40, 40, 180]], np.uint8)  # BGR


def make_tree(folder: Path, splits: Mapping[str, Sequence[str]], height: int = 64, width: int = 96) -> Path:
    """Write SPLIT/ and SPLITannot/ for the names of each split; the car stands where the name's number says."""
    for split, names in splits.items():
        for kind in (split, f"{split}annot"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            number = int("".join(c for c in name.split("_")[-1] if c.isdigit()))
            parts = np.zeros((height, width), np.uint8)
            parts[height // 2 :] = 1
            x = 2 * number % (width - 24)
            parts[height // 2 - 6 : height // 2 + 10, x : x + 24] = 2
            noise = np.random.default_rng(number).integers(0, 20, (height, width, 3), dtype=np.uint8)
            labels = np.array([0, 3, 8], np.uint8)[parts]
            labels[0] = 11
            cv2.imwrite(str(folder / split / f"{name}.jpg"), _COLOURS[parts] + noise)
            cv2.imwrite(str(folder / f"{split}annot" / f"{name}.png"), labels)
    return folder
