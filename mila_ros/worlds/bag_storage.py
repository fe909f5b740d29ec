"""Opens whatever a recording was stored as, and hands out its messages as serialised CDR.

rosbags reads rosbag2 (MCAP, SQLite, compressed, split) and ROS 1 bags; an MCAP file that it refuses because
its end is missing is salvaged record by record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Protocol

import yaml
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mila_ros.errors import UserError
from mila_ros.worlds.bag_salvage import MAGIC, SalvagedMcap

SUFFIXES = (".mcap", ".db3", ".bag")
# Of ROS 1 recordings only these are used: their serialised form differs from ROS 2's in the header's sequence
# number alone.
_FROM_ROS1 = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo")


class BagError(UserError):
    """A recording that cannot be used; its text says why and what to do."""


class BagTruncated(BagError):
    """A recording that was cut off: raised after everything readable has been handed out."""


class TopicInfo(NamedTuple):
    """What a recording says about a topic."""

    msgtype: str
    """As in "sensor_msgs/msg/Image"."""
    messages: int
    """How many were recorded; 0 if that is not known."""
    latched: bool
    """Recorded from a publisher that keeps its last message for late subscribers (transient local)."""


class RawMessage(NamedTuple):
    """A message as it was recorded."""

    topic: str
    msgtype: str
    time_ns: int
    """When it was recorded (log time)."""
    data: bytes
    """Serialised as CDR, with its 4-byte encapsulation header."""


class Storage(Protocol):
    """An open recording."""

    topics: dict[str, TopicInfo]
    start_ns: int
    end_ns: int
    damage: str | None
    """How it is damaged, in words; None if it is not known to be."""

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Messages of these topics by time. Raises BagTruncated after the last readable one of a damaged
        recording.
        """

    def deserialize(self, message: RawMessage) -> Any:
        """The message as an object with the fields of its definition. Raises BagError."""

    def close(self) -> None:
        """Lets go of the files."""


def open_storage(path: Path) -> Storage:
    """Opens a rosbag2 folder (with or without metadata.yaml), or a .mcap, .db3 or .bag file. Raises BagError."""
    files = _files(path)
    try:
        return _Indexed(path, files)
    except BagError:
        raise
    except Exception as error:  # rosbags lets assertions, struct, codec and SQLite errors of a damaged file through
        if files and all(file.suffix == ".mcap" for file in files) and any(_is_mcap(file) for file in files):
            return _Salvaged(path, files)
        raise BagError(f"{path} cannot be read as a recording: {_words(error)}") from None


def _files(path: Path) -> list[Path]:
    """The storage files of a recording, in order. Raises BagError where there are none."""
    if not path.exists():
        raise BagError(f"there is no recording at {path}")
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise BagError(
                f"{path} is no recording that can be read; known are a rosbag2 folder, {', '.join(SUFFIXES)}"
            )
        if path.stat().st_size == 0:
            raise BagError(f"{path} is an empty file")
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not (path / "metadata.yaml").exists():
        if not files:
            raise BagError(f"{path} is no rosbag2 folder: it has neither metadata.yaml nor a .mcap or .db3 file")
        return files
    try:
        listed = yaml.safe_load((path / "metadata.yaml").read_text(encoding="utf-8"))
        names = [PurePath(name).name for name in listed["rosbag2_bagfile_information"]["relative_file_paths"]]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BagError(
            f"{path / 'metadata.yaml'} is damaged ({_words(error)}); "
            "give the .mcap or .db3 file itself, or write it anew with `ros2 bag reindex`"
        ) from None
    if missing := [name for name in names if not (path / name).exists()]:
        raise BagError(
            f"{path} lacks {', '.join(missing)}, named in its metadata.yaml; give one of its storage files itself"
        )
    return [path / name for name in names]


class _Indexed:
    """A whole recording, read by rosbags."""

    def __init__(self, path: Path, files: list[Path]) -> None:
        whole = path.is_file() or (path / "metadata.yaml").exists()
        # A recorder that was killed has written no metadata.yaml, but its files may be whole.
        self._reader = AnyReader([path] if whole else files, default_typestore=get_typestore(Stores.LATEST))
        self._path = path
        self._reader.open()
        self._typestore = self._reader.typestore if self._reader.is2 else get_typestore(Stores.LATEST)
        self.damage: str | None = None
        self.topics = {
            name: TopicInfo(info.connections[0].msgtype, info.msgcount, any(_latched(c.ext) for c in info.connections))
            for name, info in self._reader.topics.items()
            if self._reader.is2 or info.connections[0].msgtype in _FROM_ROS1
        }
        if self._reader.message_count == 0:
            self.close()
            raise BagError(f"{path} holds no messages")
        self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time - 1

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        chosen = [c for c in self._reader.connections if c.topic in topics]
        if not chosen:
            return
        count = 0
        try:
            for connection, time_ns, data in self._reader.messages(chosen):
                if not self._reader.is2:
                    data = bytes(self._typestore.ros1_to_cdr(data, connection.msgtype))
                yield RawMessage(connection.topic, connection.msgtype, time_ns, data)
                count += 1
        except Exception as error:
            self.damage = _words(error)
            raise BagTruncated(f"{self._path} is damaged after {count} messages: {self.damage}") from None

    def deserialize(self, message: RawMessage) -> Any:
        return _deserialize(self._typestore, message)

    def close(self) -> None:
        self._reader.close()


class _Salvaged:
    """MCAP files without an index, read from the front."""

    def __init__(self, path: Path, files: list[Path]) -> None:
        self._path, self._files = path, files
        self.damage: str | None = None
        self._typestore = get_typestore(Stores.LATEST)
        self.topics: dict[str, TopicInfo] = {}
        times: list[int] = []
        known: set[str] = set()
        for channel, time_ns, _ in self._walk():
            info = self.topics.get(channel.topic)
            latched = "transient_local" in channel.metadata.get("offered_qos_profiles", "")
            self.topics[channel.topic] = TopicInfo(channel.schema.name, (info.messages if info else 0) + 1, latched)
            times.append(time_ns)
            if channel.schema.name not in known:
                known.add(channel.schema.name)
                self._learn(channel.schema.name, channel.schema.encoding, channel.schema.text)
        if not times:
            raise BagTruncated(f"{path} is damaged: {self.damage or 'it holds no messages'}; no message can be read")
        self.start_ns, self.end_ns = min(times), max(times)

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        count = 0
        for channel, time_ns, data in self._walk():
            if channel.topic in topics:
                count += 1
                yield RawMessage(channel.topic, channel.schema.name, time_ns, data)
        if self.damage:
            raise BagTruncated(
                f"{self._path} is truncated: {self.damage}. All {count} readable messages were used; "
                "`mcap recover` can write what is left as a whole file"
            )

    def deserialize(self, message: RawMessage) -> Any:
        return _deserialize(self._typestore, message)

    def close(self) -> None:
        pass

    def _walk(self) -> Iterator[tuple[Any, int, bytes]]:
        for file in self._files:
            part = SalvagedMcap(file)
            for channel, time_ns, data in part.messages():
                if channel.encoding == "cdr":
                    yield channel, time_ns, data
            if part.damage:
                self.damage = f"{file.name}: {part.damage}"

    def _learn(self, name: str, language: str, text: str) -> None:
        """Adds a message definition from the file, unless this type is known anyway."""
        if name in self._typestore.fielddefs or not text:
            return
        types = get_types_from_msg(text, name) if language == "ros2msg" else get_types_from_idl(text)
        self._typestore.register({key: value for key, value in types.items() if key not in self._typestore.fielddefs})


def _deserialize(typestore: Typestore, message: RawMessage) -> Any:
    try:
        return typestore.deserialize_cdr(message.data, message.msgtype)
    except Exception as error:  # struct, index and codec errors, depending on where the bytes stop making sense
        raise BagError(f"a message of {message.topic} is not a whole {message.msgtype}: {_words(error)}") from None


def _latched(ext: Any) -> bool:
    profiles = getattr(ext, "offered_qos_profiles", ())
    return any(p.durability == QosDurability.TRANSIENT_LOCAL for p in profiles) or bool(getattr(ext, "latching", 0))


def _is_mcap(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
