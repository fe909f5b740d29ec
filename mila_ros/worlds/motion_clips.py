"""Short rendered clips that are told apart by motion alone: what the camera does, or that somebody walks.

A single frame says little about the class: rooms and views are drawn alike for all of them, and people stand or walk in
half of the clips (but nobody walks in "still", and in "person walks" somebody is always there). For modules whose
original job is video classification (models/video.py).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from mila_ros.worlds.geometry import rotation
from mila_ros.worlds.rendered import RATE, RenderedWorld
from mila_ros.worlds.rendered_paths import camera_path
from mila_ros.worlds.rendered_people import Person, dress
from mila_ros.worlds.rendered_rooms import build_scene
from mila_ros.worlds.rendered_scene import Scene

MOTIONS = ("still", "forward", "backward", "left", "right", "turn left", "turn right", "person walks")
FRAMES = 8
SECONDS = 0.2
"""From one frame to the next."""

Array = npt.NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True)
class MotionClips:
    """N clips."""

    rgb: Tensor
    """(N, T, 3, H, W), uint8."""
    labels: Tensor
    """(N,), int64: index into MOTIONS."""


def motion_clips(count: int, seed: int, height: int = 96, width: int = 128) -> MotionClips:
    """Render `count` clips, as many of each class as that allows; the same seed gives the same clips."""
    world = RenderedWorld(height=height, width=width, shadows=1)
    times = np.arange(FRAMES) * SECONDS
    rgb = torch.empty(count, FRAMES, 3, height, width, dtype=torch.uint8)
    labels = torch.arange(count) % len(MOTIONS)
    for index in tqdm(range(count), desc="render clips", unit="clip", file=sys.stderr):
        rng = np.random.default_rng([seed, index])
        motion = MOTIONS[int(labels[index])]
        scene = build_scene(rng)
        start = camera_path(rng, scene, 1, RATE)[0]
        if motion == "person walks":
            _person(rng, scene, start, walks=True)
        elif rng.random() < 0.5:
            _person(rng, scene, start, walks=motion != "still" and rng.random() < 0.5)
        focal = width * rng.uniform(0.8, 1.0)
        camera = np.array([[focal, focal, (width - 1) / 2, (height - 1) / 2]])
        clip = world.assemble([scene], [_poses(rng, motion, start)], camera, times, seed * 100_003 + index)
        rgb[index] = world.render(clip).rgb[0]
    return MotionClips(rgb, labels)


def _poses(rng: Random, motion: str, start: Array) -> Array:
    """(T, 4, 4), from a camera that is held as still as a hand can."""
    steps = np.arange(FRAMES) * SECONDS
    move, turn = np.zeros((FRAMES, 3)), np.zeros((FRAMES, 3))  # optical axes: x right, y down, z forward
    along = {"forward": (2, 1), "backward": (2, -1), "right": (0, 1), "left": (0, -1)}
    if motion in along:
        axis, sign = along[motion]
        move[:, axis] = sign * rng.uniform(0.25, 0.6) * steps
    elif motion.startswith("turn"):
        turn[:, 1] = (1 if motion == "turn right" else -1) * np.radians(rng.uniform(10, 25)) * steps
    shake = rng.normal(0, 1, (2, FRAMES, 3))
    move, turn = move + 0.002 * shake[0], turn + np.radians(0.15) * shake[1]
    relative = np.tile(np.eye(4), (FRAMES, 1, 1))
    relative[:, :3, :3] = rotation(torch.from_numpy(turn)).numpy()
    relative[:, :3, 3] = move
    return np.asarray(start @ relative)


def _person(rng: Random, scene: Scene, camera: Array, walks: bool) -> None:
    """Somebody in view, who crosses it or stands in it."""
    ahead = camera[:2, 2] / max(float(np.linalg.norm(camera[:2, 2])), 1e-6)
    aside = np.array([ahead[1], -ahead[0]]) * rng.choice([-1.0, 1.0])
    half = scene.size[:2] / 2 - 0.3
    spot = camera[:2, 3] + ahead * rng.uniform(1.3, 2.6)
    first, last = (np.clip(spot + aside * step, -half, half) for step in (-0.9, 0.9))
    speed = rng.uniform(0.6, 1.1)
    if not walks:
        first = last = np.clip(spot + aside * rng.uniform(-0.7, 0.7), -half, half)
    person = Person(first, last, rng.uniform(-np.pi, np.pi), rng.uniform(1.5, 1.9), speed, rng.uniform(0.0, 0.3))
    dress(scene, person, rng)
