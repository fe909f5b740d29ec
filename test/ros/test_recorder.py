"""`mila record`: arrivals and recording of a pretended perception node, over real DDS, from a process of its
own.

Not covered: how fast it is next to a real network (the demo and the benchmarks measure that), and a full disk
in earnest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from mila_ros.msg import ComputeBudget, StageTiming
from rclpy.qos import QoSProfile
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from mila_ros import images
from mila_ros.errors import UserError
from mila_ros.ros import recorder
from mila_ros.ros.recorder import Storage
from mila_ros.worlds.bag_storage import open_storage

START = 1_700_000_000_000_000_000
PERIOD = 20_000_000
TASKS = {"segmentation": "mono8", "depth": "32FC1", "normals": "32FC3"}
PIXELS = {
    "segmentation": np.full((24, 32), 3, np.uint8),
    "depth": np.full((24, 32), 1.5, np.float32),
    "normals": np.zeros((24, 32, 3), np.float32) - np.array([0, 0, 1], np.float32),
}


class Pretender:
    """Publishes what a perception node with the cameras `cameras` would, from this process."""

    def __init__(self, cameras):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=int(os.environ["ROS_DOMAIN_ID"]))
        self.node = rclpy.create_node("perception", context=self.context)
        make = self.node.create_publisher
        profile = QoSProfile(depth=50)
        self.images = {(c, t): make(Image, f"/perception/{c}/{t}/image", profile) for c in cameras for t in TASKS}
        self.infos = {
            (c, t): make(CameraInfo, f"/perception/{c}/{t}/camera_info", profile) for c in cameras for t in TASKS
        }
        self.budget = make(ComputeBudget, "/perception/budget", 10)
        self.input = make(Image, "/camera/color/image_raw", profile)

    def answer(self, camera, index, tasks=tuple(TASKS)):
        header = {"stamp": rclpy.time.Time(nanoseconds=START + index * PERIOD).to_msg(), "frame_id": "optical"}
        for task in tasks:
            message = Image(**images.image_fields(PIXELS[task], TASKS[task]))
            message.header.stamp, message.header.frame_id = header["stamp"], header["frame_id"]
            info = CameraInfo(width=32, height=24)
            info.header = message.header
            self.infos[camera, task].publish(info)
            self.images[camera, task].publish(message)

    def close(self):
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def pretend():
    made = []

    def make(cameras=("front",)):
        made.append(Pretender(cameras))
        return made[-1]

    yield make
    for pretender in made:
        pretender.close()


class Recording:
    """`mila record` in a process of its own."""

    def __init__(self, out, *arguments):
        command = [sys.executable, "-m", "mila_ros.cli", "record", "--out", str(out), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stdout.readline, "")))
        self._reader.start()

    def wait_ready(self):
        deadline = time.monotonic() + 30
        while "ready\n" not in self.lines and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.05)
        assert "ready\n" in self.lines

    def finish(self, number=None):
        """(exit status, stdout, stderr)"""
        if number is not None:
            self.process.send_signal(number)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
        self._reader.join()
        error = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return self.process.returncode, "".join(self.lines), error


def stored(path):
    """topic -> messages, deserialised with the definitions that are in the file, as Foxglove does."""
    messages = {}
    with AnyReader([path]) as reader:
        for connection, _, data in reader.messages():
            messages.setdefault(connection.topic, []).append(reader.deserialize(data, connection.msgtype))
    return messages


def test_arrivals_and_recording(tmp_path, pretend):
    """Stopped by SIGINT, the recording is whole, and every arrival lies between its publication and now."""
    node = pretend()
    recording = Recording(tmp_path / "out", "--topic", "/camera/color/image_raw")
    recording.wait_ready()
    published = {}
    for i in range(20):
        published[START + i * PERIOD] = time.monotonic_ns()
        # Frame 7's depth never comes: that is what the report must be able to show.
        node.answer("front", i, ("segmentation", "normals") if i == 7 else tuple(TASKS))
        time.sleep(0.02)
    node.budget.publish(ComputeBudget(device="cpu", stages=[StageTiming(name="slow", mean_ms=12.5)]))
    time.sleep(0.5)
    status, out, error = recording.finish(signal.SIGINT)
    assert status == 0, error
    assert "front: 20 frames answered (segmentation/image 20, depth/image 19, normals/image 20)" in out

    facts = json.loads((tmp_path / "out" / "arrivals.json").read_text())
    camera = facts["cameras"]["front"]
    assert camera["outputs"] == ["segmentation/image", "depth/image", "normals/image"]
    assert [arrival["stamp_ns"] for arrival in camera["arrivals"]] == list(published)
    for i, arrival in enumerate(camera["arrivals"]):
        assert ("depth/image" in arrival) == (i != 7)
        times = [value for key, value in arrival.items() if key != "stamp_ns"]
        assert published[arrival["stamp_ns"]] < min(times) <= max(times) < facts["ended_ns"]
        assert max(times) - published[arrival["stamp_ns"]] < 2e9
    assert (facts["node"], facts["budget_messages"], facts["lost_messages"]) == ("/perception", 1, 0)

    messages = stored(tmp_path / "out" / "outputs")
    assert facts["stored_messages"] == sum(map(len, messages.values()))
    assert len(messages["/perception/front/segmentation/image"]) == 20
    assert len(messages["/perception/front/depth/image"]) == 19
    assert (images.decode_depth(messages["/perception/front/depth/image"][0]) == 1.5).all()
    assert (images.decode_labels(messages["/perception/front/segmentation/image"][0]) == 3).all()
    normals = messages["/perception/front/normals/image"][-1]
    assert (images.decode_normals(normals) == PIXELS["normals"]).all()
    assert normals.header.frame_id == "optical"
    assert messages["/perception/front/depth/camera_info"][0].width == 32
    budget = messages["/perception/budget"][0]
    assert (budget.device, budget.stages[0].name, budget.stages[0].mean_ms) == ("cpu", "slow", 12.5)


def test_every_nth_frame_of_two_cameras_until_idle(tmp_path, pretend):
    """Of each n-th stamp everything is stored, so that pictures which belong together stay together."""
    node = pretend(("front", "rear"))
    recording = Recording(tmp_path / "out", "--cameras", "front", "rear", "--every", 5, "--until-idle", 1.5)
    recording.wait_ready()
    for i in range(20):
        node.answer("front", i)
        node.answer("rear", i)
        time.sleep(0.02)
    status, _, error = recording.finish()
    assert status == 0, error
    cameras = json.loads((tmp_path / "out" / "arrivals.json").read_text())["cameras"]
    assert [len(cameras[name]["arrivals"]) for name in ("front", "rear")] == [20, 20]
    messages = stored(tmp_path / "out" / "outputs")
    for camera in ("front", "rear"):
        for task in TASKS:
            stamps = [m.header.stamp.nanosec for m in messages[f"/perception/{camera}/{task}/image"]]
            assert stamps == [i * PERIOD for i in (0, 5, 10, 15)]


def test_further_topics_are_taken_with_their_publishers_qos(tmp_path, pretend):
    node = pretend()
    late = QoSProfile(depth=1, reliability=rclpy.qos.ReliabilityPolicy.BEST_EFFORT)
    extra = node.node.create_publisher(Image, "/extra", late)
    recording = Recording(tmp_path / "out", "--topic", "extra", "/extr", "--duration", 6)
    recording.wait_ready()
    for i in range(60):
        message = Image(**images.image_fields(PIXELS["segmentation"], "mono8"))
        message.header.stamp.nanosec = i
        extra.publish(message)
        node.answer("front", i)
        time.sleep(0.03)
    status, _, error = recording.finish(signal.SIGTERM)
    assert status == 0, error
    assert len(stored(tmp_path / "out" / "outputs")["/extra"]) > 30
    assert 'not recorded, or not to the end: nobody publishes /extr; did you mean "/extra"?' in error


def test_the_duration_counts_from_the_first_output(tmp_path, pretend):
    node = pretend()
    recording = Recording(tmp_path / "out", "--duration", 0.5, "--wait", 60)
    recording.wait_ready()
    time.sleep(1.0)
    begin = time.monotonic()
    node.answer("front", 0)
    status, said, error = recording.finish()
    assert status == 0, error
    assert time.monotonic() - begin > 0.5 and "front: 1 frames answered" in said


def test_nothing_arrives(tmp_path):
    status, said, error = Recording(tmp_path / "out", "--wait", 0.5).finish()
    assert status == 2
    assert "no output of /perception arrived: no node /perception publishes in ROS_DOMAIN_ID" in error
    assert "nothing was recorded" in said
    assert json.loads((tmp_path / "out" / "arrivals.json").read_text())["cameras"] == {
        "front": {"outputs": ["segmentation/image", "depth/image", "normals/image"], "arrivals": []}
    }
    assert not (tmp_path / "out" / "outputs").exists()  # so that the same command may be tried again


def test_where_nothing_arrives_the_node_says_why(tmp_path, pretend):
    node = pretend()
    said = node.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    # Latched where vision_msgs is installed, and no output; of whatever type, which the graph tells.
    names = node.node.create_publisher(Header, "/perception/front/segmentation/label_info", 10)
    recording = Recording(tmp_path / "out", "--wait", 8)
    warning = DiagnosticStatus(level=DiagnosticStatus.WARN, name="perception: camera front", message="no camera_info")
    fine = DiagnosticStatus(level=DiagnosticStatus.OK, name="perception: budget", message="held")
    other = DiagnosticStatus(level=DiagnosticStatus.ERROR, name="motors", message="hot")
    while recording.process.poll() is None:
        said.publish(DiagnosticArray(status=[warning, fine]))
        said.publish(DiagnosticArray(status=[other]))  # of another node
        names.publish(Header(frame_id="classes"))
        time.sleep(0.1)
    assert not (tmp_path / "out" / "outputs").exists()
    status, _, error = recording.finish()
    assert status == 2
    assert error.rstrip().endswith("no output of /perception arrived: perception: camera front: no camera_info")


def test_a_node_that_still_loads_has_no_cameras_yet(tmp_path, pretend):
    node = pretend(())
    node.node.create_publisher(Header, "/perception/transition_event", 10)
    status, _, error = Recording(tmp_path / "out", "--wait", 4).finish()
    assert status == 2
    assert "no output of /perception arrived: /perception offers no camera: is it still loading its model" in error


def test_what_the_node_said_of_itself_may_be_kept(tmp_path, pretend):
    node = pretend()
    said = node.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    late = DiagnosticStatus(level=DiagnosticStatus.WARN, name="perception: budget", message="frames are late")
    recording = Recording(tmp_path / "out", "--wait", 8, "--keep-empty", "--cameras", "frnt")
    while recording.process.poll() is None:
        said.publish(DiagnosticArray(status=[late]))
        time.sleep(0.1)
    status, _, error = recording.finish()
    assert status == 2
    why = '/perception has no camera frnt; did you mean "front"? (cameras: front)'
    assert f"not there yet: {why}" in error and f"no output of /perception arrived: {why}" in error
    assert list(stored(tmp_path / "out" / "outputs")) == ["/diagnostics"]


def test_an_old_recording_is_not_overwritten(tmp_path):
    (tmp_path / "outputs").mkdir()
    with pytest.raises(UserError, match="exists already; name another folder or remove it"):
        recorder.main(["--out", str(tmp_path)])
    with pytest.raises(UserError, match="--every 0: at least 1"):
        recorder.main(["--out", str(tmp_path), "--every", "0"])
    with pytest.raises(UserError, match=r'"/a b" cannot be the name of a topic: topic name must not contain'):
        recorder.main(["--out", str(tmp_path), "--topic", "a b"])
    with pytest.raises(UserError, match="repeated '/'"):
        recorder.main(["--out", str(tmp_path), "--topic", "/a//b"])
    with pytest.raises(UserError, match='"/perception/a b" cannot be the name of a topic'):
        recorder.main(["--out", str(tmp_path), "--cameras", "a b"])


def test_a_failing_disk_stops_storing_but_not_the_rest(tmp_path, monkeypatch):
    storage = Storage(tmp_path / "bag")
    real = storage._writer.write
    data = bytes([0, 1, 0, 0]) + bytes(60)

    def write(*entry):
        if storage.count == 3:
            raise OSError(28, "No space left on device")
        real(*entry)

    monkeypatch.setattr(storage._writer, "write", write)
    for _ in range(10):
        storage.put("/x", "std_msgs/msg/Header", data)
    storage.close()
    assert "No space left" in storage.error
    assert storage.count == 3
    opened = open_storage(tmp_path / "bag")
    assert opened.topics["/x"].messages == 3
    opened.close()
