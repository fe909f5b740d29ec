"""How a robot's camera moves between two frames, for views made from a still."""

from __future__ import annotations

import torch
from torch import Tensor

from mila_ros.worlds.geometry import rotation

DEGREES_A_FRAME = 0.35
METRES_A_FRAME = 0.012
"""Spread of motion at 30 Hz; together about 3 pixels a frame at 640 x 480, as seen in hand-held recordings."""


def random_motion(distance: Tensor, generator: torch.Generator) -> Tensor:
    """Transforms from each frame's camera to where it was `distance` frames earlier: (B,) -> (B, 4, 4)."""
    count, device = len(distance), distance.device
    less_roll = torch.tensor([1.0, 1.0, 0.4], device=device)
    angles = torch.randn(count, 3, generator=generator, device=device) * less_roll * DEGREES_A_FRAME
    metres = torch.randn(count, 3, generator=generator, device=device) * METRES_A_FRAME
    motion = torch.eye(4, device=device).repeat(count, 1, 1)
    motion[:, :3, :3] = rotation(torch.deg2rad(angles) * distance[:, None])
    motion[:, :3, 3] = metres * distance[:, None]
    return motion
