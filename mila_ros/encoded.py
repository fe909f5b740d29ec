"""Encoded pictures (JPEG, PNG) as arrays, whole or not at all.

Decoders are lenient: older OpenCV fills what a truncated JPEG lacks with grey. A robot must know that the
picture is not whole, so the container is checked before it is decoded; that also keeps an absurd size from
being allocated.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mila_ros.errors import UserError

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers: all of 0xC0..0xCF but DHT (C4), JPG (C8) and DAC (CC).
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class ImageError(UserError):
    """A picture that cannot be decoded; its text says what is wrong with it."""


class Limit(NamedTuple):
    """Sizes that are accepted, and what to call the picture in an error."""

    what: str
    max_pixels: int

    def check(self, height: int, width: int) -> None:
        """Raises ImageError for an empty picture and for one too large to be meant."""
        if height <= 0 or width <= 0:
            raise ImageError(f"{self.what} has no pixels: {width}x{height}; check the camera driver")
        if height * width > self.max_pixels:
            raise ImageError(
                f"{self.what} of {width}x{height} is too large: "
                f"at most {self.max_pixels / 1e6:g} million pixels are taken; "
                "scale it down in the camera driver or with image_proc's resize node"
            )


def sniff(data: npt.NDArray[np.uint8]) -> str | None:
    """ "JPEG", "PNG" or None, from the first bytes: what the format field says is often wrong."""
    head = data[:8].tobytes()
    return "JPEG" if head.startswith(_JPEG) else "PNG" if head == _PNG else None


def imdecode(data: npt.NDArray[np.uint8], flags: int, text: str, limit: Limit) -> npt.NDArray[Any]:
    """The picture in `data`, decoded by OpenCV with `flags`. text: the format field, for errors. Raises
    ImageError.
    """
    if data.size == 0:
        raise ImageError(f"compressed {limit.what} (format {text!r}) has no data")
    kind = sniff(data)
    if kind is None:
        raise ImageError(
            f"compressed {limit.what} of format {text!r} is neither JPEG nor PNG (it starts with "
            f"{data[:4].tobytes().hex(' ')}); "
            "supported: JPEG, PNG, and compressedDepth for depth"
        )
    height, width = _jpeg_size(data) if kind == "JPEG" else _png_size(data)
    limit.check(height, width)
    try:
        # Orientation tags are for photographs; a camera's picture must stay aligned with its camera_info.
        pixels = cv2.imdecode(data, flags if flags < 0 else flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"corrupt {kind} of {width}x{height}: {str(error).strip()}") from None
    if pixels is None:
        raise ImageError(f"corrupt {kind} of {width}x{height} ({data.size} bytes): it cannot be decoded")
    if pixels.shape[:2] != (height, width):
        raise ImageError(
            f"corrupt {kind}: its header says {width}x{height}, it holds {pixels.shape[1]}x{pixels.shape[0]}"
        )
    return pixels


def _jpeg_size(data: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """(height, width) of a JPEG that has its end. Walks the segments: a thumbnail inside has sizes and an end
    of its own.
    """
    raw = data.data
    size, at = None, 2
    while at + 4 <= data.size:
        if raw[at] != 0xFF:
            raise ImageError(f"corrupt JPEG: no marker at byte {at}")
        marker = raw[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _SOF and at + 9 <= data.size:
            size = struct.unpack_from(">HH", raw, at + 5)
        if marker == 0xDA:  # the picture itself; inside it, 0xFF is followed by 0x00 unless a marker is meant
            break
        at += 2 + struct.unpack_from(">H", raw, at + 2)[0]
    else:
        raise ImageError(f"truncated JPEG: it ends after {data.size} bytes, before its picture begins")
    if size is None:
        raise ImageError("corrupt JPEG: no frame header before the picture")
    # Cameras pad with zeros after the end; so look for the end from behind rather than only at the last two
    # bytes.
    if raw[-2:] != b"\xff\xd9" and data[at:].tobytes().rfind(b"\xff\xd9") < 0:
        raise ImageError(f"truncated JPEG: {size[1]}x{size[0]}, {data.size} bytes, the end marker is missing")
    return size


def _png_size(data: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """(height, width) of a PNG that has its last chunk."""
    if data.size < 33 or data[12:16].tobytes() != b"IHDR":
        raise ImageError(f"truncated PNG: {data.size} bytes, without a header")
    width, height = struct.unpack_from(">II", data.data, 16)
    if data[-64:].tobytes().rfind(b"IEND\xaeB`\x82") < 0:
        raise ImageError(f"truncated PNG: {width}x{height}, {data.size} bytes, the last chunk is missing")
    return height, width
