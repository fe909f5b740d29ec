"""A small recording of a moving pattern with depth and labels, and a tiny network, for the tests of replay."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.runtime.engine import Engine
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.frames import Intrinsics

H, W = 64, 96
CAMERA = Intrinsics(90.0, 90.0, W / 2 - 0.5, H / 2 - 0.5, W, H)
START = 1_600_000_000_000_000_000
PERIOD = 33_333_333
COLOR, DEPTH, LABELS = "/cam/color/image_raw", "/cam/aligned_depth_to_color/image_raw", "/cam/labels/image_raw"


def write_bag(path: Path, frames: int, truth: bool = True, labels: int = 3, every: int = 1) -> Path:
    """A wall of noise that moves two pixels a frame, 2 m away; its left half is one class, its right half another."""
    noise = np.random.default_rng(0).integers(0, 255, (H, W + 2 * frames, 3), dtype=np.uint8)
    with BagWriter(path) as bag:
        for i in range(frames):
            stamp = START + i * PERIOD
            picture = np.ascontiguousarray(noise[:, 2 * i : 2 * i + W])
            info = bag.messages.camera_info(CAMERA, stamp, "optical")
            bag.write_message("/cam/color/camera_info", info, stamp)
            bag.write_message(COLOR, bag.messages.image(picture, "rgb8", stamp, "optical"), stamp)
            if truth and i % every == 0:
                depth = np.full((H, W), 2000, np.uint16)
                bag.write_message(DEPTH, bag.messages.image(depth, "16UC1", stamp, "optical"), stamp)
                classes = np.full((H, W), 1, np.uint8)
                classes[:, W // 2 :] = labels
                bag.write_message(LABELS, bag.messages.image(classes, "mono8", stamp, "optical"), stamp)
    return path


def tiny_model() -> Mila:
    """Always the same weights."""
    torch.manual_seed(0)
    return Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"working_pixels": H * W})).eval()


class OneThread(Engine):
    """On a busy machine two threads wait for one another, and tests of a clock would measure that."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.shares.all = nullcontext  # type: ignore[method-assign]


def tiny_engine() -> Engine:
    return OneThread(tiny_model(), device="cpu", precision="fp32", threads=1, slow_threads=1)
