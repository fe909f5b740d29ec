"""What `mila play` can play: recordings, video files, webcams. Each is a stream of serialised messages with times."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy.typing as npt

from mila_ros.errors import UserError
from mila_ros.worlds.bag_storage import SUFFIXES
from mila_ros.worlds.bag_topics import CAMERA_INFO, IMAGE, IMAGE_TYPES
from mila_ros.worlds.bag_writer import Messages
from mila_ros.worlds.bags import Bag, RawMessage, TopicInfo, fov_intrinsics

_LOG = logging.getLogger(__name__)


class BagSource:
    """A recording, message by message as it was recorded."""

    live = False
    restamp = False

    def __init__(self, path: Path, color: str | None, only: Collection[str]) -> None:
        self._bag = Bag(path, color=color)
        self.image_topic = self._bag.color_topic
        for name in only:
            if name not in self._bag.topics:
                self._bag.close()
                raise UserError(f"{path} has no topic {name}; it has {', '.join(sorted(self._bag.topics))}")
        self.topics = {name: info for name, info in self._bag.topics.items() if not only or name in only}

    def describe(self) -> str:
        """One line about what is played."""
        damage = f"; truncated ({self._bag.truncated})" if self._bag.truncated else ""
        return (
            f"{self._bag.path}: {self._bag.duration:.1f} s, {self._bag.color_count} frames of "
            f"{self.image_topic}, {len(self.topics)} topics{damage}"
        )

    def messages(self) -> Iterator[RawMessage]:
        """From the first to the last; BagTruncated after the last readable one of a damaged recording."""
        return self._bag.messages(self.topics)

    def close(self) -> None:
        self._bag.close()


@dataclass
class CameraNames:
    """What pictures that come without a calibration are published as."""

    image_topic: str = "/camera/color/image_raw"
    camera_info_topic: str = "/camera/color/camera_info"
    frame_id: str = "camera_color_optical_frame"
    fov_deg: float = 60.0
    """Horizontal field of view to state in camera_info; depth in metres scales with it."""
    size: tuple[int, int] | None = None
    """(width, height) of the published pictures; None: as they come."""


@dataclass
class _Capture:
    """Pictures from OpenCV's VideoCapture as Image and CameraInfo messages."""

    names: CameraNames
    new: Messages = field(default_factory=Messages)

    def __post_init__(self) -> None:
        fov_intrinsics(self.names.fov_deg, 2, 2)  # refuses an impossible field of view before anything starts
        self.image_topic = self.names.image_topic
        self.topics = {
            self.names.image_topic: TopicInfo(IMAGE, 0, False),
            self.names.camera_info_topic: TopicInfo(CAMERA_INFO, 0, False),
        }

    def pair(self, pixels: npt.NDArray[Any], stamp_ns: int) -> Iterator[RawMessage]:
        """camera_info, then the picture: who needs both has the small one when the large one arrives."""
        names = self.names
        if names.size is not None and names.size != (pixels.shape[1], pixels.shape[0]):
            pixels = cv2.resize(pixels, names.size, interpolation=cv2.INTER_AREA)
        camera = fov_intrinsics(names.fov_deg, pixels.shape[1], pixels.shape[0])
        info = self.new.camera_info(camera, stamp_ns, names.frame_id)
        image = self.new.image(pixels, "bgr8" if pixels.ndim == 3 else "mono8", stamp_ns, names.frame_id)
        yield RawMessage(names.camera_info_topic, CAMERA_INFO, stamp_ns, self.new.serialize(info))
        yield RawMessage(names.image_topic, IMAGE, stamp_ns, self.new.serialize(image))


class VideoSource(_Capture):
    """A video file, at the times that its container gives. Stamps begin at the epoch and are meant to be moved."""

    live = False
    restamp = True

    def __init__(self, path: Path, names: CameraNames) -> None:
        super().__init__(names)
        if not path.exists():
            raise UserError(f"there is no file {path}")
        self._path = path
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        self._period_s = 1 / rate if 1 <= rate <= 1000 else 1 / 30
        self._count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        readable = capture.grab()
        capture.release()
        if not readable:
            raise UserError(f"OpenCV finds no picture in {path}: the file is damaged or its codec is not supported")

    def describe(self) -> str:
        """One line about what is played."""
        return (
            f"{self._path}: about {self._count} frames at {1 / self._period_s:.3g} Hz as {self.image_topic}; "
            f"no calibration, so a horizontal field of view of {self.names.fov_deg:g} degrees is assumed (--fov)"
        )

    def messages(self) -> Iterator[RawMessage]:
        """Two messages a picture, from the first to the last that can be decoded."""
        capture = self._open()
        time_s, count = 0.0, 0
        try:
            while True:
                good, pixels = capture.read()
                if not good:
                    break
                position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                # Some containers give no times, or the same again: then the nominal rate counts.
                if count:
                    time_s = position if position > time_s else time_s + self._period_s
                count += 1
                yield from self.pair(pixels, 1_000_000_000 + round(time_s * 1e9))
        finally:
            capture.release()
        if count < 0.9 * self._count:
            _LOG.warning("%s ended after %d of %d frames: it is truncated or damaged", self._path, count, self._count)

    def close(self) -> None:
        """Nothing is open between two readings."""

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise UserError(
                f"{self._path} is no video that OpenCV can open, "
                f"nor a recording ({', '.join(SUFFIXES)} or a rosbag2 folder)"
            )
        return capture


class WebcamSource(_Capture):
    """A camera of this machine. Stamps are the moments at which its pictures were handed over."""

    live = True
    restamp = False

    def __init__(self, device: str, names: CameraNames) -> None:
        super().__init__(names)
        self._device = device
        self._capture = cv2.VideoCapture(int(device) if device.isdigit() else device, cv2.CAP_V4L2)
        if not self._capture.isOpened():
            node = f"/dev/video{device}" if device.isdigit() else device
            raise UserError(
                f"camera {device} cannot be opened: is {node} there (`ls /dev/video*`), not in use by another program, "
                "and are you in the group video?"
            )
        # MJPG: uncompressed pictures hardly fit through USB 2 at 30 Hz. One buffer: always the newest picture.
        self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        width, height = names.size or (640, 480)
        self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    def describe(self) -> str:
        """One line about what is played."""
        return (
            f"camera {self._device} as {self.image_topic}; no calibration, so a horizontal field of view of "
            f"{self.names.fov_deg:g} degrees is assumed (--fov)"
        )

    def messages(self) -> Iterator[RawMessage]:
        """Two messages a picture, until the camera goes away, which raises UserError."""
        while True:
            good, pixels = self._capture.read()
            if not good:
                raise UserError(
                    f"camera {self._device} stopped giving pictures: unplugged, or in use by another program"
                )
            yield from self.pair(pixels, time.time_ns())

    def close(self) -> None:
        self._capture.release()


Source = BagSource | VideoSource | WebcamSource


def open_source(text: str, names: CameraNames, color: str | None = None, only: Collection[str] = ()) -> Source:
    """The source that `text` names: a recording, a video file, or camera:N. Raises UserError.

    color: the camera's topic in a recording; only: topics of a recording to play, all if empty.
    """
    if text.startswith("camera:"):
        return WebcamSource(text.removeprefix("camera:"), names)
    path = Path(text)
    if path.is_dir() or path.suffix in SUFFIXES or not path.exists():
        return BagSource(path, color, only)
    return VideoSource(path, names)


def is_image(msgtype: str) -> bool:
    """Whether messages of this type are pictures."""
    return msgtype in IMAGE_TYPES
