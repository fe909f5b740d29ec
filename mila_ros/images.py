"""Pixels to message fields and back, for every encoding that cameras really send.

Works on any object with the fields of sensor_msgs/Image or CompressedImage: a live rclpy message, one read from
a bag by rosbags, or a plain namespace in a test. Bad input raises ImageError with a sentence.

OpenCV does the arithmetic directly: cv_bridge and rosbags-image call the same cvtColor codes, but ignore row
padding, need a matching NumPy, or let truncated data through.
"""

from __future__ import annotations

import array
import sys
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mila_ros.compressed_depth import decode_compressed_depth
from mila_ros.encoded import ImageError, Limit, imdecode, sniff

__all__ = [
    "COLOR_ENCODINGS",
    "DEPTH_ENCODINGS",
    "LABEL_ENCODINGS",
    "MAX_PIXELS",
    "ImageError",
    "decode_color",
    "decode_depth",
    "decode_labels",
    "decode_normals",
    "image_fields",
    "is_compressed",
    "remarks",
]

MAX_PIXELS = 24_000_000
"""Largest picture that is decoded: 4K (8.8 million pixels) and 20-megapixel cameras pass, 8K (33 million)
does not.
"""
_NO_NORMAL = 0.5
"""A shorter vector is none."""


class _Layout(NamedTuple):
    """How one encoding lies in memory, and the cvtColor code that makes it RGB (None: it already is)."""

    dtype: str
    channels: int
    to_rgb: int | None


# ROS names a Bayer pattern by its first four pixels, OpenCV (historically) by the second row's second and
# third: RGGB is BG.
_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}

_COLOR: dict[str, _Layout] = {
    "rgb8": _Layout("u1", 3, None),
    "bgr8": _Layout("u1", 3, cv2.COLOR_BGR2RGB),
    "rgba8": _Layout("u1", 4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout("u1", 4, cv2.COLOR_BGRA2RGB),
    "mono8": _Layout("u1", 1, cv2.COLOR_GRAY2RGB),
    # Generic encodings carry no colour order; OpenCV's own (BGR) is what drivers mean by them.
    "8UC1": _Layout("u1", 1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Layout("u1", 3, cv2.COLOR_BGR2RGB),
    "8UC4": _Layout("u1", 4, cv2.COLOR_BGRA2RGB),
    "rgb16": _Layout("u2", 3, None),
    "bgr16": _Layout("u2", 3, cv2.COLOR_BGR2RGB),
    "rgba16": _Layout("u2", 4, cv2.COLOR_RGBA2RGB),
    "bgra16": _Layout("u2", 4, cv2.COLOR_BGRA2RGB),
    "mono16": _Layout("u2", 1, cv2.COLOR_GRAY2RGB),
    "16UC1": _Layout("u2", 1, cv2.COLOR_GRAY2RGB),
    **{f"{name}8": _Layout("u1", 1, code) for name, code in _BAYER.items()},
    **{f"{name}16": _Layout("u2", 1, code) for name, code in _BAYER.items()},
    "uyvy": _Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": _Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": _Layout("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
    "yuv422_yuy2": _Layout("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
    "nv12": _Layout("u1", 1, cv2.COLOR_YUV2RGB_NV12),
    "nv21": _Layout("u1", 1, cv2.COLOR_YUV2RGB_NV21),
}
_OTHER: dict[str, _Layout] = {
    "32FC1": _Layout("f4", 1, None),
    "32FC3": _Layout("f4", 3, None),
    "32SC1": _Layout("i4", 1, None),
}

COLOR_ENCODINGS = tuple(_COLOR)
DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")
LABEL_ENCODINGS = ("mono8", "8UC1", "mono16", "16UC1", "32SC1")


def decode_color(msg: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """RGB picture (H, W, 3) uint8, C-contiguous, of an Image or a CompressedImage (JPEG, PNG).

    Sixteen bits are scaled to eight over their full range; YUV is BT.601 video range, as OpenCV and cv_bridge
    take it. rgb8 without row padding is a view of the message's data: read-only when that is. Raises
    ImageError on anything that cannot be decoded whole.
    """
    if is_compressed(msg):
        data, limit = _bytes(msg.data), Limit("image", max_pixels)
        mosaic = _compressed_mosaic(str(msg.format))
        if mosaic is not None:
            pixels = imdecode(data, cv2.IMREAD_UNCHANGED, str(msg.format), limit)
            if pixels.ndim == 2:
                return np.asarray(cv2.cvtColor(_eight_bits(pixels), mosaic), dtype=np.uint8)
        # Not IMREAD_COLOR_RGB: OpenCV has it only since 4.10, and it saves 0.04 ms.
        pixels = imdecode(data, cv2.IMREAD_COLOR, str(msg.format), limit)
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    encoding = str(msg.encoding)
    if encoding not in _COLOR:
        raise _unknown_encoding("colour", encoding, COLOR_ENCODINGS)
    layout = _COLOR[encoding]
    height, width = int(msg.height), int(msg.width)
    planar = encoding in ("nv12", "nv21")
    if (layout.channels == 2 or planar) and (width % 2 or (planar and height % 2)):
        raise ImageError(
            f"{encoding} image of {width}x{height}: neighbouring pixels share their colour, so the size must be even"
        )
    # NV12/NV21: the luma plane, then half as many rows of interleaved chroma.
    pixels = _pixels(msg, encoding, layout, height * 3 // 2 if planar else height, max_pixels)
    pixels = _eight_bits(pixels)
    if layout.to_rgb is None:
        return np.ascontiguousarray(pixels)
    return np.asarray(cv2.cvtColor(pixels, layout.to_rgb), dtype=np.uint8)


def decode_depth(msg: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.float32]:
    """Depth (H, W) float32 in metres, NaN where unknown, of an Image or a CompressedImage.

    16UC1 is millimetres, 32FC1 metres (REP 118); compressedDepth may be PNG or RVL. Zero, negative and
    infinite are unknown. Raises ImageError on anything else, JPEG included (it is lossy: depth would be
    invented at every edge).
    """
    if is_compressed(msg):
        text = str(msg.format)
        limit = Limit("depth image", max_pixels)
        if "compressedDepth" in text:
            return decode_compressed_depth(_bytes(msg.data), text, limit)
        raw = _lossless(msg, "depth", limit)
        if raw.dtype != np.uint16:
            raise ImageError(f"compressed depth of format {text!r} holds {raw.dtype}, not 16-bit millimetres")
    else:
        encoding = str(msg.encoding)
        if encoding not in DEPTH_ENCODINGS:
            raise _unknown_encoding("depth", encoding, DEPTH_ENCODINGS)
        layout = _COLOR.get(encoding) or _OTHER[encoding]
        raw = _pixels(msg, encoding, layout, int(msg.height), max_pixels)
    depth = raw.astype(np.float32)
    if raw.dtype == np.uint16:
        depth *= np.float32(0.001)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    return depth


def decode_labels(msg: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Class ids (H, W) uint8 of an Image or a PNG-compressed one; negative ids become 255, the unlabelled.

    Raises ImageError where ids do not fit, and for JPEG (lossy: ids would be invented).
    """
    if is_compressed(msg):
        raw = _lossless(msg, "label", Limit("label image", max_pixels))
    else:
        encoding = str(msg.encoding)
        if encoding not in LABEL_ENCODINGS:
            raise _unknown_encoding("label", encoding, LABEL_ENCODINGS)
        layout = _COLOR.get(encoding) or _OTHER[encoding]
        raw = _pixels(msg, encoding, layout, int(msg.height), max_pixels)
    if raw.dtype == np.uint8:
        return np.ascontiguousarray(raw)
    if raw.max() > 255:
        raise ImageError(
            f"label image has the class id {int(raw.max())}; at most 254 classes (and 255, unlabelled) are known"
        )
    return np.where(raw < 0, 255, raw).astype(np.uint8)


def decode_normals(msg: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.float32]:
    """Surface normals (H, W, 3) float32 of a 32FC3 Image, of unit length; NaN where they are unknown, which some write
    as zeros. Raises ImageError."""
    if is_compressed(msg) or str(msg.encoding) != "32FC3":
        got = str(msg.format if is_compressed(msg) else msg.encoding)
        raise _unknown_encoding("normals", got, ("32FC3",))
    written = _pixels(msg, "32FC3", _OTHER["32FC3"], int(msg.height), max_pixels)
    length = np.sqrt(np.einsum("hwc,hwc->hw", written, written))[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > _NO_NORMAL, written / length, np.float32(np.nan))


def image_fields(pixels: npt.NDArray[Any], encoding: str) -> dict[str, Any]:
    """Fields of a sensor_msgs/Image (all but the header) that holds `pixels` (H, W) or (H, W, C).

    `data` is an array.array('B'), which rclpy takes as it is; bytes would be checked element by element.
    Raises ValueError where dtype or channels are not those of `encoding`: that is the caller's mistake.
    """
    layout = _COLOR.get(encoding) or _OTHER.get(encoding)
    if layout is None or encoding in ("nv12", "nv21"):
        raise ValueError(f"cannot write the encoding {encoding!r}")
    if pixels.dtype != np.dtype(layout.dtype) or _channels(pixels) != layout.channels or pixels.ndim not in (2, 3):
        raise ValueError(
            f"{encoding} needs {layout.channels} channels of {np.dtype(layout.dtype)}, "
            f"not {pixels.dtype} {pixels.shape}"
        )
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B") if pixels.size else b"")
    height, width = pixels.shape[:2]
    return {
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": int(sys.byteorder == "big"),
        "step": width * layout.channels * pixels.itemsize,
        "data": data,
    }


def is_compressed(msg: Any) -> bool:
    """Whether the message is a CompressedImage rather than an Image."""
    return not hasattr(msg, "encoding")


def _eight_bits(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return pixels if pixels.dtype == np.uint8 else cv2.convertScaleAbs(pixels, alpha=255.0 / 65535.0)


def _compressed_mosaic(text: str) -> int | None:
    """The cvtColor code of a Bayer mosaic that was compressed as it is; None where it is none, or was made grey.

    compressed_image_transport says what a picture was, and what of it was compressed: "bayer_rggb8; jpeg compressed
    bayer_rggb8", "bayer_rggb8; jpeg compressed mono8" (grey), and formerly nothing at the end.
    """
    encoding, _, how = text.partition(";")
    encoding, words = encoding.strip(), how.split()
    if not encoding.startswith("bayer_") or encoding not in _COLOR:
        return None
    return _COLOR[encoding].to_rgb if not words or words[-1] in (encoding, "compressed") else None


def remarks(msg: Any) -> list[str]:
    """What is odd about an image that can nevertheless be decoded: worth a log line when it first happens."""
    if is_compressed(msg):
        words = str(msg.format).split()
        grey = words[:1] and words[0].startswith("bayer_") and words[-1] == "mono8"
        return ["a Bayer mosaic was made grey before it was compressed: its colours are lost"] if grey else []
    encoding, said = str(msg.encoding), []
    layout = _COLOR.get(encoding) or _OTHER.get(encoding)
    if layout and msg.is_bigendian:
        if layout.dtype == "u1":
            said.append(f"is_bigendian is set on a {encoding} image, whose values are single bytes; it is ignored")
        else:
            said.append(f"{encoding} image is big-endian; its bytes are swapped")
    if encoding == "16UC1":
        said.append("16UC1 is taken as a grey picture over its full range; a depth topic would look almost black")
    return said


def _pixels(msg: Any, encoding: str, layout: _Layout, rows: int, max_pixels: int) -> npt.NDArray[Any]:
    """The message's data as (rows, W) or (rows, W, C) in native byte order: a view where there is nothing to
    swap.
    """
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    Limit(f"{encoding} image", max_pixels).check(height, width)
    dtype = np.dtype(layout.dtype)
    pixel = dtype.itemsize * layout.channels
    if step < width * pixel:
        raise ImageError(
            f"step of {step} bytes is shorter than a row: "
            f"{width} {encoding} pixels need {width * pixel} bytes; "
            "the publisher fills in step, width or encoding wrongly"
        )
    data = _bytes(msg.data)
    if data.size < step * rows:
        raise ImageError(
            f"{encoding} image of {width}x{height} is truncated: "
            f"step x rows = {step} x {rows} needs {step * rows} bytes, data has {data.size}"
        )
    table = data[: step * rows].reshape(rows, step)[:, : width * pixel]
    if step > width * pixel:
        table = np.ascontiguousarray(table)
    if dtype.itemsize > 1:
        order = dtype.newbyteorder(">" if msg.is_bigendian else "<")
        table = np.ascontiguousarray(table).view(order).astype(dtype, copy=False)
    return table.reshape((rows, width) if layout.channels == 1 else (rows, width, layout.channels))


def _lossless(msg: Any, what: str, limit: Limit) -> npt.NDArray[Any]:
    """The one-channel picture in a PNG message, its bits untouched. Raises ImageError for JPEG and for
    colour.
    """
    data, text = _bytes(msg.data), str(msg.format)
    if sniff(data) == "JPEG":
        raise ImageError(f"{what} image of format {text!r} is a JPEG, which does not keep values; publish PNG or raw")
    raw = imdecode(data, cv2.IMREAD_UNCHANGED, text, limit)
    if raw.ndim != 2:
        raise ImageError(f"{what} image of format {text!r} has {raw.shape[2]} channels; it must have one")
    return raw


def _bytes(data: Any) -> npt.NDArray[np.uint8]:
    """Message data (array.array, ndarray, bytes, list) as flat bytes, without a copy unless it is a list."""
    if isinstance(data, list | tuple):
        return np.asarray(data, dtype=np.uint8)
    view = memoryview(data)
    return np.frombuffer(view, dtype=np.uint8) if view.nbytes else np.empty(0, dtype=np.uint8)


def _channels(pixels: npt.NDArray[Any]) -> int:
    return 1 if pixels.ndim == 2 else pixels.shape[-1]


def _unknown_encoding(kind: str, encoding: str, known: tuple[str, ...]) -> ImageError:
    hint = ""
    if kind == "colour" and encoding in DEPTH_ENCODINGS:
        hint = " (that is a depth image: is the image topic right?)"
    return ImageError(f"unknown {kind} encoding {encoding!r}{hint}; supported: {', '.join(known)}")
