"""The recorder's outputs joined, by stamp, with the pictures they answer and the ground truth of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mila_ros import images
from mila_ros.evaluation.inputs import DEFAULT_FOV
from mila_ros.worlds.bag_storage import BagTruncated, RawMessage, Storage
from mila_ros.worlds.bags import Bag, fov_intrinsics, stamp_of
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.plane_normals import fitted_normals

# Outputs of one frame are published together, but each topic arrives on its own way.
_OPEN_STAMPS = 8
_DECODERS = {
    "segmentation": images.decode_labels,
    "depth": images.decode_depth,
    "normals": images.decode_normals,
}


@dataclass
class Answers:
    """Outputs of the node for one frame, as they were recorded."""

    stamp_ns: int
    raw: dict[str, RawMessage] = field(default_factory=dict)
    """By task; "picture": the camera's, where the recorder kept it."""


@dataclass(frozen=True)
class Moment:
    """One frame: what the camera saw, what the node said, what is true."""

    stamp_ns: int
    """As it was played."""
    rgb: npt.NDArray[np.uint8]
    """(H, W, 3)."""
    answers: dict[str, npt.NDArray[Any]]
    """By task, at the node's output size: segmentation (h, w) uint8, depth (h, w) metres, normals (h, w, 3)."""
    truth: dict[str, npt.NDArray[Any]]
    """By task, brought to the output size by nearest neighbour; tasks without ground truth are missing."""


def recorded_answers(storage: Storage, node: str, camera: str, tasks: Iterable[str], picture: str) -> Iterator[Answers]:
    """Outputs grouped by stamp, in the order in which they came. `picture`: the camera's own topic."""
    kinds = {f"{node}/{camera}/{task}/image": task for task in tasks} | {picture: "picture"}
    waiting: dict[int, Answers] = {}
    for message in storage.messages(list(kinds)):
        stamp = stamp_of(message)
        waiting.setdefault(stamp, Answers(stamp)).raw[kinds[message.topic]] = message
        if len(waiting) > _OPEN_STAMPS:
            yield waiting.pop(min(waiting))
    for stamp in sorted(waiting):
        yield waiting[stamp]


def with_frames(
    storage: Storage, answers: Iterable[Answers], bag: Bag | None, first_stamp_ns: int, fov_deg: float | None = None
) -> Iterator[tuple[Answers, Frame]]:
    """Answers with the frames they answer; those whose frame is not known are left out.

    Args:
        storage: the recording that the answers are from.
        answers: from `recorded_answers`.
        bag: the recording that was played; None: the pictures are among the answers.
        first_stamp_ns: stamp with which the bag's first picture was played; all others are moved as far.
        fov_deg: horizontal field of view of the pictures that are among the answers.
    """
    if bag is None:
        for answer in answers:
            if "picture" in answer.raw and len(answer.raw) > 1:
                rgb = images.decode_color(storage.deserialize(answer.raw["picture"]))
                yield answer, Frame(rgb, fov_intrinsics(fov_deg or DEFAULT_FOV, rgb.shape[1], rgb.shape[0]))
        return
    frames = _by_stamp(bag, first_stamp_ns)
    stamp, frame = next(frames, (None, None))
    for answer in answers:
        while frame is not None and stamp is not None and stamp < answer.stamp_ns:
            stamp, frame = next(frames, (None, None))
        if frame is None:
            return
        if stamp == answer.stamp_ns and set(answer.raw) - {"picture"}:
            yield answer, frame


def has_truth(frame: Frame) -> bool:
    """Whether there is anything to judge against."""
    return any(truth is not None for truth in (frame.depth, frame.labels, frame.normals))


def moment_of(storage: Storage, answers: Answers, frame: Frame) -> Moment:
    """Everything about a frame, decoded. Fitting normals takes most of the time, so do it for few."""
    found = decoded(storage, answers)
    size = next(iter(found.values())).shape[:2]
    return Moment(answers.stamp_ns, frame.rgb, found, truth_of(frame, size))


def decoded(storage: Storage, answers: Answers) -> dict[str, npt.NDArray[Any]]:
    """Arrays by task."""
    return {
        task: _DECODERS[task](storage.deserialize(message))
        for task, message in answers.raw.items()
        if task != "picture"
    }


def truth_of(frame: Frame, size: tuple[int, int]) -> dict[str, npt.NDArray[Any]]:
    """Ground truth by task at `size` (h, w). Where there are no normals, planes are fitted to the depth."""
    truth: dict[str, npt.NDArray[Any]] = {}
    if frame.labels is not None:
        truth["segmentation"] = nearest(frame.labels, size)
    if frame.depth is not None:
        truth["depth"] = nearest(frame.depth, size)
    normals = frame.normals
    if normals is None and frame.depth is not None:
        normals = fitted_normals(frame.depth, frame.intrinsics, size=size)
    if normals is not None:
        truth["normals"] = nearest(normals, size)
    return truth


def nearest(pixels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Resized without making up values that nobody measured."""
    if pixels.shape[:2] == size:
        return pixels
    return cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def _by_stamp(bag: Bag, first_stamp_ns: int) -> Iterator[tuple[int, Frame]]:
    """The bag's frames under the stamps that they were played with; ends early where the bag is cut off."""
    try:
        # Not the first frame: that one may be damaged, and then it is left out.
        first = next(bag.messages([bag.color_topic]))
        offset = first_stamp_ns - stamp_of(first)
        for frame in bag.frames():
            if frame.stamp_ns is not None:
                yield frame.stamp_ns + offset, frame
    except BagTruncated:
        return
