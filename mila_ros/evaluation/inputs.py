"""What the demo plays: a recording, a video file or a webcam. Looked at before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2

from mila_ros.errors import UserError
from mila_ros.paths import clips_dir
from mila_ros.worlds.bag_storage import BagTruncated
from mila_ros.worlds.bag_topics import COMPRESSED
from mila_ros.worlds.bags import Bag, fov_intrinsics

DEFAULT_CLIP = "demo"
DEFAULT_FOV = 60.0  # degrees; most webcams have 55 to 70
# Where pictures without a recorded topic are published: what most camera drivers use.
IMAGE_TOPIC = "/camera/color/image_raw"
INFO_TOPIC = "/camera/color/camera_info"


@dataclass(frozen=True)
class DemoInput:
    """A source of frames and how to play it."""

    kind: str
    """"bag", "video" or "camera"."""
    source: str
    """As `mila play` takes it."""
    image_topic: str
    info_topic: str | None
    """None: the recording has no calibration."""
    compressed: bool
    fov_deg: float | None
    """Assumed horizontal field of view where there is no calibration; None: there is one."""
    frames: int | None
    """How many are expected; None: nobody knows."""
    truth: tuple[str, ...] = ()
    """Which of depth, labels, normals the recording has."""
    damage: str | None = None
    """How the recording is cut off, as far as known before it is played."""

    @property
    def path(self) -> Path | None:
        """The recording; None for others."""
        return Path(self.source) if self.kind == "bag" else None

    def play_arguments(self) -> list[str]:
        """For `mila play`: the source and only what the node reads."""
        if self.kind == "bag":
            topics = [self.image_topic] + ([self.info_topic] if self.info_topic else [])
            return [self.source, "--color-topic", self.image_topic, "--topics", *topics]
        return [self.source, "--fov", f"{self.fov_deg:g}"]

    def node_parameters(self, camera: str) -> list[str]:
        """For `mila node`: NAME:=VALUE."""
        values = [
            f"{camera}.image_topic:={self.image_topic}",
            f"{camera}.transport:={'compressed' if self.compressed else 'raw'}",
        ]
        if self.info_topic:
            values.append(f"{camera}.camera_info_topic:={self.info_topic}")
        elif self.fov_deg is not None:
            values.append(f"{camera}.fallback_hfov:={self.fov_deg:.6f}")
        return values

    def node_remappings(self) -> list[str]:
        """For `mila node`: a compressed topic that is not called so is given the name that the node expects."""
        expected = f"{self.image_topic}/compressed"
        if not self.compressed or self.image_topic.endswith("/compressed"):
            return []
        return ["--ros-args", "-r", f"{expected}:={self.image_topic}"]


def default_clip() -> Path:
    """The clip that comes with the package.

    Raises:
        UserError: this installation has none.
    """
    clip = clips_dir() / DEFAULT_CLIP
    if not clip.exists():
        raise UserError(f"the bundled clip {clip} is missing: install the package again, or name a recording (--bag)")
    return clip


def bag_input(path: Path, fov_deg: float | None) -> DemoInput:
    """A recording.

    Raises:
        UserError: missing, unreadable, without a colour camera, or without calibration and with an impossible
            field of view.
    """
    with Bag(path) as bag:
        _first_frame(bag)
        calibrated = bag.camera_info is not None
        if not calibrated:
            fov_deg = fov_deg or DEFAULT_FOV
            fov_intrinsics(fov_deg, 2, 2)
        found = {"depth": bag.depth_topic, "labels": bag.labels_topic, "normals": bag.normals_topic}
        return DemoInput(
            kind="bag",
            source=str(path),
            image_topic=bag.color_topic,
            info_topic=bag.camera_info_topic if calibrated else None,
            compressed=bag.color_type == COMPRESSED,
            fov_deg=None if calibrated else fov_deg,
            frames=bag.color_count or None,
            truth=tuple(kind for kind, topic in found.items() if topic),
            damage=bag.truncated,
        )


def _first_frame(bag: Bag) -> None:
    """Raises UserError where the camera's topic holds no message at all."""
    try:
        if next(bag.messages([bag.color_topic]), None) is None:
            raise UserError(f"{bag.path}: no message of {bag.color_topic} can be read")
    except BagTruncated as error:
        raise UserError(f"{bag.path}: no message of {bag.color_topic} can be read: {error}") from error


def video_input(path: Path, fov_deg: float | None) -> DemoInput:
    """A video file.

    Raises:
        UserError: missing, or nothing that OpenCV can open.
    """
    fov_deg = fov_deg or DEFAULT_FOV
    fov_intrinsics(fov_deg, 2, 2)
    if not path.exists():
        raise UserError(f"there is no file {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a video file; a recording is named with --bag")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened() or not capture.grab():
            raise UserError(
                f"OpenCV finds no picture in {path}: it is damaged, no video, or its codec is not supported"
            )
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    return DemoInput("video", str(path), IMAGE_TOPIC, INFO_TOPIC, False, fov_deg, frames if frames > 0 else None)


def camera_input(device: str, seconds: float, fov_deg: float | None) -> DemoInput:
    """A webcam. Whether it gives pictures is found out by `mila play`, which keeps it open.

    Raises:
        UserError: there is no such device.
    """
    node = Path(f"/dev/video{device}" if device.isdigit() else device)
    if not node.exists():
        raise UserError(f"there is no camera {device}: {node} does not exist; `ls /dev/video*` lists those there are")
    fov_deg = fov_deg or DEFAULT_FOV
    fov_intrinsics(fov_deg, 2, 2)
    return DemoInput(
        "camera", f"camera:{device}", IMAGE_TOPIC, INFO_TOPIC, False, fov_deg, frames=max(1, round(30 * seconds))
    )
