"""Video consistency (VC): over n frames in a row, which share of the pixels whose true class stays is always right?

Source: Miao et al., "VSPW: A Large-scale Dataset for Video Scene Parsing in the Wild", CVPR 2021, who report the mean
over all runs of n = 8 and n = 16 frames (mVC8, mVC16). It needs dense labels of every frame. A pixel counts where its
true class is the same in all n frames, so the measure looks at places of the picture, not at things that move.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mila_ros.worlds.frames import IGNORE

LENGTHS = (8, 16)
"""n, frames."""


class VideoConsistency:
    """Accumulates over the frames of videos, for several methods at once."""

    def __init__(self) -> None:
        self._truth: npt.NDArray[np.uint8] | None = None
        self._same: npt.NDArray[np.int32] = np.zeros((0, 0), np.int32)
        self._right: dict[str, npt.NDArray[np.int32]] = {}
        self._sums: dict[str, dict[int, list[float]]] = {}

    def new_video(self) -> None:
        """What follows has nothing to do with what came before."""
        self._truth = None

    def update(self, ids: Mapping[str, npt.NDArray[np.uint8]], truth: npt.NDArray[np.uint8]) -> None:
        """The next frame: class ids by method, and the true ones, all (h, w); IGNORE is left out."""
        known = truth != IGNORE
        if self._truth is None or self._truth.shape != truth.shape:
            self._same = known.astype(np.int32)
            self._right = {name: (known & (said == truth)).astype(np.int32) for name, said in ids.items()}
        else:
            stays = known & (truth == self._truth)
            # How many frames in a row: the class has been the same, and it has been answered right while it was.
            self._same = np.where(stays, self._same + 1, known)
            for name, said in ids.items():
                right = said == truth
                self._right[name] = np.where(right, np.where(stays, self._right[name] + 1, known), 0)
        self._truth = truth.copy()
        for length in LENGTHS:
            common = self._same >= length
            count = int(common.sum())
            if not count:
                continue
            for name, run in self._right.items():
                share = int((run >= length).sum()) / count
                self._sums.setdefault(name, {}).setdefault(length, []).append(share)

    def compute(self) -> dict[str, dict[str, Any]]:
        """By method: `vc8` and `vc16`, means over the runs of frames (0..1); left out where no video is so long."""
        return {
            name: {f"vc{length}": float(np.mean(shares)) for length, shares in by_length.items()}
            for name, by_length in self._sums.items()
        }
