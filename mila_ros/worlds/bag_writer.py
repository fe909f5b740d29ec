"""Writes rosbag2 recordings (MCAP) that Foxglove, `ros2 bag` and mila_ros.worlds.bags read. Needs no ROS
installation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mila_ros import images, paths
from mila_ros.worlds.bag_storage import BagError
from mila_ros.worlds.frames import Intrinsics

_ZERO_TIME = QosTime(0, 0)
_LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    _ZERO_TIME,
    _ZERO_TIME,
    QosLiveliness.SYSTEM_DEFAULT,
    _ZERO_TIME,
    avoid_ros_namespace_conventions=False,
)


class Messages:
    """Message definitions, and messages made from plain values: the common ones are known, others are looked
    up in `share/`.
    """

    def __init__(self) -> None:
        self.typestore: Typestore = get_typestore(Stores.LATEST)

    def learn(self, msgtype: str) -> None:
        """Makes a message type known, with all that it is made of. Raises BagError where its definition is
        not installed.
        """
        if msgtype in self.typestore.fielddefs:
            return
        types = get_types_from_msg(_definition(msgtype), msgtype)
        for part in _names(types[msgtype]):
            self.learn(part)
        self.typestore.register({key: value for key, value in types.items() if key not in self.typestore.fielddefs})

    def serialize(self, message: Any) -> bytes:
        """CDR of a message object made by this class."""
        return bytes(self.typestore.serialize_cdr(message, message.__msgtype__))

    def new(self, msgtype: str, **fields: Any) -> Any:
        """A message object; every field must be given."""
        self.learn(msgtype)
        return self.typestore.types[msgtype](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """std_msgs/Header."""
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        stamp = self.new("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return self.new("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def image(self, pixels: npt.NDArray[Any], encoding: str, stamp_ns: int, frame_id: str) -> Any:
        """sensor_msgs/Image that holds `pixels` (H, W) or (H, W, C)."""
        fields = images.image_fields(pixels, encoding)
        fields["data"] = np.frombuffer(fields["data"], dtype=np.uint8)
        return self.new("sensor_msgs/msg/Image", header=self.header(stamp_ns, frame_id), **fields)

    def compressed_image(self, data: bytes, text: str, stamp_ns: int, frame_id: str) -> Any:
        """sensor_msgs/CompressedImage; text: its format field."""
        return self.new(
            "sensor_msgs/msg/CompressedImage",
            header=self.header(stamp_ns, frame_id),
            format=text,
            data=np.frombuffer(data, dtype=np.uint8),
        )

    def camera_info(self, intrinsics: Intrinsics, stamp_ns: int, frame_id: str) -> Any:
        """sensor_msgs/CameraInfo of a rectified camera: no distortion, K and P alike."""
        fx, fy, cx, cy = intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy
        roi = self.new("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        return self.new(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(stamp_ns, frame_id),
            height=intrinsics.height,
            width=intrinsics.width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1], dtype=np.float64),
            r=np.eye(3).reshape(-1),
            p=np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0], dtype=np.float64),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )


class BagWriter:
    """A rosbag2 folder with one MCAP file. A context manager; close() writes the index and metadata.yaml.

    path: the folder, which must not exist yet. compress: zstd chunks, which costs time and pays for raw
    pictures. Raises BagError where the folder exists or cannot be made.
    """

    def __init__(self, path: str | Path, *, compress: bool = False) -> None:
        self.path = Path(path)
        self.messages = Messages()
        self.count = 0
        self._connections: dict[str, Connection] = {}
        if self.path.exists():
            raise BagError(f"{self.path} exists already; name another folder or remove it")
        self._writer = Writer(self.path, version=9, storage_plugin=StoragePlugin.MCAP)
        if compress:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        try:
            self._writer.open()
        except OSError as error:
            raise BagError(f"{self.path} cannot be written: {error.strerror}") from None

    def add_topic(self, topic: str, msgtype: str, *, latched: bool = False) -> None:
        """Announces a topic, whether or not messages follow. Raises BagError where its type is not known."""
        if topic not in self._connections:
            self.messages.learn(msgtype)
            self._connections[topic] = self._writer.add_connection(
                topic,
                msgtype,
                typestore=self.messages.typestore,
                offered_qos_profiles=[_LATCHED] if latched else [],
            )

    def write(self, topic: str, msgtype: str, time_ns: int, data: bytes) -> None:
        """Writes a serialised message."""
        self.add_topic(topic, msgtype)
        self._writer.write(self._connections[topic], time_ns, data)
        self.count += 1

    def write_message(self, topic: str, message: Any, time_ns: int) -> None:
        """Writes a message object made by `messages`."""
        self.write(topic, message.__msgtype__, time_ns, self.messages.serialize(message))

    def close(self) -> None:
        """Completes the recording; a second call does nothing."""
        if self._writer.storage is not None:
            self._writer.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _definition(msgtype: str) -> str:
    """Text of a .msg file, from the sourced ROS prefixes or from this package's own folder."""
    package, _, name = msgtype.split("/")
    folders = [
        Path(prefix) / "share" / package for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if prefix
    ]
    if package == "mila_ros":
        folders.append(paths.config_dir().parent)
    for folder in folders:
        file = folder / "msg" / f"{name}.msg"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise BagError(
        f"the definition of {msgtype} is not installed (no share/{package}/msg/{name}.msg in AMENT_PREFIX_PATH)"
    )


def _names(part: Any) -> Iterator[str]:
    """Names of message types inside a rosbags field definition."""
    if isinstance(part, str):
        if part.count("/") == 2:
            yield part
    elif isinstance(part, tuple | list):
        for inner in part:
            yield from _names(inner)
