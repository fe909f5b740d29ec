"""Rendered rooms as a data set: short videos with ground truth for every pixel of every frame, from a seed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.worlds.frames import Frame, Intrinsics
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.rendered import RenderedClip, RenderedWorld
from mila_ros.worlds.world import NoFramesError, World

_CLIPS = 8
_FRAMES = 31
"""Of a clip, at 30 Hz: three intervals of ten."""
_HEIGHT, _WIDTH = 240, 320
_APART = 1_000_003
"""Between the seeds of splits, and above those that training usually begins with: no room is in two of them."""


class RenderedClips(World):
    """Eight rooms a split, a second of each. Rendered when it is asked for, a clip at a time, on the CPU.

    Args:
        folder: the seed, a whole number; the same seed gives the same pictures.
        split: "train", "validation", or "all": both.
        classes: only NYU-40's.

    Raises:
        UserError: no number.
    """

    label_set = "nyu40"
    tasks = ("segmentation", "depth", "normals")

    def __init__(self, folder: Path, split: str = "all", classes: Sequence[str] = ()) -> None:
        if not str(folder).isdigit():
            raise UserError(f'rendered:{folder}: expected rendered:SEED, a whole number, for example "rendered:1"')
        splits = {"all": (1, 2), "train": (1,), "validation": (2,)}
        if split not in splits:
            raise NoFramesError(f'rendered rooms have the splits {", ".join(splits)}, not "{split}"')
        self.classes = load_labels(self.label_set).classes
        if classes and tuple(classes) != self.classes:
            raise UserError(f"rendered rooms are labelled with the classes of {self.label_set} and no others")
        first = int(str(folder)) * 1009
        self._seeds = [first + part * _APART + clip for part in splits[split] for clip in range(_CLIPS)]
        count = len(self._seeds)
        self.names = [f"clip {clip} frame {frame}" for clip in range(count) for frame in range(_FRAMES)]
        self.videos = [range(clip * _FRAMES, (clip + 1) * _FRAMES) for clip in range(count)]
        self._clip = lru_cache(maxsize=2)(self._rendered)
        self._one_at_a_time = Lock()

    def _rendered(self, number: int) -> RenderedClip:
        # Takes seconds to minutes, in which whoever waits sees nothing else.
        tqdm.write(f"rendering clip {number + 1} of {len(self._seeds)}", file=sys.stderr)
        world = RenderedWorld(height=_HEIGHT, width=_WIDTH)
        return world.clips(1, _FRAMES, seed=self._seeds[number])

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        number, at = divmod(range(len(self.names))[index], _FRAMES)
        with self._one_at_a_time:  # threads that want the same clip wait for it
            clip = self._clip(number)
        fx, fy, cx, cy = (float(value) for value in clip.intrinsics[0])
        return Frame(
            rgb=np.ascontiguousarray(clip.rgb[0, at].permute(1, 2, 0).numpy()),
            intrinsics=Intrinsics(fx, fy, cx, cy, _WIDTH, _HEIGHT),
            depth=clip.depth[0, at].numpy(),
            labels=clip.labels[0, at].numpy(),
            normals=np.ascontiguousarray(clip.normals[0, at].permute(1, 2, 0).numpy()),
            pose=clip.pose[0, at].double().numpy(),
            stamp_ns=round(at * 1e9 / 30),
            name=self.names[index],
        )
