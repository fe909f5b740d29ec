"""Frames with ground truth from recordings: rosbag2 (MCAP, SQLite, compressed, split, cut off) and ROS 1
bags.

Needs no ROS installation. The colour camera and what belongs to it are found by themselves (see bag_topics)
or named.
"""

from __future__ import annotations

import logging
import math
import struct
from collections import deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mila_ros import images
from mila_ros.camera_info import CameraInfoError, intrinsics, is_rectified
from mila_ros.worlds import bag_topics
from mila_ros.worlds.bag_registration import Registration, chain
from mila_ros.worlds.bag_storage import BagError, BagTruncated, RawMessage, TopicInfo, open_storage
from mila_ros.worlds.frames import Frame, Intrinsics

__all__ = ["Bag", "BagError", "BagTruncated", "RawMessage", "TopicInfo", "fov_intrinsics", "stamp_of"]

_LOG = logging.getLogger(__name__)
_TRUTH = ("depth", "labels", "normals")
_DECODERS: dict[str, Callable[[Any], npt.NDArray[Any]]] = {
    "depth": images.decode_depth,
    "labels": images.decode_labels,
    "normals": images.decode_normals,
}
# How many colour frames wait for ground truth that is recorded later, before they go without.
_PATIENCE = 30


Pinhole = tuple[float, float, float, float]
"""fx, fy, cx, cy in pixels."""


class Bag:
    """A recording with a colour camera. A context manager; close() lets go of the files.

    color, depth, labels, normals, camera_info: topic names, where the ones found by themselves are not meant.
    fov_deg: horizontal field of view to assume where the recording has no usable camera_info; None: an error
    instead. camera, depth_camera: fx, fy, cx, cy of the pictures as recorded, in place of what the recording says of
    them; with the latter, depth is registered to the colour camera by both, as if both stood in one place. tolerance_s:
    how far apart the header stamps of a picture and of its ground truth may be. Raises BagError: no such file, not a
    recording, no colour camera, a topic that is not there.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        color: str | None = None,
        depth: str | None = None,
        labels: str | None = None,
        normals: str | None = None,
        camera_info: str | None = None,
        fov_deg: float | None = None,
        camera: Pinhole | None = None,
        depth_camera: Pinhole | None = None,
        tolerance_s: float = 0.01,
    ) -> None:
        self.path = Path(path)
        self._storage = open_storage(self.path)
        self._tolerance_ns = round(tolerance_s * 1e9)
        self._fov_deg, self._camera, self._depth_camera = fov_deg, camera, depth_camera
        self.unpaired = dict.fromkeys(_TRUTH, 0)
        """By kind: colour frames of the last run of frames() without a partner, where there is a topic for
        it.
        """
        self.bad_frames = 0
        """Colour frames of the last run of frames() that could not be decoded."""
        try:
            self._find_topics(color, camera_info, {"depth": depth, "labels": labels, "normals": normals})
            self._read_camera_info()
        except BaseException:
            self.close()
            raise

    @property
    def topics(self) -> dict[str, TopicInfo]:
        """All topics of the recording."""
        return self._storage.topics

    @property
    def truncated(self) -> str | None:
        """How the recording is damaged, in words, as far as known by now; None if it is not."""
        return self._storage.damage

    @property
    def start_ns(self) -> int:
        """Log time of the first message."""
        return self._storage.start_ns

    @property
    def duration(self) -> float:
        """Seconds between the first and the last message."""
        return (self._storage.end_ns - self._storage.start_ns) * 1e-9

    @property
    def color_type(self) -> str:
        """Type of the colour topic: sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage."""
        return self.topics[self.color_topic].msgtype

    @property
    def color_count(self) -> int:
        """Number of colour frames."""
        return self.topics[self.color_topic].messages

    @property
    def truth_count(self) -> int:
        """Number of pictures of the kind of ground truth that there is most of."""
        topics = (self.depth_topic, self.labels_topic, self.normals_topic)
        return max(self.topics[topic].messages if topic else 0 for topic in topics)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[RawMessage]:
        """Serialised messages by log time, of all topics or of these. BagTruncated after the last one, if it
        is cut off.
        """
        return self._storage.messages(self.topics if topics is None else topics)

    def deserialize(self, message: RawMessage) -> Any:
        """The message as an object with the fields of its definition. Raises BagError."""
        return self._storage.deserialize(message)

    def frames(self) -> Iterator[Frame]:
        """Colour frames in order, with the ground truth of the same stamp where there is some.

        A frame that cannot be decoded is logged and counted in `bad_frames`. Ground truth of another size but
        the same shape is brought to the frame's size (nearest pixel). Raises BagTruncated after the last
        readable frame of a recording that is cut off, CameraInfoError where the intrinsics are not known.
        """
        self.unpaired = dict.fromkeys(_TRUTH, 0)
        self.bad_frames = 0
        for message, partners in self.pairs():
            frame = self.frame(message, partners)
            if frame is not None:
                yield frame

    def close(self) -> None:
        self._storage.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find_topics(self, color: str | None, camera_info: str | None, truth: dict[str, str | None]) -> None:
        """Sets color_topic, camera_info_topic, depth_topic, labels_topic, normals_topic."""
        for name in (color, camera_info, *truth.values()):
            if name is not None and name not in self.topics:
                raise BagError(f"{self.path} has no topic {name}; it has {bag_topics.listing(self.topics)}")
        for name in truth.values():
            if name is not None and self.topics[name].msgtype not in bag_topics.IMAGE_TYPES:
                raise BagError(f"topic {name} of {self.path} holds {self.topics[name].msgtype}, not images")
        infos = sorted(name for name, info in self.topics.items() if info.msgtype == bag_topics.CAMERA_INFO)
        # What this package's node said when the bag was recorded is no ground truth.
        answers = bag_topics.answer_prefixes(self.topics)
        candidates = [
            candidate
            for name, first in self._first_images().items()
            if not name.startswith(answers) and (candidate := bag_topics.classify(name, first))
        ]
        if color is not None:
            if self.topics[color].msgtype not in bag_topics.IMAGE_TYPES:
                raise BagError(f"topic {color} of {self.path} holds {self.topics[color].msgtype}, not images")
            known = next((c for c in candidates if c.topic == color), None)
            chosen = known or bag_topics.Candidate(color, "color", 0.0, "")
        else:
            found = bag_topics.pick_color(candidates, infos)
            if found is None:
                raise BagError(
                    f"{self.path} has no colour camera: no Image or CompressedImage that looks like one. "
                    f"It has {bag_topics.listing(self.topics)}. Name the topic if one of them is meant"
                )
            chosen = found
        self.color_topic: str = chosen.topic
        self.camera_info_topic: str | None = camera_info or bag_topics.pick_info(chosen.topic, infos)
        picked = {kind: truth[kind] or _topic(bag_topics.pick_truth(kind, candidates, chosen)) for kind in _TRUTH}
        self.depth_topic, self.labels_topic, self.normals_topic = (picked[kind] for kind in _TRUTH)
        self._find_registration(candidates, chosen, infos)
        self._truth = {
            topic: kind
            for kind, topic in zip(_TRUTH, (self.depth_topic, self.labels_topic, self.normals_topic), strict=True)
            if topic
        }

    def _find_registration(
        self, candidates: list[bag_topics.Candidate], color: bag_topics.Candidate, infos: list[str]
    ) -> None:
        """Sets registration (of a depth camera beside the colour camera) and registration_problem."""
        self.registration: Registration | None = None
        self.registration_problem: str | None = None
        named = next((c for c in candidates if c.topic == self.depth_topic and c.kind == "depth"), None)
        if named is not None and bag_topics.is_registered(named, color):
            return
        others = [c for c in candidates if c.kind == "depth"] if self.depth_topic is None else [named] if named else []
        for candidate in sorted(others, key=lambda c: (-c.score, c.topic)):
            try:
                self.registration = self._registered(candidate, color, infos)
            except (BagError, CameraInfoError) as error:
                if self._depth_camera is not None:  # stated in place of what is missing
                    self.depth_topic, self.registration_problem = candidate.topic, None
                    return
                taken = "it is taken for registered" if self.depth_topic else "it is not used"
                self.registration_problem = f"{candidate.topic} is another camera's depth, and {error}: {taken}"
                continue
            self.depth_topic, self.registration_problem = candidate.topic, None
            return
        if self.registration_problem:
            _LOG.warning("%s", self.registration_problem)

    def _registered(self, depth: bag_topics.Candidate, color: bag_topics.Candidate, infos: list[str]) -> Registration:
        """Raises BagError, CameraInfoError: what is missing, in words."""
        topic = bag_topics.sibling_info(depth.topic, infos)
        info = next(self._storage.messages([topic]), None) if topic else None
        if info is None:
            raise BagError("it has no camera_info")
        camera = Intrinsics(*intrinsics(self.deserialize(info), None, is_rectified(depth.topic)))
        static = [name for name, about in self.topics.items() if name.endswith("tf_static")]
        transforms = [t for message in self._storage.messages(static) for t in self.deserialize(message).transforms]
        pose = chain(transforms, color.frame_id, depth.frame_id)
        if pose is None:
            raise BagError(f"/tf_static does not connect {depth.frame_id!r} and {color.frame_id!r}")
        return Registration(camera, pose)

    def _first_images(self) -> dict[str, Any]:
        """The first message of every image topic that can be read."""
        firsts: dict[str, Any] = {}
        for name, info in self.topics.items():
            if info.msgtype not in bag_topics.IMAGE_TYPES:
                continue
            try:
                message = next(self._storage.messages([name]), None)
                if message is not None:
                    firsts[name] = self.deserialize(message)
            except BagError as error:
                _LOG.warning("%s", error)
        return firsts

    def _read_camera_info(self) -> None:
        """Sets camera_info (None where there is none) and camera_info_problem."""
        self.camera_info: Intrinsics | None = None
        self._info: Any = None
        self.camera_info_problem: str | None = "the recording has no camera_info for its colour camera"
        if self.camera_info_topic is None:
            return
        message = next(self._storage.messages([self.camera_info_topic]), None)
        if message is None:
            return
        try:
            info = self.deserialize(message)
            self.camera_info = self._calibrated(info)
            self._info, self.camera_info_problem = info, None
        except (CameraInfoError, BagError) as error:
            self.camera_info_problem = str(error)

    def _calibrated(self, info: Any, size: tuple[int, int] | None = None) -> Intrinsics:
        return Intrinsics(*intrinsics(info, size, is_rectified(self.color_topic)))

    def pairs(self) -> Iterator[tuple[RawMessage, dict[str, RawMessage]]]:
        """Colour messages in order, each with its ground truth by kind. BagTruncated as `frames`."""
        waiting: deque[tuple[int, RawMessage]] = deque()
        stores: dict[str, deque[tuple[int, RawMessage]]] = {kind: deque() for kind in self._truth.values()}

        def answer() -> tuple[RawMessage, dict[str, RawMessage]]:
            stamp, message = waiting.popleft()
            partners = {kind: self._take(store, stamp) for kind, store in stores.items()}
            return message, {kind: partner for kind, partner in partners.items() if partner is not None}

        cut: BagTruncated | None = None
        try:
            for message in self.messages([self.color_topic, *self._truth]):
                if message.topic == self.color_topic:
                    waiting.append((stamp_of(message), message))
                else:
                    store = stores[self._truth[message.topic]]
                    store.append((stamp_of(message), message))
                    if len(store) > 4 * _PATIENCE:
                        store.popleft()
                # A frame is complete once every kind has something at least as new.
                while waiting and (
                    len(waiting) > _PATIENCE or all(s and s[-1][0] >= waiting[0][0] for s in stores.values())
                ):
                    yield answer()
        except BagTruncated as error:
            cut = error
        while waiting:
            yield answer()
        if cut is not None:
            raise cut

    def _take(self, store: deque[tuple[int, RawMessage]], stamp: int) -> RawMessage | None:
        """The message nearest to the stamp within the tolerance, taken out of the store."""
        near = min(store, key=lambda entry: abs(entry[0] - stamp), default=None)
        if near is None or abs(near[0] - stamp) > self._tolerance_ns:
            return None
        store.remove(near)
        return near[1]

    def frame(self, message: RawMessage, partners: dict[str, RawMessage]) -> Frame | None:
        """One of `pairs`, decoded; None (logged and counted) where that fails. CameraInfoError as `frames`."""
        stamp = stamp_of(message)
        try:
            rgb = images.decode_color(self.deserialize(message))
        except (images.ImageError, BagError) as error:
            _LOG.warning("frame %d of %s left out: %s", stamp, message.topic, error)
            self.bad_frames += 1
            return None
        size = rgb.shape[:2]
        truth: dict[str, npt.NDArray[Any]] = {}
        for topic, kind in self._truth.items():
            try:
                if kind in partners:
                    values = _DECODERS[kind](self.deserialize(partners[kind]))
                    registration = self._registration_of(*values.shape[:2]) if kind == "depth" else None
                    if registration is not None:
                        values = registration.apply(values, self._intrinsics(*size))
                    truth[kind] = _fit(values, size)
                    continue
            except (images.ImageError, BagError) as error:
                _LOG.warning("%s of frame %d left out (%s): %s", kind, stamp, topic, error)
            self.unpaired[kind] += 1
        return Frame(
            rgb=rgb,
            intrinsics=self._intrinsics(size[0], size[1]),
            depth=truth.get("depth"),
            labels=truth.get("labels"),
            normals=truth.get("normals"),
            stamp_ns=stamp,
            name=str(stamp),
        )

    def _registration_of(self, height: int, width: int) -> Registration | None:
        if self._depth_camera is None:
            return self.registration
        pose = np.eye(4) if self.registration is None else self.registration.pose
        return Registration(Intrinsics(*self._depth_camera, width, height), pose)

    def _intrinsics(self, height: int, width: int) -> Intrinsics:
        if self._camera is not None:
            return Intrinsics(*self._camera, width, height)
        if self._info is not None:
            return self._calibrated(self._info, (height, width))
        if self._fov_deg is not None:
            return fov_intrinsics(self._fov_deg, width, height)
        raise CameraInfoError(
            f"{self.path}: {self.camera_info_problem}; depth in metres needs the focal length: "
            "state the horizontal field of view (--fov DEGREES)"
        )


def fov_intrinsics(fov_deg: float, width: int, height: int) -> Intrinsics:
    """A pinhole camera with square pixels, its axis in the picture's centre, and this horizontal field of
    view.
    """
    if not 1 <= fov_deg <= 170:
        raise CameraInfoError(
            f"a horizontal field of view of {fov_deg:g} degrees is not that of a pinhole camera (1 to 170)"
        )
    focal = width / 2 / math.tan(math.radians(fov_deg) / 2)
    return Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


def stamp_of(message: RawMessage) -> int:
    """Header stamp of a message that begins with a std_msgs/Header, ns; its log time where the header was
    left at zero.
    """
    if len(message.data) < 12:
        return message.time_ns
    sec, nanosec = struct.unpack_from("<iI" if message.data[1] & 1 else ">iI", message.data, 4)
    return sec * 1_000_000_000 + nanosec or message.time_ns


def _topic(candidate: bag_topics.Candidate | None) -> str | None:
    return candidate.topic if candidate else None


def _fit(truth: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Ground truth at the picture's size. Raises ImageError where it has another shape, so belongs to other
    pixels.
    """
    height, width = truth.shape[:2]
    if (height, width) == size:
        return truth
    if abs(width * size[0] - height * size[1]) > 0.01 * width * size[0]:
        raise images.ImageError(f"it is {width}x{height}, the picture {size[1]}x{size[0]}: another shape")
    return np.asarray(cv2.resize(truth, (size[1], size[0]), interpolation=cv2.INTER_NEAREST))
