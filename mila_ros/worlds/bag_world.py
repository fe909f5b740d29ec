"""A recording of an RGB-D camera as a data set: one video, its depth camera the ground truth.

Any rosbag2 (or ROS 1 bag) with a colour camera and depth or label pictures beside it (bags.py finds the topics by type
and name). Normals are fitted to depth. Labels, if there is a topic of them, must be those of the network.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mila_ros.errors import UserError
from mila_ros.worlds.bags import Bag, BagTruncated, RawMessage, stamp_of
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.plane_normals import fitted_normals
from mila_ros.worlds.world import NoFramesError, World, check_labels

_LOG = logging.getLogger(__name__)

_TRAINED_SHARE = 0.8
_LARGEST = 6e9
"""Bytes of messages that are kept."""


class BagWorld(World):
    """Colour frames with ground truth, in order.

    The messages are kept as they were recorded and decoded when they are asked for.

    Args:
        folder: the recording, a folder or a file.
        split: "all"; "train": the first four fifths in time; "validation": the rest.
        classes: names of the labels, if they are others than NYU-40's.

    Raises:
        UserError: no recording (BagError), one without a colour camera, calibration or ground truth, or a huge one.
    """

    label_set = "nyu40"
    any_classes = True

    def __init__(self, folder: Path, split: str = "all", classes: Sequence[str] = ()) -> None:
        self.folder = folder
        self.classes = tuple(classes) or load_labels(self.label_set).classes
        if split not in ("all", "train", "validation"):
            raise NoFramesError(f'a recording has the splits train, validation and all, not "{split}"')
        self._bag = Bag(folder)
        if self._bag.camera_info is None:
            raise UserError(
                f"{folder}: {self._bag.camera_info_problem}; depth in metres needs the focal length: record the "
                "camera's camera_info, too"
            )
        self._pairs: list[tuple[RawMessage, dict[str, RawMessage]]] = []
        held = 0
        try:
            for message, partners in self._bag.pairs():
                held += len(message.data) + sum(len(partner.data) for partner in partners.values())
                if held > _LARGEST:
                    raise UserError(
                        f"{folder} holds more than {_LARGEST / 1e9:g} GB of pictures, which are kept in memory: cut it "
                        "into pieces, or record compressed pictures"
                    )
                # Once through all of it, so that a damaged picture is left out (and logged), not met on the way.
                if self._bag.frame(message, partners) is not None:
                    self._pairs.append((message, partners))
        except BagTruncated as error:
            _LOG.warning("%s; what is readable is used", error)
        # A frame without a partner is no ground truth, but still part of the video.
        kinds = {kind for _, partners in self._pairs for kind in partners}
        if not kinds:
            raise UserError(f"{folder} has a colour camera but no depth or labels to judge by")
        cut = round(_TRAINED_SHARE * len(self._pairs))
        self._pairs = {"all": self._pairs, "train": self._pairs[:cut], "validation": self._pairs[cut:]}[split]
        if not self._pairs:
            raise NoFramesError(f"{folder} has too few frames for the split {split}")
        normals = {"normals"} if "depth" in kinds else set()
        wanted = {"labels": "segmentation"}
        found = {wanted.get(kind, kind) for kind in kinds} | normals
        self.tasks = tuple(task for task in ("segmentation", "depth", "normals") if task in found)
        partnered = [index for index, (_, partners) in enumerate(self._pairs) if partners]
        self.labelled = partnered if len(partnered) < len(self._pairs) else None
        self.names = [str(stamp_of(message)) for message, _ in self._pairs]
        self.videos = [range(len(self.names))] if len(self.names) > 1 else []

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        message, partners = self._pairs[index]
        frame = self._bag.frame(message, partners)
        if frame is None:
            raise UserError(f"{self.folder}: frame {self.names[index]} of {message.topic} cannot be decoded")
        if not self.reads_labels:
            frame = replace(frame, labels=None)
        if frame.labels is not None:
            check_labels(frame.labels, len(self.classes), self.folder)
        if frame.depth is not None and frame.normals is None:
            known = np.where(np.isfinite(frame.depth), frame.depth, 0).astype(np.float32)
            frame = replace(frame, normals=fitted_normals(known, frame.intrinsics))
        return frame
