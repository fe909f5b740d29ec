"""`mila play`: the schedule and the stamps by arithmetic; what arrives over real DDS from a process of its
own.

Not covered: webcams (there is none on a test machine; its capture is replaced), and how late a loaded machine
plays.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.typesys import get_types_from_msg
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from mila_ros.errors import UserError
from mila_ros.ros import player, sources
from mila_ros.ros.pacing import Pacer, Restamper, header_stamp, with_stamp
from mila_ros.ros.sources import CameraNames, VideoSource, WebcamSource
from mila_ros.worlds.bag_writer import BagWriter, Messages
from mila_ros.worlds.frames import Intrinsics

IMAGE, INFO, NOTE = "/camera/color/image_raw", "/camera/color/camera_info", "/note"
FRAME = "camera_color_optical_frame"
H, W = 24, 32
START = 1_700_000_000_000_000_000
PERIOD = 50_000_000


class FakeClock:
    """A steady clock that only moves when somebody sleeps, and can be held up."""

    def __init__(self):
        self.now = 5_000

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += round(seconds * 1e9)


def test_schedule_is_absolute():
    """A message that is late does not delay the next ones; nothing is ever early."""
    clock = FakeClock()
    pacer = Pacer(2.0, clock, clock.sleep)
    begin = clock.now
    assert pacer.now() is None
    assert pacer.wait(START) == 0
    assert pacer.wait(START + 1_000_000_000) == 0
    assert clock.now == begin + 500_000_000
    clock.now += 700_000_000  # held up
    assert pacer.wait(START + 2_000_000_000) == 200_000_000
    assert pacer.wait(START + 4_000_000_000) == 0
    assert clock.now == begin + 2_000_000_000
    assert pacer.now() == START + 4_000_000_000
    pacer.restart(START)
    assert pacer.wait(START + 1_000_000_000) == 0
    assert clock.now == begin + 2_500_000_000


def test_schedule_can_be_stopped():
    clock = FakeClock()
    pacer = Pacer(1.0, clock, clock.sleep, lambda: clock.now > 200_000_000)
    pacer.wait(START)
    pacer.wait(START + 60_000_000_000)
    assert clock.now < 300_000_000


def test_stamps_move_together():
    restamper = Restamper(2.0, lambda: 9_000)
    assert restamper.moved(START) == 9_000
    assert restamper.moved(START + 1_000) == 9_500
    assert restamper.moved(START + 1_000) == 9_500, "equal stamps stay equal"
    assert restamper.moved(START - 1_000) == 8_500
    restamper.restart()
    assert restamper.moved(START + 5_000) == 9_000


def test_stamp_in_a_serialised_message():
    new = Messages()
    pixels = np.arange(H * W * 3, dtype=np.uint8).reshape(H, W, 3)
    data = new.serialize(new.image(pixels, "bgr8", START + 7, FRAME))
    assert header_stamp(data) == START + 7
    moved = with_stamp(data, 12_000_000_034)
    message = new.typestore.deserialize_cdr(moved, "sensor_msgs/msg/Image")
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (12, 34, FRAME)
    assert (message.data.reshape(H, W, 3) == pixels).all()
    big = bytes(new.typestore.serialize_cdr(message, "sensor_msgs/msg/Image", little_endian=False))
    assert header_stamp(with_stamp(big, START)) == START


# Over DDS ---------------------------------------------------------------------------------------------------
# -----------


class Listener:
    """A node in this process that keeps what arrives on some topics, with the time of arrival."""

    def __init__(self, domain):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("listener", context=self.context)
        self.got = {}
        self.times = {}
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def hear(self, kind, topic, latched=False):
        self.got[topic], self.times[topic] = [], []
        profile = QoSProfile(depth=100)
        if latched:
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL

        def arrive(message):
            self.times[topic].append(time.monotonic_ns())
            self.got[topic].append(message)

        self.node.create_subscription(kind, topic, arrive, profile)

    def wait(self, topic, count, seconds=5.0):
        """Give what was delivered the time to reach this node's thread, on a busy machine."""
        end = time.monotonic() + seconds
        while len(self.got[topic]) < count and time.monotonic() < end:
            time.sleep(0.01)

    def close(self):
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def listener():
    domain = int(os.environ["ROS_DOMAIN_ID"])
    listener = Listener(domain)
    yield listener
    listener.close()


def start(*arguments):
    command = [sys.executable, "-m", "mila_ros.cli", "play", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def play(*arguments, timeout=60):
    """(exit status, stdout, stderr)"""
    process = start(*arguments)
    try:
        out, error = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, error


def stamp(message):
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


@pytest.fixture
def bag(tmp_path):
    """20 frames at 20 Hz with camera_info, and one latched note at the beginning."""
    with BagWriter(tmp_path / "bag") as writer:
        new = writer.messages
        writer.add_topic(NOTE, "std_msgs/msg/String", latched=True)
        writer.write_message(NOTE, new.new("std_msgs/msg/String", data="hello"), START)
        new.typestore.register(get_types_from_msg("uint8 x", "nowhere_msgs/msg/Odd"))
        writer.write_message("/odd", new.new("nowhere_msgs/msg/Odd", x=1), START)
        for i in range(20):
            time_ns = START + i * PERIOD
            camera = Intrinsics(30.0, 30.0, 15.5, 11.5, W, H)
            writer.write_message(INFO, new.camera_info(camera, time_ns, FRAME), time_ns)
            writer.write_message(IMAGE, new.image(np.full((H, W, 3), i, np.uint8), "bgr8", time_ns, FRAME), time_ns)
    return tmp_path / "bag"


def test_recording_arrives_as_it_was_recorded(bag, listener, tmp_path):
    listener.hear(Image, IMAGE)
    listener.hear(CameraInfo, INFO)
    listener.hear(String, NOTE, latched=True)
    log, report = tmp_path / "log.jsonl", tmp_path / "report.json"
    status, out, error = play(bag, "--delay-until-subscribers", 1, "--log", log, "--report", report)
    assert status == 0, error
    assert "played 20 frames" in out
    assert "not played, since nowhere_msgs/msg/Odd is not installed: /odd" in error
    for topic, count in ((IMAGE, 20), (INFO, 20), (NOTE, 1)):
        listener.wait(topic, count)
    images = listener.got[IMAGE]
    assert [stamp(message) for message in images] == [START + i * PERIOD for i in range(20)]
    assert [message.data[0] for message in images] == list(range(20))
    assert (images[0].encoding, images[0].header.frame_id, len(images[0].data)) == ("bgr8", FRAME, H * W * 3)
    assert [stamp(message) for message in listener.got[INFO]] == [START + i * PERIOD for i in range(20)]
    assert [message.data for message in listener.got[NOTE]] == ["hello"]
    # The log: one line a picture, on the clock of the arrivals.
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["stamp_ns"] for line in lines] == [stamp(message) for message in images]
    assert {line["topic"] for line in lines} == {IMAGE}
    delays = [arrived - line["published_ns"] for arrived, line in zip(listener.times[IMAGE], lines)]
    assert all(0 < delay < 1e9 for delay in delays)
    # 0.95 s at the recorded rate; never early, and late only as far as the machine is busy.
    assert 0.85e9 < lines[-1]["published_ns"] - lines[0]["published_ns"] < 3e9
    facts = json.loads(report.read_text())
    assert (facts["frames"], facts["messages"], facts["image_topic"]) == (20, 41, IMAGE)
    assert facts["skipped_topics"] == ["/odd"]
    assert facts["truncated"] is None
    assert 0 <= facts["worst_late_ms"] < 2000


def test_stamps_of_the_present_at_twice_the_rate(bag, listener, tmp_path):
    listener.hear(Image, IMAGE)
    listener.hear(CameraInfo, INFO)
    begin = time.time_ns()
    log = tmp_path / "log.jsonl"
    play(bag, "--rate", 2, "--stamp", "now", "--delay-until-subscribers", 1, "--log", log)
    stamps = [stamp(message) for message in listener.got[IMAGE]]
    assert begin < stamps[0] < stamps[-1] < time.time_ns() + 1e9
    assert np.diff(stamps).tolist() == pytest.approx([PERIOD / 2] * 19, abs=2)
    assert [stamp(message) for message in listener.got[INFO]] == stamps, "a picture keeps its camera_info"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["stamp_ns"] for line in lines] == stamps
    assert 0.42e9 < lines[-1]["published_ns"] - lines[0]["published_ns"] < 0.9e9


def test_loop_clock_and_interrupt(bag, listener):
    listener.hear(Image, IMAGE)
    listener.hear(Clock, "/clock")
    process = start(bag, "--loop", "--clock", 100, "--topics", IMAGE, "--delay-until-subscribers", 1)
    try:
        deadline = time.monotonic() + 30
        while len(listener.got[IMAGE]) < 25 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert "played" in out
    stamps = [stamp(message) for message in listener.got[IMAGE]]
    assert stamps[20] == stamps[0] == START, "the second round begins where the first did"
    clock = [message.clock.sec * 1_000_000_000 + message.clock.nanosec for message in listener.got["/clock"]]
    first_round = clock[: next((i for i in range(1, len(clock)) if clock[i] < clock[i - 1]), len(clock))]
    assert len(first_round) > 50
    assert all(START <= now < START + 2_000_000_000 for now in first_round)


def test_truncated_recording_is_played_first(tmp_path, listener):
    listener.hear(Image, IMAGE)
    rng = np.random.default_rng(0)
    with BagWriter(tmp_path / "bag") as writer:
        for i in range(20):
            pixels = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
            time_ns = START + i * PERIOD // 5
            writer.write_message(IMAGE, writer.messages.image(pixels, "rgb8", time_ns, FRAME), time_ns)
    file = tmp_path / "bag" / "bag.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    report = tmp_path / "report.json"
    status, out, error = play(tmp_path / "bag", "--delay-until-subscribers", 1, "--report", report)
    assert status == 2
    assert "truncated" in out
    assert "error: " in error
    assert "bag is truncated: bag.mcap: it ends at byte" in error
    assert 8 <= len(listener.got[IMAGE]) <= 10
    assert json.loads(report.read_text())["frames"] == len(listener.got[IMAGE])


def test_wrong_arguments_stop_before_anything_starts(tmp_path, bag):
    with BagWriter(tmp_path / "notes") as writer:
        writer.write_message(NOTE, writer.messages.new("std_msgs/msg/String", data="x"), START)
    (tmp_path / "text.mp4").write_text("not a video")
    for arguments, words in [
        ([tmp_path / "nope"], "there is no recording at"),
        ([tmp_path / "notes"], "has no colour camera"),
        ([tmp_path / "text.mp4"], "is no video that OpenCV can open"),
        (["camera:17"], "camera 17 cannot be opened: is /dev/video17 there"),
        ([bag, "--rate", "0"], "--rate 0: between"),
        ([bag, "--topics", "/nope"], "has no topic /nope"),
        ([bag, "--clock", "--stamp", "now"], "use --stamp bag"),
        ([bag, "--size", "big"], "write it as WIDTHxHEIGHT"),
    ]:
        with pytest.raises(UserError, match=words):
            player.main([str(argument) for argument in arguments])


def test_best_effort_like_a_camera(bag, listener):
    """The standard QoS parameter reaches the publisher: a reliable subscriber then gets nothing from it."""
    listener.hear(Image, IMAGE)
    override = f"qos_overrides.{IMAGE}.publisher.reliability:=best_effort"
    options = ["--delay-until-subscribers", 1, "--wait-timeout", 1, "--ros-args", "-p", override]
    status, _, error = play(bag, *options)
    assert status == 2, error
    assert "0 of 1 subscribers" in error
    assert listener.got[IMAGE] == []


def test_nobody_subscribes(bag):
    status, _, error = play(bag, "--delay-until-subscribers", 1, "--wait-timeout", 0.2)
    assert status == 2
    assert f"0 of 1 subscribers to {IMAGE} within 0.2 s" in error


# Videos and webcams
# ------------------------------------------------------------------------------------------------------


@pytest.fixture
def video(tmp_path):
    """30 frames at 15 Hz, frame i filled with 8 i."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 15, (64, 48))
    for i in range(30):
        writer.write(np.full((48, 64, 3), 8 * i, np.uint8))
    writer.release()
    return path


def test_video_over_dds(video, listener):
    listener.hear(Image, IMAGE)
    listener.hear(CameraInfo, INFO)
    begin = time.time_ns()
    status, out, error = play(video, "--fov", 90, "--size", "32x24", "--delay-until-subscribers", 1)
    assert status == 0, error
    assert "about 30 frames at 15 Hz" in out
    assert "field of view of 90 degrees is assumed" in out
    images, infos = listener.got[IMAGE], listener.got[INFO]
    assert len(images) == len(infos) == 30
    np.testing.assert_allclose([message.data[0] for message in images], [8 * i for i in range(30)], atol=2)
    assert (images[0].width, images[0].height, images[0].encoding) == (32, 24, "bgr8")
    assert infos[0].k[0] == pytest.approx(16.0)
    assert stamp(images[0]) > begin
    assert np.diff([stamp(m) for m in images]) == pytest.approx(1e9 / 15, abs=2e6)
    assert [stamp(m) for m in images] == [stamp(m) for m in infos]


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_video_formats(tmp_path, suffix):
    path = tmp_path / f"video.{suffix}"
    code = "mp4v" if suffix == "mp4" else "MJPG"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 30, (64, 48))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {code}")
    for i in range(10):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    messages = [m for m in VideoSource(path, CameraNames()).messages() if m.topic == IMAGE]
    times = np.array([m.time_ns for m in messages])
    assert len(messages) == 10
    assert np.diff(times) == pytest.approx(1e9 / 30, abs=1e6)


def test_truncated_video_is_told(video, caplog):
    data = video.read_bytes()
    video.write_bytes(data[: len(data) * 3 // 4])
    source = VideoSource(video, CameraNames())
    frames = sum(message.topic == IMAGE for message in source.messages())
    assert 0 < frames < 30
    assert f"ended after {frames} of 30 frames" in caplog.text


def test_webcam(monkeypatch):
    """The capture is replaced: three pictures, then the plug is pulled."""

    class Capture:
        def __init__(self, device, backend):
            assert device == 0
            self.left = 3

        def isOpened(self):  # noqa: N802
            return True

        def set(self, key, value):
            return True

        def read(self):
            self.left -= 1
            return self.left >= 0, np.full((48, 64, 3), 7, np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(sources.cv2, "VideoCapture", Capture)
    source = WebcamSource("0", CameraNames(fov_deg=60))
    assert source.live
    got = []
    with pytest.raises(UserError, match="camera 0 stopped giving pictures"):
        for message in source.messages():
            got.append(message)
    assert [message.topic for message in got] == [INFO, IMAGE] * 3
    assert all(abs(message.time_ns - time.time_ns()) < 5e9 for message in got)
    with pytest.raises(UserError, match="field of view of 190"):
        WebcamSource("0", CameraNames(fov_deg=190))


def test_the_kitchen():
    path = Path(__file__).parents[3] / "shared" / "data" / "kitchen"
    if not path.exists():
        pytest.skip(f"real data is missing: {path}")
    source = sources.open_source(str(path), CameraNames())
    assert source.image_topic == "/camera/color/image_raw/compressed"
    assert sum(message.topic == source.image_topic for message in source.messages()) == 300
    source.close()
