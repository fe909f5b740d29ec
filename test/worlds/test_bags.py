"""worlds/bags.py: which topics are found, how ground truth is paired, every way a recording is stored or
damaged.

The recordings are written here. Not covered: recordings of real cameras, whose topics have ever new names.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mila_ros.camera_info import CameraInfoError
from mila_ros.worlds import bag_topics
from mila_ros.worlds.bag_storage import TopicInfo
from mila_ros.worlds.bag_writer import BagWriter, Messages
from mila_ros.worlds.bags import Bag, BagError, BagTruncated, fov_intrinsics, stamp_of
from mila_ros.worlds.frames import Intrinsics

COLOR, DEPTH, INFO = (
    "/camera/color/image_raw",
    "/camera/aligned_depth_to_color/image_raw",
    "/camera/color/camera_info",
)
LABELS, NORMALS = "/camera/labels/image", "/camera/normals/image"
FRAME = "camera_color_optical_frame"
H, W = 24, 32
CAMERA = Intrinsics(30.0, 31.0, 15.5, 11.5, W, H)
START = 1_700_000_000_000_000_000
PERIOD = 33_333_333


def rgb_of(index):
    return np.full((H, W, 3), index % 256, np.uint8)


def write(path, frames=6, *, depth_late_ns=0, depth_skew_ns=0, skip_depth=(), info=True, compress=False, jpeg=False):
    """A camera with depth, labels and normals; frame i is filled with i, its depth is 1 + i metres."""
    with BagWriter(path, compress=compress) as bag:
        new = bag.messages
        entries = []
        for i in range(frames):
            stamp = START + i * PERIOD
            if jpeg:
                color = new.compressed_image(cv2.imencode(".png", rgb_of(i))[1].tobytes(), "png", stamp, FRAME)
            else:
                color = new.image(rgb_of(i), "bgr8", stamp, FRAME)
            entries.append((stamp, COLOR + ("/compressed" if jpeg else ""), color))
            if info:
                entries.append((stamp, INFO, new.camera_info(CAMERA, stamp, FRAME)))
            if i not in skip_depth:
                depth = np.full((H, W), 1000 * (1 + i % 60), np.uint16)
                entries.append((stamp + depth_late_ns, DEPTH, new.image(depth, "16UC1", stamp + depth_skew_ns, FRAME)))
            entries.append((stamp, LABELS, new.image(np.full((H, W), i % 250, np.uint8), "mono8", stamp, FRAME)))
            normals = np.zeros((H, W, 3), np.float32) - np.array([0, 0, 1], np.float32)
            entries.append((stamp, NORMALS, new.image(normals, "32FC3", stamp, FRAME)))
        for time_ns, topic, message in sorted(entries, key=lambda entry: entry[0]):
            bag.write_message(topic, message, time_ns)
    return Path(path)


@pytest.mark.parametrize("jpeg", [False, True], ids=["raw", "compressed"])
def test_frames_with_all_ground_truth(tmp_path, jpeg):
    with Bag(write(tmp_path / "bag", jpeg=jpeg)) as bag:
        assert bag.color_topic == COLOR + ("/compressed" if jpeg else "")
        assert (bag.depth_topic, bag.labels_topic, bag.normals_topic) == (DEPTH, LABELS, NORMALS)
        assert bag.camera_info_topic == INFO
        assert bag.camera_info == CAMERA
        assert bag.color_count == 6
        assert bag.duration == pytest.approx(5 * PERIOD * 1e-9)
        frames = list(bag.frames())
        assert [frame.stamp_ns for frame in frames] == [START + i * PERIOD for i in range(6)]
        for i, frame in enumerate(frames):
            assert (frame.rgb == i).all()
            np.testing.assert_allclose(frame.depth, 1 + i)
            assert (frame.labels == i).all()
            assert (frame.normals[..., 2] == -1).all()
            assert frame.intrinsics == CAMERA
        assert bag.unpaired == {"depth": 0, "labels": 0, "normals": 0}
        assert len(list(bag.frames())) == 6, "a second reading starts from the front"


def test_what_the_node_itself_said_is_no_ground_truth():
    topics = {
        name: TopicInfo(msgtype, 1, False)
        for name, msgtype in {
            "/perception/budget": "mila_ros/msg/ComputeBudget",
            "/perception/front/depth/image": bag_topics.IMAGE,
            "/camera/depth/image": bag_topics.IMAGE,
        }.items()
    }
    own = bag_topics.answer_prefixes(topics)
    assert [name for name in topics if name.startswith(own)] == ["/perception/budget", "/perception/front/depth/image"]
    assert not any(name.startswith(bag_topics.answer_prefixes({})) for name in topics)


def test_ground_truth_is_paired_by_stamp_not_by_order(tmp_path):
    """Depth is recorded 100 ms late, 2 ms off and with a hole: every frame still gets its own, or none."""
    path = write(tmp_path / "bag", depth_late_ns=100_000_000, depth_skew_ns=2_000_000, skip_depth=(2,))
    with Bag(path) as bag:
        depths = [None if frame.depth is None else float(frame.depth[0, 0]) for frame in bag.frames()]
        assert depths == pytest.approx([1, 2, None, 4, 5, 6])
        assert bag.unpaired["depth"] == 1
    with Bag(path, tolerance_s=0.001) as strict:
        assert [frame.depth for frame in strict.frames()] == [None] * 6
        assert strict.unpaired["depth"] == 6


def test_ground_truth_of_another_size(tmp_path):
    """Half-size depth is brought to the picture's size; depth of another shape belongs to other pixels and is
    left out.
    """
    for size, used in (((H // 2, W // 2), True), ((H, W // 2), False)):
        with BagWriter(tmp_path / f"bag{used}") as writer:
            new = writer.messages
            writer.write_message(COLOR, new.image(rgb_of(1), "rgb8", START, FRAME), START)
            writer.write_message(DEPTH, new.image(np.full(size, 2.5, np.float32), "32FC1", START, FRAME), START)
        with Bag(tmp_path / f"bag{used}", fov_deg=60) as bag:
            depth = next(bag.frames()).depth
            assert (depth is not None and depth.shape == (H, W) and (depth == 2.5).all()) if used else depth is None
            assert bag.unpaired["depth"] == (0 if used else 1)


def test_a_frame_that_cannot_be_decoded_is_left_out(tmp_path, caplog):
    with BagWriter(tmp_path / "bag") as writer:
        new = writer.messages
        for i in range(3):
            message = new.image(rgb_of(i), "bgr8", START + i * PERIOD, FRAME)
            if i == 1:
                message.data = message.data[:-5]
            writer.write_message(COLOR, message, START + i * PERIOD)
    with Bag(tmp_path / "bag", fov_deg=60) as bag:
        assert [int(frame.rgb[0, 0, 0]) for frame in bag.frames()] == [0, 2]
        assert bag.bad_frames == 1
    assert "is truncated" in caplog.text


@pytest.mark.parametrize(
    "storage",
    ["mcap", "mcap-zstd", "sqlite3", "sqlite3-file-zstd", "mcap-message-zstd", "ros1", "bare", "no-yaml"],
)
def test_every_way_of_storing(tmp_path, storage):
    new = Messages()
    path = tmp_path / "bag"
    if storage == "ros1":
        path = tmp_path / "bag.bag"
        store = get_typestore(Stores.ROS1_NOETIC)
        header = store.types["std_msgs/msg/Header"]
        stamp = store.types["builtin_interfaces/msg/Time"]
        with Writer1(path) as writer:
            connection = writer.add_connection(COLOR, "sensor_msgs/msg/Image", typestore=store)
            for i in range(3):
                fields = vars(new.image(rgb_of(i), "bgr8", 0, FRAME)) | {
                    "header": header(seq=i, stamp=stamp(sec=START // 10**9, nanosec=i), frame_id=FRAME)
                }
                fields.pop("__msgtype__", None)
                message = store.types["sensor_msgs/msg/Image"](**fields)
                writer.write(connection, START + i, bytes(store.serialize_ros1(message, "sensor_msgs/msg/Image")))
    else:
        plugin = StoragePlugin.SQLITE3 if storage.startswith("sqlite3") else StoragePlugin.MCAP
        writer2 = Writer(path, version=9, storage_plugin=plugin)
        mode = {
            "file": CompressionMode.FILE,
            "message": CompressionMode.MESSAGE,
            "zstd": CompressionMode.STORAGE,
        }
        parts = storage.split("-")
        if len(parts) > 1 and parts[1] in mode:
            writer2.set_compression(mode[parts[1]], CompressionFormat.ZSTD)
        with writer2:
            connection = writer2.add_connection(COLOR, "sensor_msgs/msg/Image", typestore=new.typestore)
            for i in range(3):
                writer2.write(connection, START + i, new.serialize(new.image(rgb_of(i), "bgr8", START + i, FRAME)))
        if storage == "bare":
            path = path / "bag.mcap"
        elif storage == "no-yaml":
            (path / "metadata.yaml").unlink()
    with Bag(path, fov_deg=60) as bag:
        frames = list(bag.frames())
        assert [(frame.stamp_ns, int(frame.rgb[0, 0, 0])) for frame in frames] == [(START + i, i) for i in range(3)]
        # Messages for replaying are CDR whatever the storage.
        raw = list(bag.messages())
        assert [stamp_of(message) for message in raw] == [START + i for i in range(3)]
        assert all(message.data[:4] == b"\0\1\0\0" for message in raw)


# Finding topics
# --------------------------------------------------------------------------------------------------------


def write_topics(path, topics):
    """topics: name -> (pixels, encoding, frame_id)."""
    with BagWriter(path) as writer:
        new = writer.messages
        for name, (pixels, encoding, frame) in topics.items():
            if encoding == "info":
                writer.write_message(name, new.camera_info(CAMERA, START, frame), START)
            elif encoding.startswith("16UC1;"):
                data = bytes(12) + cv2.imencode(".png", pixels)[1].tobytes()
                writer.write_message(name, new.compressed_image(data, encoding, START, frame), START)
            else:
                writer.write_message(name, new.image(pixels, encoding, START, frame), START)
    return path


GREY, RGB, MM, METRES = (
    np.zeros((H, W), np.uint8),
    np.zeros((H, W, 3), np.uint8),
    np.ones((H, W), np.uint16),
    np.ones((H, W), np.float32),
)


@pytest.mark.parametrize(
    ("topics", "color", "depth"),
    [
        # RealSense: infrared, unaligned and aligned depth beside the colour camera.
        (
            {
                "/camera/infra1/image_rect_raw": (GREY, "mono8", "ir"),
                "/camera/depth/image_rect_raw": (MM, "16UC1", "depth"),
                "/camera/aligned_depth_to_color/image_raw": (MM, "16UC1", "color"),
                "/camera/color/image_raw": (RGB, "rgb8", "color"),
            },
            "/camera/color/image_raw",
            "/camera/aligned_depth_to_color/image_raw",
        ),
        # Depth of another camera's pixels is no ground truth.
        (
            {
                "/camera/depth/image_raw": (METRES, "32FC1", "depth"),
                "/camera/rgb/image_raw": (RGB, "bgr8", "color"),
            },
            "/camera/rgb/image_raw",
            None,
        ),
        # The same frame_id: the driver has aligned it.
        (
            {
                "/camera/depth/image_raw": (METRES, "32FC1", "color"),
                "/camera/rgb/image_raw": (RGB, "bgr8", "color"),
            },
            "/camera/rgb/image_raw",
            "/camera/depth/image_raw",
        ),
        # A plain driver without colour in its name; a picture for people of depth is not what the camera saw.
        (
            {
                "/image_raw": (RGB, "bgr8", "cam"),
                "/depth/view": (RGB, "rgb8", "cam"),
                "/segmentation/view": (RGB, "rgb8", "cam"),
            },
            "/image_raw",
            None,
        ),
        # A monochrome camera is better than none.
        ({"/left/image_mono": (GREY, "mono8", "cam")}, "/left/image_mono", None),
        (
            {
                "/k/rgb/image_raw": (RGB, "bgr8", "c"),
                "/k/depth_registered/image_raw/compressedDepth": (MM, "16UC1; compressedDepth png", "c"),
            },
            "/k/rgb/image_raw",
            "/k/depth_registered/image_raw/compressedDepth",
        ),
    ],
    ids=["realsense", "unaligned", "same-frame", "plain", "mono", "registered"],
)
def test_topics_are_found(tmp_path, topics, color, depth):
    with Bag(write_topics(tmp_path / "bag", topics), fov_deg=60) as bag:
        assert (bag.color_topic, bag.depth_topic) == (color, depth)


def test_camera_info_of_the_right_camera(tmp_path):
    topics = {
        "/a/left/image_raw": (RGB, "bgr8", "l"),
        "/b/front/image_raw": (RGB, "bgr8", "f"),
        "/b/front/camera_info": (None, "info", "f"),
    }
    with Bag(write_topics(tmp_path / "bag", topics)) as bag:
        assert bag.color_topic == "/b/front/image_raw", "the camera whose focal length is known comes first"
        assert bag.camera_info_topic == "/b/front/camera_info"
    with Bag(tmp_path / "bag", color="/a/left/image_raw") as bag:
        assert bag.color_topic == "/a/left/image_raw"
    assert bag_topics.pick_info("/a/left/image_raw", ["/b/x/camera_info", "/c/camera_info"]) is None


def test_named_topics(tmp_path):
    path = write(tmp_path / "bag")
    with Bag(path, depth=DEPTH, color=COLOR) as bag:
        assert bag.depth_topic == DEPTH
    with pytest.raises(BagError, match=r"has no topic /nope; it has /camera/.*sensor_msgs/msg/Image, 6"):
        Bag(path, depth="/nope")
    with pytest.raises(BagError, match="holds sensor_msgs/msg/CameraInfo, not images"):
        Bag(path, color=INFO)


def test_unknown_focal_length(tmp_path):
    path = write(tmp_path / "bag", info=False)
    with Bag(path) as bag, pytest.raises(CameraInfoError, match="no camera_info.*state the horizontal field of view"):
        list(bag.frames())
    with Bag(path, fov_deg=90) as bag:
        camera = next(bag.frames()).intrinsics
        assert camera.fx == pytest.approx(W / 2)
        assert (camera.cx, camera.cy) == ((W - 1) / 2, (H - 1) / 2)
    with pytest.raises(CameraInfoError, match="field of view of 190"):
        fov_intrinsics(190, W, H)


# Damage -----------------------------------------------------------------------------------------------------
# -------------


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(BagError, match="there is no recording at"):
        Bag(tmp_path / "nope")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BagError, match="no rosbag2 folder"):
        Bag(tmp_path / "folder")
    for name, data, words in [
        ("a.txt", b"x", "no recording that can be read"),
        ("a.mcap", b"", "is an empty file"),
        (
            "b.mcap",
            b"not an mcap file at all, but some text that is long enough",
            "cannot be read as a recording",
        ),
        ("c.db3", b"neither is this a database" * 10, "cannot be read as a recording"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BagError, match=words):
            Bag(tmp_path / name)
    path = write(tmp_path / "bag")
    (path / "bag.mcap").rename(tmp_path / "away.mcap")
    with pytest.raises(BagError, match="lacks bag.mcap, named in its metadata.yaml"):
        Bag(path)
    (path / "metadata.yaml").write_text("{]")
    with pytest.raises(BagError, match="metadata.yaml is damaged"):
        Bag(path)


def test_no_camera_and_no_messages(tmp_path):
    path = write_topics(
        tmp_path / "bag", {"/camera/depth/image_raw": (METRES, "32FC1", "d"), "/i": (None, "info", "d")}
    )
    with pytest.raises(BagError, match=r"no colour camera.*/camera/depth/image_raw \(sensor_msgs/msg/Image, 1\), /i "):
        Bag(path)
    with BagWriter(tmp_path / "empty") as writer:
        writer.add_topic(COLOR, "sensor_msgs/msg/Image")
    with pytest.raises(BagError, match="holds no messages"):
        Bag(tmp_path / "empty")


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "zstd"])
@pytest.mark.parametrize("bare", [False, True], ids=["folder", "bare"])
def test_truncated_mcap_hands_out_what_is_readable_first(tmp_path, compress, bare):
    """Noise does not compress, so both files have the same share of their messages before the cut."""
    rng = np.random.default_rng(0)
    with BagWriter(tmp_path / "bag", compress=compress) as writer:
        new = writer.messages
        for i in range(30):
            pixels = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
            pixels[0, 0] = i
            writer.write_message(COLOR, new.image(pixels, "rgb8", START + i * PERIOD, FRAME), START + i * PERIOD)
    file = tmp_path / "bag" / "bag.mcap"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with Bag(file if bare else tmp_path / "bag", fov_deg=60) as bag:
        assert "inside a record" in bag.truncated
        firsts = []
        with pytest.raises(
            BagTruncated, match=r"is truncated: bag.mcap: it ends at byte \d+.*All \d+ readable messages"
        ):
            for frame in bag.frames():
                firsts.append(int(frame.rgb[0, 0, 0]))
        # Half of 30 frames of 230 kB; of the last chunk whatever could still be unpacked.
        assert firsts == list(range(len(firsts)))
        assert 13 <= len(firsts) <= 15
        assert bag.color_count == len(firsts)


def test_lost_index_and_damage_in_the_middle(tmp_path):
    path = write(tmp_path / "bag", frames=400, compress=True)
    file = path / "bag.mcap"
    data = file.read_bytes()
    file.write_bytes(data[:-10])
    with (
        Bag(file) as bag,
        pytest.raises(BagTruncated, match="all messages are there, but its index is cut off"),
    ):
        assert sum(1 for _ in bag.messages([COLOR])) == 400
    broken = bytearray(data)
    middle = data.index(b"\x06", len(data) // 2)
    broken[middle : middle + 200] = bytes(200)
    file.write_bytes(broken)
    count = 0
    with Bag(file) as bag, pytest.raises(BagTruncated, match="damaged after"):
        for _ in bag.messages([COLOR]):
            count += 1
    assert 0 < count < 400


def test_cut_before_the_first_message(tmp_path):
    path = write(tmp_path / "bag")
    file = path / "bag.mcap"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(BagTruncated, match="no message can be read"):
        Bag(file)


def test_truncated_sqlite(tmp_path):
    new = Messages()
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection(COLOR, "sensor_msgs/msg/Image", typestore=new.typestore)
        for i in range(50):
            writer.write(connection, START + i, new.serialize(new.image(rgb_of(i), "bgr8", START + i, FRAME)))
    file = tmp_path / "bag" / "bag.db3"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BagError, match="cannot be read as a recording|damaged after"):
        Bag(tmp_path / "bag", fov_deg=60)


def test_the_kitchen():
    """A real recording: JPEG colour, compressedDepth, 300 frames."""
    path = Path(__file__).parents[3] / "shared" / "data" / "kitchen"
    if not path.exists():
        pytest.skip(f"real data is missing: {path}")
    with Bag(path) as bag:
        assert bag.color_topic == "/camera/color/image_raw/compressed"
        assert bag.depth_topic == "/camera/aligned_depth_to_color/image_raw/compressedDepth"
        assert bag.camera_info == Intrinsics(585.0, 585.0, 320.0, 240.0, 640, 480)
        frame = next(bag.frames())
        assert 0.5 < np.nanmedian(frame.depth) < 4
        assert bag.color_count == 300
