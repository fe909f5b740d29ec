"""Reads what is left of an MCAP file that was cut off: a robot that lost power leaves no index and half a
chunk.

Indexed readers refuse such a file, and stream readers hand out nothing of the chunk that is cut. Here the
records are walked from the front (https://mcap.dev/spec), and of the last chunk comes whatever can still be
unpacked.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lz4.frame import LZ4FrameDecompressor

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor
else:
    from backports.zstd import ZstdDecompressor

MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F


class Schema(NamedTuple):
    """A message type: its name, the language of its definition (ros2msg, ros2idl) and the definition."""

    name: str
    encoding: str
    text: str


class Channel(NamedTuple):
    """A topic and how its messages are written."""

    topic: str
    schema: Schema
    encoding: str
    metadata: dict[str, str]


class _Cut(Exception):
    """Here the file stops making sense; the text says how."""


class SalvagedMcap:
    """Messages of a damaged MCAP file, from the front, as far as they are whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: str | None = None
        """What ended the last reading, in words; None after a file that turned out to be whole."""

    def messages(self) -> Iterator[tuple[Channel, int, bytes]]:
        """(channel, log time in ns, data) in the order of the file."""
        self.damage = None
        schemas: dict[int, Schema] = {}
        channels: dict[int, Channel] = {}
        with self.path.open("rb") as file:
            try:
                if file.read(len(MAGIC)) != MAGIC:
                    raise _Cut("it does not begin as an MCAP file")
                for code, body in _walk(file):
                    if code == _DATA_END:
                        if not file.read().endswith(MAGIC):
                            raise _Cut("all messages are there, but its index is cut off")
                        return
                    yield from _record(code, body, schemas, channels)
            except _Cut as cut:
                self.damage = str(cut)


def _walk(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(opcode, body) of the records of a file, those inside chunks included. Raises _Cut where they end too
    early.
    """
    while True:
        start = file.tell()
        head = file.read(9)
        if len(head) < 9:
            raise _Cut(f"it ends at byte {start + len(head)} without its closing records")
        code, size = struct.unpack("<BQ", head)
        # Read in one go only what can be there: a broken size must not ask for terabytes.
        body = file.read(min(size, 1 << 31))
        whole = len(body) == size
        if code == _CHUNK:
            yield from _unpack(body, whole)
        elif whole:
            yield code, body
        if not whole:
            raise _Cut(f"it ends at byte {file.tell()}, inside a record that began at byte {start}")


def _unpack(body: bytes, whole: bool) -> Iterator[tuple[int, bytes]]:
    """(opcode, body) of the records in a chunk, or in the part of it that is there."""
    try:
        _, _, size, checksum, text_size = struct.unpack_from("<QQQII", body, 0)
        name = body[32 : 32 + text_size].decode()
        (packed_size,) = struct.unpack_from("<Q", body, 32 + text_size)
    except (struct.error, UnicodeDecodeError):
        return
    packed = body[40 + text_size :][:packed_size]
    try:
        if name == "zstd":
            data = ZstdDecompressor().decompress(packed)
        elif name == "lz4":
            data = LZ4FrameDecompressor().decompress(packed)
        else:
            data = packed
    except Exception as error:  # each library raises a class of its own
        raise _Cut(f"a chunk cannot be unpacked: {error}") from None
    if whole and (len(data) != size or (checksum and zlib.crc32(data) != checksum)):
        raise _Cut("a chunk is damaged: its checksum or its size is wrong")
    at = 0
    while at + 9 <= len(data):
        code, length = struct.unpack_from("<BQ", data, at)
        if at + 9 + length > len(data):
            return
        yield code, data[at + 9 : at + 9 + length]
        at += 9 + length


def _record(
    code: int, body: bytes, schemas: dict[int, Schema], channels: dict[int, Channel]
) -> Iterator[tuple[Channel, int, bytes]]:
    """Takes note of schemas and channels; hands out messages."""
    try:
        if code == _MESSAGE:
            channel, _, log_time, _ = struct.unpack_from("<HIQQ", body, 0)
            if channel in channels:
                yield channels[channel], log_time, body[22:]
        elif code == _SCHEMA:
            at, texts = 2, []
            for _ in range(3):
                text, at = _text(body, at)
                texts.append(text)
            schemas[struct.unpack_from("<H", body, 0)[0]] = Schema(*texts)
        elif code == _CHANNEL:
            number, schema = struct.unpack_from("<HH", body, 0)
            topic, at = _text(body, 4)
            encoding, at = _text(body, at)
            end, metadata = at + 4 + struct.unpack_from("<I", body, at)[0], {}
            at += 4
            while at < end:
                key, at = _text(body, at)
                metadata[key], at = _text(body, at)
            channels[number] = Channel(topic, schemas.get(schema, Schema("", "", "")), encoding, metadata)
    except (struct.error, UnicodeDecodeError) as error:
        raise _Cut(f"a record is damaged: {error}") from None


def _text(body: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<I", body, at)
    return body[at + 4 : at + 4 + size].decode(), at + 4 + size
