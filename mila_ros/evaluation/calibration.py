"""Whether confidence means what it says: of the pixels answered with 80 %, are 80 % right?

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: reliability by bins of equal width, and the
expected calibration error (ECE), the mean gap between confidence and accuracy weighted by pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mila_ros.worlds.frames import IGNORE

BINS = 15


class Calibration:
    """Accumulates over frames; memory does not grow."""

    def __init__(self) -> None:
        self._sums = np.zeros((3, BINS))
        """A row each: pixels, summed confidence, pixels that are right; a column a bin."""

    def update(
        self, confidence: npt.NDArray[np.float32], ids: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]
    ) -> None:
        """Probability of the class that was answered (0..1), that class, and the true one, all (h, w)."""
        known = truth != IGNORE
        sure = confidence[known].astype(np.float64)
        bins = np.clip((sure * BINS).astype(np.int64), 0, BINS - 1)
        for row, weights in enumerate((np.ones_like(sure), sure, (ids == truth)[known].astype(np.float64))):
            self._sums[row] += np.bincount(bins, weights, minlength=BINS)

    def compute(self) -> dict[str, Any] | None:
        """`ece` (0..1), and by bin that occurs `confidence`, `accuracy` and `share` of pixels; None without any."""
        pixels, sure, right = self._sums
        used = pixels > 0
        if not used.any():
            return None
        confidence, accuracy, share = sure[used] / pixels[used], right[used] / pixels[used], pixels[used] / pixels.sum()
        return {
            "ece": float((share * np.abs(confidence - accuracy)).sum()),
            "confidence": confidence.tolist(),
            "accuracy": accuracy.tolist(),
            "share": share.tolist(),
        }
