"""images.py: the golden table of encodings, depth, labels, and what is refused with which words.

Every expected value is worked out by hand from the encoding's definition, not by the code under test. Not
covered: drivers that send something else than they say; nobody can tell from the bytes.
"""

from __future__ import annotations

import array
import struct
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mila_ros import images
from mila_ros.images import ImageError

H, W = 6, 8
RED, GREEN, BLUE = 200, 120, 40


def image(data, encoding, height=H, width=W, step=None, is_bigendian=0, kind=bytes):
    data = np.ascontiguousarray(data)
    raw = data.tobytes()
    step = len(raw) // height if step is None else step
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=is_bigendian, step=step, data=kind(raw)
    )


def compressed(data, text):
    return SimpleNamespace(format=text, data=bytes(data))


def flat(*channels, dtype=np.uint8):
    return np.tile(np.array(channels, dtype=dtype), (H, W, 1))


def mosaic(pattern, dtype=np.uint8, scale=1):
    """A flat colour seen through a Bayer filter, given the colours of its first two rows' first two pixels."""
    value = {"r": RED, "g": GREEN, "b": BLUE}
    tile = np.array([value[c] * scale for c in pattern], dtype=dtype).reshape(2, 2)
    return np.tile(tile, (H // 2, W // 2))


# BT.601 video range: grey 128 is Y 126, a saturated red (255, 0, 0) is Y 81, U 90, V 240.
Y_RED, U_RED, V_RED = 81, 90, 240
YUV_RED = (254, 0, 0)
UYVY = np.tile(np.array([U_RED, Y_RED, V_RED, Y_RED], np.uint8), (H, W // 2))
YUYV = np.tile(np.array([Y_RED, U_RED, Y_RED, V_RED], np.uint8), (H, W // 2))
LUMA = np.full((H, W), Y_RED, np.uint8)
NV12 = np.concatenate([LUMA, np.tile(np.array([U_RED, V_RED], np.uint8), (H // 2, W // 2))])
NV21 = np.concatenate([LUMA, np.tile(np.array([V_RED, U_RED], np.uint8), (H // 2, W // 2))])
COLOR = (RED, GREEN, BLUE)
GREY = (77, 77, 77)

GOLDEN = [
    ("rgb8", flat(RED, GREEN, BLUE), COLOR),
    ("bgr8", flat(BLUE, GREEN, RED), COLOR),
    ("rgba8", flat(RED, GREEN, BLUE, 9), COLOR),
    ("bgra8", flat(BLUE, GREEN, RED, 9), COLOR),
    ("8UC3", flat(BLUE, GREEN, RED), COLOR),
    ("8UC4", flat(BLUE, GREEN, RED, 9), COLOR),
    ("mono8", flat(77), GREY),
    ("8UC1", flat(77), GREY),
    ("mono16", flat(77 * 257, dtype="<u2"), GREY),
    ("16UC1", flat(77 * 257, dtype="<u2"), GREY),
    ("rgb16", flat(RED * 257, GREEN * 257, BLUE * 257, dtype="<u2"), COLOR),
    ("bgr16", flat(BLUE * 257, GREEN * 257, RED * 257, dtype="<u2"), COLOR),
    ("rgba16", flat(RED * 257, GREEN * 257, BLUE * 257, 9, dtype="<u2"), COLOR),
    ("bgra16", flat(BLUE * 257, GREEN * 257, RED * 257, 9, dtype="<u2"), COLOR),
    *[(f"bayer_{pattern}8", mosaic(pattern), COLOR) for pattern in ("rggb", "bggr", "gbrg", "grbg")],
    *[(f"bayer_{pattern}16", mosaic(pattern, "<u2", 257), COLOR) for pattern in ("rggb", "bggr", "gbrg", "grbg")],
    ("uyvy", UYVY, YUV_RED),
    ("yuv422", UYVY, YUV_RED),
    ("yuyv", YUYV, YUV_RED),
    ("yuv422_yuy2", YUYV, YUV_RED),
]


def as_array(raw):
    return array.array("B", raw)


def as_ndarray(raw):
    return np.frombuffer(raw, np.uint8)


@pytest.mark.parametrize("kind", [bytes, as_array, as_ndarray, list], ids=["bytes", "rclpy", "rosbags", "list"])
@pytest.mark.parametrize(("encoding", "data", "expected"), GOLDEN, ids=[row[0] for row in GOLDEN])
def test_golden_table(encoding, data, expected, kind):
    rgb = images.decode_color(image(data, encoding, kind=kind))
    assert rgb.shape == (H, W, 3)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    np.testing.assert_allclose(rgb.reshape(-1, 3).astype(int), np.tile(expected, (H * W, 1)), atol=1)


@pytest.mark.parametrize(("encoding", "data"), [("nv12", NV12), ("nv21", NV21)])
def test_golden_semiplanar(encoding, data):
    rgb = images.decode_color(image(data, encoding, step=W))
    assert rgb.shape == (H, W, 3)
    np.testing.assert_allclose(rgb.reshape(-1, 3).astype(int), np.tile(YUV_RED, (H * W, 1)), atol=1)


@pytest.mark.parametrize("how", ["; png compressed bayer_rggb{bits}", "; png compressed ", ""])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_mosaic_that_was_compressed_as_it_is_gets_its_colours(how, bits):
    pixels = mosaic("rggb", *(("<u2", 257) if bits == 16 else ()))
    msg = compressed(cv2.imencode(".png", pixels)[1], f"bayer_rggb{bits}" + how.format(bits=bits))
    rgb = images.decode_color(msg)
    np.testing.assert_allclose(rgb.reshape(-1, 3).astype(int), np.tile(COLOR, (H * W, 1)), atol=1)
    assert images.remarks(msg) == []


def test_a_mosaic_that_was_made_grey_or_colour_stays_so():
    grey = compressed(cv2.imencode(".png", flat(77).reshape(H, W))[1], "bayer_rggb8; jpeg compressed mono8")
    assert (images.decode_color(grey) == 77).all() and "colours are lost" in images.remarks(grey)[0]
    bgr = flat(BLUE, GREEN, RED).reshape(H, W, 3)
    coloured = compressed(cv2.imencode(".png", bgr)[1], "bayer_rggb8; jpeg compressed bgr8")
    assert (images.decode_color(coloured) == COLOR).all() and images.remarks(coloured) == []


def test_golden_table_is_complete():
    assert {row[0] for row in GOLDEN} | {"nv12", "nv21"} == set(images.COLOR_ENCODINGS)


def test_golden_table_on_cv_bridge():
    """Where a ROS installation brings a cv_bridge that works, it agrees with the same table."""
    bridge = pytest.importorskip("cv_bridge", exc_type=ImportError).CvBridge()
    message = pytest.importorskip("sensor_msgs.msg").Image
    for encoding, data, expected in GOLDEN:
        if "UC" in encoding:
            continue  # cv_bridge converts no generic encodings
        msg = message(**images.image_fields(np.ascontiguousarray(data).reshape(H, W, -1), encoding))
        try:
            theirs = bridge.imgmsg_to_cv2(msg, "rgb8")
        except AttributeError as error:
            pytest.skip(f"this cv_bridge does not work with this OpenCV: {error}")
        theirs = theirs.reshape(-1, 3).astype(int)
        np.testing.assert_allclose(theirs, np.tile(expected, (H * W, 1)), atol=1, err_msg=encoding)


def test_rows_and_columns_stay_where_they_are():
    rgb = np.arange(H * W * 3, dtype=np.uint8).reshape(H, W, 3)
    assert (images.decode_color(image(rgb, "rgb8")) == rgb).all()
    assert (images.decode_color(image(rgb[..., ::-1], "bgr8")) == rgb).all()


@pytest.mark.parametrize("encoding", ["rgb8", "mono16"])
def test_row_padding_is_cut_off(encoding):
    pixel = 3 if encoding == "rgb8" else 2
    pixels = np.arange(H * W * pixel, dtype=np.uint8).reshape(H, W * pixel)
    padded = np.full((H, W * pixel + 5), 255, np.uint8)  # as a driver aligns rows: no whole number of pixels
    padded[:, : W * pixel] = pixels
    plain = images.decode_color(image(pixels, encoding))
    assert (images.decode_color(image(padded, encoding)) == plain).all()


def test_plain_rgb_is_not_copied():
    data = np.zeros((H, W, 3), np.uint8)
    msg = SimpleNamespace(height=H, width=W, encoding="rgb8", is_bigendian=0, step=W * 3, data=data.reshape(-1))
    assert np.shares_memory(images.decode_color(msg), data)


def test_big_endian():
    """Sixteen bits are swapped; on single bytes the flag means nothing. Both are remarked upon."""
    wide = image(flat(77 * 256 + 3, dtype=">u2"), "mono16", is_bigendian=1)
    assert (images.decode_color(wide) == 77).all()
    assert "big-endian" in images.remarks(wide)[0]
    narrow = image(flat(BLUE, GREEN, RED), "bgr8", is_bigendian=1)
    assert tuple(images.decode_color(narrow)[0, 0]) == COLOR
    assert "ignored" in images.remarks(narrow)[0]
    depth = image(flat(1500, dtype=">u2"), "16UC1", is_bigendian=1)
    np.testing.assert_allclose(images.decode_depth(depth), 1.5)
    metres = image(flat(1.5, dtype=">f4"), "32FC1", is_bigendian=1)
    np.testing.assert_allclose(images.decode_depth(metres), 1.5)
    assert images.remarks(image(flat(BLUE, GREEN, RED), "bgr8")) == []


def picture():
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, 128 + 0 * x], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("suffix", "text"), [(".jpg", "bgr8; jpeg compressed bgr8"), (".png", "png")])
def test_compressed_color(suffix, text):
    rgb = picture()
    data = cv2.imencode(suffix, rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98] if suffix == ".jpg" else [])[1]
    got = images.decode_color(compressed(data, text))
    assert got.flags.c_contiguous
    assert np.abs(got.astype(int) - rgb).max() <= (8 if suffix == ".jpg" else 0)


def test_compressed_grey_becomes_three_channels():
    data = cv2.imencode(".jpg", picture()[..., 0])[1]
    assert images.decode_color(compressed(data, "mono8; jpeg compressed ")).shape == (48, 64, 3)


def test_jpeg_may_be_padded_but_not_truncated():
    data = cv2.imencode(".jpg", picture())[1].tobytes()
    assert images.decode_color(compressed(data + bytes(100), "jpeg")).shape == (48, 64, 3)
    for cut in (len(data) - 1, len(data) - 2, len(data) * 3 // 4, 300, 20, 4):
        with pytest.raises(ImageError, match="truncated JPEG"):
            images.decode_color(compressed(data[:cut], "jpeg"))


def test_truncated_jpeg_with_a_whole_thumbnail_inside():
    """The thumbnail in an EXIF segment has an end marker of its own, which must not pass for the picture's."""
    data = cv2.imencode(".jpg", picture())[1].tobytes()
    thumbnail = b"Exif\0\0" + cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes()
    exif = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    assert images.decode_color(compressed(exif, "jpeg")).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="truncated JPEG: 64x48"):
        images.decode_color(compressed(exif[:-40], "jpeg"))


def test_broken_png():
    data = cv2.imencode(".png", picture())[1].tobytes()
    with pytest.raises(ImageError, match="truncated PNG"):
        images.decode_color(compressed(data[:-12], "png"))
    broken = bytearray(data)
    broken[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageError, match="corrupt PNG of 64x48"):
        images.decode_color(compressed(broken, "png"))


BAD = [
    (image(flat(1, 2, 3), "yuv999"), "unknown colour encoding 'yuv999'.*supported: rgb8, bgr8"),
    (image(flat(1.0, dtype="<f4"), "32FC1"), "depth image: is the image topic right"),
    (
        image(flat(1, 2, 3)[:-1], "bgr8", step=W * 3),
        "truncated: step x rows = 24 x 6 needs 144 bytes, data has 120",
    ),
    (image(np.zeros((H, 0), np.uint8), "bgr8", step=W * 3), "data has 0"),
    (image(flat(1, 2, 3), "bgr8", width=0, step=0), "no pixels: 0x6"),
    (SimpleNamespace(height=0, width=0, encoding="bgr8", is_bigendian=0, step=0, data=b""), "no pixels: 0x0"),
    (
        image(flat(1, 2, 3), "bgr8", step=W * 3 - 3),
        "step of 21 bytes is shorter than a row: 8 bgr8 pixels need 24",
    ),
    (
        image(flat(1, 2, 3), "bgr8", height=4320, width=7680, step=7680 * 3),
        "bgr8 image of 7680x4320 is too large",
    ),
    (image(UYVY[:, :-2], "uyvy", width=W - 1), "uyvy image of 7x6.*must be even"),
    (compressed(b"", "jpeg"), "has no data"),
    (compressed(b"GIF89a....", "jpeg"), "neither JPEG nor PNG .it starts with 47 49 46 38"),
]


@pytest.mark.parametrize(("msg", "words"), BAD)
def test_bad_color_is_refused_in_words(msg, words):
    with pytest.raises(ImageError, match=words):
        images.decode_color(msg)


def test_absurd_compressed_size_is_refused_before_decoding():
    data = bytearray(cv2.imencode(".png", picture())[1].tobytes())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    with pytest.raises(ImageError, match="100000x100000 is too large"):
        images.decode_color(compressed(data, "png"))


# Depth ------------------------------------------------------------------------------------------------------
# ---------

MILLIMETRES = np.array([[0, 1000, 2500], [65535, 1, 0]], np.uint16)
METRES = np.array([[np.nan, 1.0, 2.5], [65.535, 0.001, np.nan]], np.float32)


def test_depth_raw():
    np.testing.assert_allclose(images.decode_depth(image(MILLIMETRES, "16UC1", 2, 3)), METRES, rtol=1e-6)
    raw = np.array([[0, 1, np.inf], [-np.inf, -1, np.nan]], np.float32)
    expected = np.array([[np.nan, 1, np.nan], [np.nan] * 3])
    depth = images.decode_depth(image(raw, "32FC1", 2, 3))
    np.testing.assert_array_equal(depth, expected)
    assert depth.dtype == np.float32
    with pytest.raises(ImageError, match="unknown depth encoding 'rgb8'; supported: 16UC1"):
        images.decode_depth(image(flat(1, 2, 3), "rgb8"))


def png16(values):
    return cv2.imencode(".png", values)[1].tobytes()


@pytest.mark.parametrize("text", ["16UC1; compressedDepth png", "16UC1; compressedDepth"])
def test_compressed_depth_millimetres(text):
    msg = compressed(bytes(12) + png16(MILLIMETRES), text)
    np.testing.assert_allclose(images.decode_depth(msg), METRES, rtol=1e-6)


def test_compressed_depth_inverse():
    """32FC1 is kept as steps of inverse depth: with A = 1000 and B = -100, the value 400 is 1000 / 500 = 2 m."""
    msg = compressed(
        struct.pack("<iff", 1, 1000.0, -100.0) + png16(np.array([[0, 400], [900, 0]], np.uint16)),
        "32FC1; compressedDepth png",
    )
    np.testing.assert_allclose(images.decode_depth(msg), [[np.nan, 2.0], [1.0, np.nan]])


def rvl(values):
    """The encoder of the paper, number by number: an independent check of the vectorised decoder."""
    nibbles: list[int] = []

    def put(number):
        while True:
            nibble, number = number & 7, number >> 3
            nibbles.append(nibble | (8 if number else 0))
            if not number:
                return

    flat_values, at, previous = [int(v) for v in values.ravel()], 0, 0
    while at < len(flat_values):
        zeros = at
        while at < len(flat_values) and flat_values[at] == 0:
            at += 1
        put(at - zeros)
        start = at
        while at < len(flat_values) and flat_values[at] != 0:
            at += 1
        put(at - start)
        for value in flat_values[start:at]:
            delta = value - previous
            put(delta * 2 if delta >= 0 else -delta * 2 - 1)
            previous = value
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)]
    return struct.pack("<ii", values.shape[1], values.shape[0]) + struct.pack(f"<{len(words)}I", *words)


@pytest.mark.parametrize("case", ["holes", "full", "empty", "noise"])
def test_compressed_depth_rvl(case):
    rng = np.random.default_rng(3)
    values = (1500 + rng.integers(-40, 40, (24, 32)).cumsum(axis=1)).astype(np.uint16)
    if case == "holes":
        values[rng.random(values.shape) < 0.3] = 0
        values[5:9] = 0
    elif case == "empty":
        values[:] = 0
    elif case == "noise":
        values = rng.integers(0, 65536, (24, 32)).astype(np.uint16)
    data = bytes(12) + rvl(values)
    depth = images.decode_depth(compressed(data, "16UC1; compressedDepth rvl"))
    np.testing.assert_allclose(depth, np.where(values == 0, np.nan, values / 1000.0), rtol=1e-6)
    if case != "empty":
        with pytest.raises(ImageError, match="RVL depth"):
            images.decode_depth(compressed(data[: len(data) // 2], "16UC1; compressedDepth rvl"))


def test_depth_never_from_jpeg():
    data = cv2.imencode(".jpg", picture()[..., 0])[1]
    with pytest.raises(ImageError, match="JPEG, which does not keep values"):
        images.decode_depth(compressed(data, "16UC1; jpeg compressed"))


def test_bad_compressed_depth():
    with pytest.raises(ImageError, match="less than its header"):
        images.decode_depth(compressed(bytes(8), "16UC1; compressedDepth png"))
    with pytest.raises(ImageError, match="neither PNG nor RVL"):
        images.decode_depth(compressed(bytes(40), "16UC1; compressedDepth zstd"))
    with pytest.raises(ImageError, match="truncated PNG"):
        images.decode_depth(compressed((bytes(12) + png16(MILLIMETRES))[:-8], "16UC1; compressedDepth png"))


# Labels, normals, writing
# ----------------------------------------------------------------------------------------------


def test_labels():
    ids = np.array([[0, 1, 255], [39, 7, 2]], np.uint8)
    assert (images.decode_labels(image(ids, "mono8", 2, 3)) == ids).all()
    assert (images.decode_labels(image(ids.astype("<u2"), "16UC1", 2, 3)) == ids).all()
    assert (images.decode_labels(image(np.where(ids == 255, -1, ids).astype("<i4"), "32SC1", 2, 3)) == ids).all()
    assert (images.decode_labels(compressed(cv2.imencode(".png", ids)[1], "mono8; png compressed")) == ids).all()
    with pytest.raises(ImageError, match="class id 300"):
        images.decode_labels(image(np.full((2, 3), 300, "<u2"), "16UC1", 2, 3))
    with pytest.raises(ImageError, match="JPEG"):
        images.decode_labels(compressed(cv2.imencode(".jpg", ids)[1], "jpeg"))
    with pytest.raises(ImageError, match="has 3 channels"):
        images.decode_labels(compressed(cv2.imencode(".png", picture())[1], "png"))


def test_normals_round_trip():
    normals = np.random.default_rng(1).normal(size=(H, W, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    written = 2 * normals
    written[0, 0] = 0  # unknown, as some write it
    written[0, 1] = np.nan
    read = images.decode_normals(SimpleNamespace(**images.image_fields(written, "32FC3")))
    assert read.dtype == np.float32 and np.isnan(read[0, :2]).all()
    np.testing.assert_allclose(read[1:], normals[1:], rtol=1e-6)
    with pytest.raises(ImageError, match="unknown normals encoding 'rgb8'"):
        images.decode_normals(image(flat(1, 2, 3), "rgb8"))


def test_image_fields():
    rgb = picture()
    fields = images.image_fields(rgb[:, ::2], "rgb8")  # not contiguous
    assert (fields["height"], fields["width"], fields["step"], fields["encoding"]) == (48, 32, 96, "rgb8")
    assert isinstance(fields["data"], array.array)
    assert fields["data"].typecode == "B"
    assert (images.decode_color(SimpleNamespace(**fields)) == rgb[:, ::2]).all()
    depth = np.full((4, 5), 1.25, np.float32)
    assert (images.decode_depth(SimpleNamespace(**images.image_fields(depth, "32FC1"))) == depth).all()
    with pytest.raises(ValueError, match="32FC1 needs 1 channels of float32, not float64"):
        images.image_fields(depth.astype(np.float64), "32FC1")
    with pytest.raises(ValueError, match="rgb8 needs 3 channels"):
        images.image_fields(rgb[..., 0], "rgb8")


def test_decoding_is_fast():
    """A 640x480 bgr8 frame in well under a millisecond; the limit leaves room for a busy machine."""
    msg = image(np.zeros((480, 640, 3), np.uint8), "bgr8", 480, 640, kind=as_array)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        images.decode_color(msg)
        times.append(time.perf_counter() - start)
    assert sorted(times)[5] < 2e-3
