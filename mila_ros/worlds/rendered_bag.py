"""Writes rendered frames into a recording, under the topic names of a RealSense or Kinect driver."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.frames import Frame

FRAME_ID = "camera_color_optical_frame"
WORLD_ID = "map"
COLOR = "/camera/color/image_raw"
CAMERA_INFO = "/camera/color/camera_info"
DEPTH = "/camera/aligned_depth_to_color/image_raw"
LABELS = "/camera/labels/image"
NORMALS = "/camera/normals/image"
ODOMETRY = "/odom"


@dataclass(frozen=True)
class Form:
    """How frames are stored.

    Attributes:
        raw: uncompressed Image messages (depth as 32FC1 metres) instead of JPEG and PNG (depth as 16UC1 millimetres).
        quality: of the JPEG pictures, 1 to 100.
        normals: whether to store normals, as uncompressed 32FC3.
    """

    raw: bool = False
    quality: int = 85
    normals: bool = False


def write_frame(bag: BagWriter, frame: Frame, form: Form, truth: bool, before: Frame | None = None) -> None:
    """Writes one frame at its stamp: the picture, its camera_info and the camera's pose, and the ground truth if asked.

    The pose goes to /tf and, with the velocity since the frame before, to /odom.

    Raises:
        ValueError: a frame without a stamp.
    """
    if frame.stamp_ns is None:
        raise ValueError("a frame needs a stamp to be recorded")
    stamp, messages = frame.stamp_ns, bag.messages
    if form.raw:
        bag.write_message(COLOR, messages.image(frame.rgb, "rgb8", stamp, FRAME_ID), stamp)
    else:
        options = [cv2.IMWRITE_JPEG_QUALITY, form.quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        data = encoded(".jpg", frame.rgb[..., ::-1], options)
        message = messages.compressed_image(data, "rgb8; jpeg compressed bgr8", stamp, FRAME_ID)
        bag.write_message(f"{COLOR}/compressed", message, stamp)
    bag.write_message(CAMERA_INFO, messages.camera_info(frame.intrinsics, stamp, FRAME_ID), stamp)
    if frame.pose is not None:
        bag.write_message("/tf", transform(bag, frame.pose, stamp, WORLD_ID, FRAME_ID), stamp)
        bag.write_message(ODOMETRY, _odometry(bag, frame, before), stamp)
    if truth:
        _write_truth(bag, frame, form)


def _write_truth(bag: BagWriter, frame: Frame, form: Form) -> None:
    stamp, messages = frame.stamp_ns or 0, bag.messages
    if frame.depth is not None and form.raw:
        bag.write_message(DEPTH, messages.image(frame.depth, "32FC1", stamp, FRAME_ID), stamp)
    elif frame.depth is not None:
        millimetres = np.nan_to_num(np.round(frame.depth * 1000.0), nan=0.0)
        millimetres = np.where((millimetres > 0) & (millimetres < 2**16), millimetres, 0).astype(np.uint16)
        write_millimetres(bag, DEPTH, millimetres, stamp, FRAME_ID)
    if frame.labels is not None and form.raw:
        bag.write_message(LABELS, messages.image(frame.labels, "mono8", stamp, FRAME_ID), stamp)
    elif frame.labels is not None:
        data = encoded(".png", frame.labels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        message = messages.compressed_image(data, "mono8; png compressed mono8", stamp, FRAME_ID)
        bag.write_message(f"{LABELS}/compressed", message, stamp)
    if frame.normals is not None and form.normals:
        bag.write_message(NORMALS, messages.image(frame.normals, "32FC3", stamp, FRAME_ID), stamp)


def write_millimetres(
    bag: BagWriter, topic: str, millimetres: npt.NDArray[np.uint16], stamp: int, frame_id: str
) -> None:
    """Writes depth (H, W), 0 unknown, as image_transport's compressedDepth under `topic`."""
    # The header is its ConfigHeader: format 0 and two numbers that only 32FC1 needs.
    data = struct.pack("<iff", 0, 0.0, 0.0) + encoded(".png", millimetres, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    message = bag.messages.compressed_image(data, "16UC1; compressedDepth png", stamp, frame_id)
    bag.write_message(f"{topic}/compressedDepth", message, stamp)


def encoded(kind: str, pixels: npt.NDArray[np.generic], options: list[int]) -> bytes:
    """A picture as a file of this kind (".png", ".jpg"), with OpenCV's options; colours as BGR."""
    return bytes(cv2.imencode(kind, np.ascontiguousarray(pixels), options)[1].tobytes())


def transform(bag: BagWriter, pose: npt.NDArray[np.float64], stamp: int, parent: str, child: str) -> object:
    """tf2_msgs/TFMessage with the pose (4, 4) of the frame `child` in the frame `parent`."""
    new = bag.messages.new
    x, y, z, w = _quaternion(pose[:3, :3])
    moved = new(
        "geometry_msgs/msg/Transform",
        translation=new("geometry_msgs/msg/Vector3", x=float(pose[0, 3]), y=float(pose[1, 3]), z=float(pose[2, 3])),
        rotation=new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
    )
    header = bag.messages.header(stamp, parent)
    stamped = new("geometry_msgs/msg/TransformStamped", header=header, child_frame_id=child, transform=moved)
    return new("tf2_msgs/msg/TFMessage", transforms=[stamped])


def velocity(frame: Frame, before: Frame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean velocity between two frames in the later one's optical frame: metres a second, radians a second."""
    assert frame.pose is not None and before.pose is not None
    seconds = ((frame.stamp_ns or 0) - (before.stamp_ns or 0)) * 1e-9
    turned = frame.pose[:3, :3].T
    linear = turned @ (frame.pose[:3, 3] - before.pose[:3, 3]) / seconds
    axis, _ = cv2.Rodrigues(before.pose[:3, :3].T @ frame.pose[:3, :3])
    return linear, axis.ravel() / seconds


def _odometry(bag: BagWriter, frame: Frame, before: Frame | None) -> object:
    """nav_msgs/Odometry of the camera in the world; the velocity is a mean, in the first frame 0."""
    new, stamp, pose = bag.messages.new, frame.stamp_ns or 0, frame.pose
    assert pose is not None
    still = before is None or before.pose is None
    linear, angular = (np.zeros(3), np.zeros(3)) if before is None or still else velocity(frame, before)

    def vector(values: npt.NDArray[np.float64]) -> object:
        return new("geometry_msgs/msg/Vector3", x=float(values[0]), y=float(values[1]), z=float(values[2]))

    x, y, z, w = _quaternion(pose[:3, :3])
    place = new("geometry_msgs/msg/Point", x=float(pose[0, 3]), y=float(pose[1, 3]), z=float(pose[2, 3]))
    turn = new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)
    nothing = np.zeros(36)
    return new(
        "nav_msgs/msg/Odometry",
        header=bag.messages.header(stamp, WORLD_ID),
        child_frame_id=FRAME_ID,
        pose=new(
            "geometry_msgs/msg/PoseWithCovariance",
            pose=new("geometry_msgs/msg/Pose", position=place, orientation=turn),
            covariance=nothing,
        ),
        twist=new(
            "geometry_msgs/msg/TwistWithCovariance",
            twist=new("geometry_msgs/msg/Twist", linear=vector(linear), angular=vector(angular)),
            covariance=nothing,
        ),
    )


def _quaternion(rotation: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """x, y, z, w of a rotation matrix."""
    # The eigenvector of the largest eigenvalue of this symmetric matrix (Bar-Itzhack 2000) is right for every turn.
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return float(x), float(y), float(z), float(w)
