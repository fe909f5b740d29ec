"""How a robot's camera moves between two frames, for views made from a still."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mila_ros.worlds.geometry import rotation


class Motion(NamedTuple):
    """What a camera does in a frame at 30 Hz; each but the speed is the spread of a normal distribution."""

    degrees: tuple[float, float, float]
    """Pitch, yaw, roll."""
    metres: tuple[float, float, float]
    """Right, down, ahead."""
    speed: float = 0.0
    """Metres ahead, at most: evenly distributed from zero."""


MOTIONS = {
    # By a person or a small robot: about 3 pixels a frame at 640 x 480, as seen in hand-held recordings.
    "carried": Motion((0.35, 0.35, 0.14), (0.012, 0.012, 0.012)),
    # By a car through a town, up to 54 km/h.
    "driven": Motion((0.04, 0.25, 0.03), (0.005, 0.005, 0.0), speed=0.5),
}
"""How cameras are moved."""


def random_motion(distance: Tensor, generator: torch.Generator, motion: str = "carried") -> Tensor:
    """Transforms from each frame's camera to where it was `distance` frames earlier.

    (B,) -> (B, 4, 4), each frame with a motion of its own; (B, T) -> (B, T, 4, 4), T places along one motion.

    Args:
        distance: in frames at 30 Hz.
        generator: on distance's device.
        motion: one of MOTIONS.
    """
    count, device = len(distance), distance.device
    how = MOTIONS[motion]
    angles = torch.randn(count, 3, generator=generator, device=device) * torch.tensor(how.degrees, device=device)
    metres = torch.randn(count, 3, generator=generator, device=device) * torch.tensor(how.metres, device=device)
    if how.speed:  # where the camera was, what it now sees ahead was further away
        metres[:, 2] += how.speed * torch.rand(count, generator=generator, device=device)
    along = distance.view(count, -1, 1)
    found = torch.eye(4, device=device).repeat(count, along.shape[1], 1, 1)
    found[..., :3, :3] = rotation((torch.deg2rad(angles)[:, None] * along).flatten(0, 1)).unflatten(0, along.shape[:2])
    found[..., :3, 3] = metres[:, None] * along
    return found if distance.ndim == 2 else found[:, 0]
