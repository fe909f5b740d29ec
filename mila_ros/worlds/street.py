"""How far away things in a street are, guessed from what they are: to move a camera where no depth was measured.

The road is a plane below the camera, whatever stands on it is upright and as far away as the ground that it stands
on, the sky is far ("Automatic photo pop-up", Hoiem, Efros, Hebert, SIGGRAPH 2005). Good enough to make the view of a
camera that drove on; never good enough to learn depth from or to judge by.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mila_ros.worlds.frames import Intrinsics

GROUND = ("road", "pavement", "sidewalk", "terrain")
SKY = "sky"
_CAMERA_HEIGHT = 1.4
"""Metres above the road, behind a windscreen."""
_FARTHEST = 150.0


def standing_depth(
    labels: npt.NDArray[np.uint8], classes: Sequence[str], camera: Intrinsics
) -> npt.NDArray[np.float32] | None:
    """Guessed metres along the optical axis of a level camera, (H, W); None where the picture has no ground.

    Args:
        labels: (H, W), class ids.
        classes: names of the classes.
        camera: of the picture.
    """
    ground = np.isin(labels, [i for i, name in enumerate(classes) if name in GROUND])
    if not ground.any():
        return None
    height, width = labels.shape
    rows = np.arange(height, dtype=np.float32)
    # Cameras are hardly ever level: no ground lies above the horizon.
    horizon = min(camera.cy, float(np.quantile(np.nonzero(ground)[0], 0.002)) - 1.0)
    along = np.minimum(camera.fy * _CAMERA_HEIGHT / np.maximum(rows - horizon, 1e-3), _FARTHEST)
    # Each pixel stands on the nearest row of ground at or below it, in its column.
    below = np.where(ground, rows[:, None], np.float32(np.inf))
    stands_on = np.minimum.accumulate(below[::-1], axis=0)[::-1]
    nearest = along[-1]  # nothing below it is ground: it is cut off by the picture's edge, and near
    depth = np.full((height, width), nearest, np.float32)
    known = np.isfinite(stands_on)
    depth[known] = along[stands_on[known].astype(np.int64)]
    sky = np.isin(labels, [i for i, name in enumerate(classes) if name == SKY])
    depth[sky] = _FARTHEST
    return depth
