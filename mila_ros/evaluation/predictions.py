"""predictions/: the answers of a replay as a recording that Foxglove and RViz play beside the input."""

from __future__ import annotations

import math
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mila_ros.evaluation import pictures
from mila_ros.evaluation.every_frame import Shown
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.bags import Bag, BagError
from mila_ros.worlds.frames import Intrinsics

MOST_FRAMES = 300
"""That are written; of longer recordings each n-th one, or the answers would need more disk than the input."""
BASE = "/perception/replay"
_ENCODINGS = {"segmentation": "mono8", "depth": "32FC1", "normals": "32FC3"}
_FARTHEST = 5.0
_WAITING = 4
"""Frames, at most, for the thread that writes."""


class Predictions:
    """Writes frames as they are answered, in a thread of its own: compressing takes as long as judging.

    A full disk ends the recording (`problem`), not the evaluation.

    Args:
        path: the folder; it must not exist.
        bag: that is replayed.
        table: class colours by id.
        seconds: of the recording that are replayed; None: all.
    """

    def __init__(self, path: Path, bag: Bag, table: pictures.Rgb, seconds: float | None = None) -> None:
        self.path, self._table = path, table
        played = 1.0 if seconds is None else min(1.0, seconds / max(bag.duration, 1e-9))
        self.every = max(1, math.ceil(bag.color_count * played / MOST_FRAMES))
        """Each so many frames one is written."""
        self.problem: str | None = None
        self._camera: Intrinsics | None = bag.camera_info
        self._topic = bag.color_topic.removesuffix("/compressed") + "/compressed"
        first = next(bag.messages([bag.color_topic]), None)
        self._frame_id: str = "" if first is None else bag.deserialize(first).header.frame_id
        self._bag: BagWriter | None = None
        self._thread = ThreadPoolExecutor(1, "predictions")
        self._waiting: deque[Future[None]] = deque()
        try:
            self._bag = BagWriter(path, compress=True)
        except (BagError, OSError) as error:
            self.problem = f"the answers were not recorded: {error}"

    def add(self, shown: Shown) -> None:
        """The next frame."""
        if self._bag is None or shown.number % self.every:
            return
        if len(self._waiting) == _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._record, shown))

    def _record(self, shown: Shown) -> None:
        if self._bag is None:  # the disk was found full meanwhile
            return
        try:
            self._write(self._bag, shown)
        except OSError as error:
            self.problem = f"the answers were not recorded: {self.path} cannot be written ({error.strerror})"
            self._bag = None
            shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, bag: BagWriter, shown: Shown) -> None:
        stamp_ns, make = shown.stamp_ns, bag.messages

        def picture(topic: str, rgb: pictures.Rgb) -> None:
            message = make.compressed_image(pictures.jpeg(rgb), "rgb8; jpeg compressed bgr8", stamp_ns, self._frame_id)
            bag.write_message(topic, message, stamp_ns)

        picture(self._topic, shown.rgb)
        if self._camera is not None:
            size = next(iter(shown.answers.values())).shape[:2]
            camera = self._camera.scaled(size[1], size[0])
            bag.write_message(f"{BASE}/camera_info", make.camera_info(camera, stamp_ns, self._frame_id), stamp_ns)
        for task, values in shown.answers.items():
            message = make.image(np.ascontiguousarray(values), _ENCODINGS[task], stamp_ns, self._frame_id)
            bag.write_message(f"{BASE}/{task}/image", message, stamp_ns)
            picture(
                f"{BASE}/{task}/view/compressed", pictures.task_picture(task, values, shown.rgb, self._table, _FARTHEST)
            )

    def close(self) -> None:
        """Complete the recording."""
        try:
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown()
        if self._bag is not None:
            try:
                self._bag.close()
            except OSError as error:
                self.problem = f"the recording of the answers is incomplete: {error.strerror}"
            self._bag = None
