"""Finds the colour camera of a recording, and the ground truth that belongs to it, by type, content and name.

Names alone lie (`/camera/image` may be infrared) and types alone say little (depth, labels and colour are all
Image), so the first message of every image topic is looked at, and the name breaks ties.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mila_ros.images import COLOR_ENCODINGS, DEPTH_ENCODINGS, is_compressed

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
IMAGE_TYPES = (IMAGE, COMPRESSED)

_COLOR_WORDS = {"color", "colour", "rgb"}
_DEPTH_WORDS = {"depth", "range"}
_LABEL_WORDS = {"label", "labels", "segmentation", "semantic", "semantics", "class", "classes"}
_NORMAL_WORDS = {"normal", "normals"}
# Pictures that are not what a colour camera saw, though they may be encoded as such.
_OTHER_WORDS = {
    "ir",
    "infra",
    "infra1",
    "infra2",
    "infrared",
    "thermal",
    "confidence",
    "disparity",
    "mask",
    "view",
    "debug",
}
_ALIGNED_WORDS = {"aligned", "registered"}


class Candidate(NamedTuple):
    """An image topic, as something that it could be."""

    topic: str
    kind: str
    """"color", "depth", "labels" or "normals"."""
    score: float
    frame_id: str


def base_topic(topic: str) -> str:
    """The topic without the suffix of its image_transport: /a/image_raw/compressed is /a/image_raw."""
    return re.sub(r"/(compressed|compressedDepth|zstd)$", "", topic)


def classify(topic: str, first: Any) -> Candidate | None:
    """What an image topic is, judging by its name and its first message; None for something else (infrared, a
    view, ...).
    """
    words = set(re.split(r"[^a-z0-9]+", base_topic(topic).lower()))
    frame_id = str(first.header.frame_id)
    raw = 0.0 if is_compressed(first) else 0.5
    encoding = str(first.format) if is_compressed(first) else str(first.encoding)
    if words & _LABEL_WORDS:
        fits = encoding in ("mono8", "8UC1", "mono16", "16UC1", "32SC1") or (is_compressed(first) and "png" in encoding)
        return Candidate(topic, "labels", raw, frame_id) if fits and not words & _OTHER_WORDS else None
    if words & _NORMAL_WORDS:
        return Candidate(topic, "normals", raw, frame_id) if encoding == "32FC3" else None
    depth = encoding.startswith(DEPTH_ENCODINGS) and encoding != "mono16"
    if depth or "compressedDepth" in encoding or (encoding == "mono16" and words & _DEPTH_WORDS):
        if words & _OTHER_WORDS or (
            not words & _DEPTH_WORDS and "compressedDepth" not in encoding and encoding != "32FC1"
        ):
            return None
        return Candidate(topic, "depth", raw + (4 if words & _ALIGNED_WORDS else 0), frame_id)
    if words & (_DEPTH_WORDS | _OTHER_WORDS) and not words & _COLOR_WORDS:
        return None
    if words & _OTHER_WORDS or (not is_compressed(first) and encoding not in COLOR_ENCODINGS):
        return None
    grey = encoding.startswith(("mono", "8UC1"))
    return Candidate(topic, "color", raw + (0 if grey else 2) + (4 if words & _COLOR_WORDS else 0), frame_id)


def pick_color(candidates: list[Candidate], infos: list[str]) -> Candidate | None:
    """The colour camera: a colour name before none, colour before grey, one with a camera_info, raw before
    compressed.
    """
    colors = [
        c._replace(score=c.score + (1 if sibling_info(c.topic, infos) else 0)) for c in candidates if c.kind == "color"
    ]
    return min(colors, key=lambda c: (-c.score, c.topic), default=None)


def pick_truth(kind: str, candidates: list[Candidate], color: Candidate) -> Candidate | None:
    """The topic whose pixels are the colour camera's: its name says aligned or registered, or its frame_id is
    the same.
    """
    matching = [
        c._replace(score=c.score + (2 if c.frame_id == color.frame_id else 0))
        for c in candidates
        if c.kind == kind and is_registered(c, color)
    ]
    return min(matching, key=lambda c: (-c.score, c.topic), default=None)


def is_registered(depth: Candidate, color: Candidate) -> bool:
    """Whether depth pictures have the colour camera's pixels, by name or frame_id."""
    return depth.frame_id == color.frame_id or depth.score >= 4


def sibling_info(topic: str, infos: list[str]) -> str | None:
    """The camera_info beside an image topic, as ROS names it: /a/image_raw has /a/camera_info."""
    wanted = base_topic(topic).rpartition("/")[0] + "/camera_info"
    return wanted if wanted in infos else None


def pick_info(topic: str, infos: list[str]) -> str | None:
    """The camera_info of an image topic: the one beside it, or the only one that there is."""
    return sibling_info(topic, infos) or (infos[0] if len(infos) == 1 else None)


def answer_prefixes(topics: Mapping[str, Any]) -> tuple[str, ...]:
    """Beginnings of the topics that a perception node of this package published: what stands beside its budget."""
    return tuple(
        name.rpartition("/")[0] + "/" for name, info in topics.items() if info.msgtype == "mila_ros/msg/ComputeBudget"
    )


def listing(topics: Mapping[str, Any]) -> str:
    """Topics and their types, for an error message."""
    return ", ".join(f"{name} ({info.msgtype}, {info.messages})" for name, info in sorted(topics.items())) or "none"
