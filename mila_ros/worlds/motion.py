"""How a robot's camera moves between two frames, for views made from a still."""

from __future__ import annotations

import torch
from torch import Tensor

from mila_ros.worlds.geometry import rotation

DEGREES_A_FRAME = 0.35
METRES_A_FRAME = 0.012
"""Spread of motion at 30 Hz; together about 3 pixels a frame at 640 x 480, as seen in hand-held recordings."""


def random_motion(distance: Tensor, generator: torch.Generator) -> Tensor:
    """Transforms from each frame's camera to where it was `distance` frames earlier.

    (B,) -> (B, 4, 4), each frame with a motion of its own; (B, T) -> (B, T, 4, 4), T places along one motion.
    """
    count, device = len(distance), distance.device
    less_roll = torch.tensor([1.0, 1.0, 0.4], device=device)
    angles = torch.randn(count, 3, generator=generator, device=device) * less_roll * DEGREES_A_FRAME
    metres = torch.randn(count, 3, generator=generator, device=device) * METRES_A_FRAME
    along = distance.view(count, -1, 1)
    motion = torch.eye(4, device=device).repeat(count, along.shape[1], 1, 1)
    motion[..., :3, :3] = rotation((torch.deg2rad(angles)[:, None] * along).flatten(0, 1)).unflatten(0, along.shape[:2])
    motion[..., :3, 3] = metres[:, None] * along
    return motion if distance.ndim == 2 else motion[:, 0]
