"""Depth pictures of image_transport's compressedDepth: a 12-byte header, then PNG or RVL of 16-bit values.

The header is an int32 (unused by readers) and two float32, A and B. For 16UC1 the values are millimetres; for
32FC1 they are inverse depth in steps: metres = A / (value - B). RVL is run-length and variable-length coding
of a row-major picture, as described in A. Wilson, "Fast Lossless Depth Image Compression" (2017).
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt

from mila_ros.encoded import ImageError, Limit, imdecode, sniff

_HEADER = 12


def decode_compressed_depth(data: npt.NDArray[np.uint8], text: str, limit: Limit) -> npt.NDArray[np.float32]:
    """Depth (H, W) float32 in metres, NaN where there is no reading. text: the message's format field. Raises
    ImageError.
    """
    if data.size <= _HEADER:
        raise ImageError(
            f"truncated compressedDepth: {data.size} bytes, less than its header of {_HEADER} and a picture"
        )
    _, quant_a, quant_b = struct.unpack_from("<iff", data.data, 0)
    body = data[_HEADER:]
    if sniff(body) == "PNG":
        values = imdecode(body, cv2.IMREAD_UNCHANGED, text, limit)
        if values.dtype != np.uint16 or values.ndim != 2:
            raise ImageError(
                f"compressedDepth of format {text!r} holds {values.dtype} {values.shape}, not one 16-bit channel"
            )
    elif "rvl" in text.lower():
        values = decode_rvl(body, limit)
    else:
        raise ImageError(f"compressedDepth of format {text!r} is neither PNG nor RVL after its {_HEADER}-byte header")
    encoding = text.partition(";")[0].strip()
    if encoding == "32FC1":
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.float32(quant_a) / (values.astype(np.float32) - np.float32(quant_b))
    elif encoding in ("16UC1", "mono16"):
        depth = values.astype(np.float32) * np.float32(0.001)
    else:
        raise ImageError(f"compressedDepth of unknown encoding {encoding!r} (format {text!r}); supported: 16UC1, 32FC1")
    depth[(values == 0) | ~np.isfinite(depth) | (depth <= 0)] = np.nan
    return depth


def decode_rvl(data: npt.NDArray[np.uint8], limit: Limit) -> npt.NDArray[np.uint16]:
    """(H, W) uint16 from int32 columns, int32 rows and the RVL stream. Raises ImageError where the stream is
    too short.
    """
    if data.size < 8:
        raise ImageError("truncated RVL depth: the size is missing")
    width, height = struct.unpack_from("<ii", data.data, 0)
    limit.check(height, width)
    numbers = _rvl_numbers(data[8:])
    # The stream alternates: how many zeros, how many others, then a zigzag difference for each of the others.
    total, at, pixel, count = height * width, 0, 0, numbers.size
    where: list[npt.NDArray[np.int64]] = []
    deltas: list[npt.NDArray[np.int64]] = []
    while pixel < total:
        if at + 2 > count:
            raise ImageError(f"truncated RVL depth: {pixel} of {total} pixels")
        zeros, others = int(numbers[at]), int(numbers[at + 1])
        at += 2
        pixel += zeros
        if pixel + others > total or at + others > count:
            raise ImageError(f"corrupt or truncated RVL depth at pixel {pixel} of {total}")
        if zeros == 0 and others == 0:
            raise ImageError(f"corrupt RVL depth: an empty run at pixel {pixel}")
        where.append(np.arange(pixel, pixel + others))
        deltas.append(numbers[at : at + others])
        pixel, at = pixel + others, at + others
    flat = np.zeros(total, dtype=np.uint16)
    zigzag = np.concatenate(deltas)
    # Differences run on across the gaps.
    flat[np.concatenate(where)] = np.cumsum((zigzag >> 1) ^ -(zigzag & 1)).astype(np.uint16)
    return flat.reshape(height, width)


def _rvl_numbers(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Numbers of an RVL stream: nibbles from the top of 32-bit words, three bits each, lowest first, the
    fourth says more follow.
    """
    words = data[: data.size // 4 * 4].view("<u4")
    shifts = np.arange(28, -4, -4, dtype=np.uint32)
    nibbles = ((words[:, None] >> shifts) & 0xF).reshape(-1).astype(np.int64)
    ends = np.flatnonzero(nibbles < 8)
    if ends.size == 0:
        return np.empty(0, dtype=np.int64)
    nibbles = nibbles[: ends[-1] + 1]
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(nibbles.size) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((nibbles & 7) << (3 * np.minimum(place, 20)), starts)
