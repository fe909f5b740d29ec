"""`mila demo` from end to end: player, node and recorder as processes over real DDS, with a tiny network and recording.

Not covered: how fast or how right a real network is (that is what the demo itself reports), webcams, GPUs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from mila_ros.worlds.bag_storage import open_storage
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.frames import Intrinsics

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="needs ROS 2 (`. .venv/bin/mila-env` first)"),
    pytest.mark.timeout(300),
]

W, H = 96, 72
START = 1_600_000_000_000_000_000
FRAMES = 45
"""A second and a half: enough for a report of the node, which comes each second."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint of a tiny network with random weights, which sees these small pictures as they are."""
    from mila_ros.models.checkpoint import save_model
    from mila_ros.models.config import ModelConfig
    from mila_ros.models.mila import Mila

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(Mila(replace(ModelConfig.tiny(), working_pixels=W * H)), path)
    return path


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """A drifting pattern with labels and, except for a stripe, depth."""
    path = tmp_path_factory.mktemp("bag") / "tiny"
    camera = Intrinsics(80.0, 80.0, 47.5, 35.5, W, H)
    pattern = np.random.default_rng(0).integers(0, 255, (H // 8, W // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    depth = np.full((H, W), 2000, np.uint16)
    depth[:10] = 0
    labels = np.zeros((H, W), np.uint8)
    labels[40:] = 1
    with BagWriter(path) as writer:
        make = writer.messages
        for i in range(FRAMES):
            stamp = START + i * 33_333_333
            writer.write_message("/cam/color/camera_info", make.camera_info(camera, stamp, "optical"), stamp)
            picture = make.image(np.roll(pattern, i, axis=1), "rgb8", stamp, "optical")
            writer.write_message("/cam/color/image_raw", picture, stamp)
            writer.write_message("/cam/aligned_depth/image_raw", make.image(depth, "16UC1", stamp, "optical"), stamp)
            writer.write_message("/cam/labels/image", make.image(labels, "mono8", stamp, "optical"), stamp)
    return path


def _command(bag, model, out, *more):
    return [
        *(sys.executable, "-m", "mila_ros.cli", "demo", "--bag", str(bag), "--model", str(model), "--out", str(out)),
        *("-p", "threads.fast:=1", *more),
    ]


def _programs(out: Path) -> list[int]:
    """Processes that name this folder in their arguments, and those started with them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and str(out) in " ".join(process.info["cmdline"] or []):
            found.append(process.pid)
    return found


def test_from_recording_to_report(bag, model, tmp_path):
    out = tmp_path / "out"
    done = subprocess.run(_command(bag, model, out), capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr

    summary = json.loads((out / "summary.json").read_text())
    frames, latency = summary["frames"], summary["latency_ms"]
    assert frames["published"] == FRAMES
    # A busy machine may lose best-effort pictures and drop others; none is unaccounted for.
    assert frames["received"] + frames["lost"] == FRAMES
    assert frames["answered"] + frames["dropped"] + frames["failed"] == frames["received"]
    assert frames["failed"] == 0 and 0 < frames["complete"] <= frames["answered"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] < 60_000
    assert summary["node_rss_mb"] > 50
    # One class is always or never right, and the depth of a network clamped to some metres is never exact.
    assert 0 <= summary["segmentation"]["pixel_accuracy"] <= 1
    assert summary["depth"]["rmse"] > 0 and 0 < summary["normals"]["mean_deg"] < 180

    page = (out / "report.html").read_text()
    assert "http" not in page and "Normals" in page and "planes fitted" in page
    assert "data:image/jpeg;base64," in page

    storage = open_storage(out / "outputs")
    try:
        topics = {name: info.msgtype for name, info in storage.topics.items()}
        for task in ("segmentation", "depth", "normals"):
            assert topics[f"/perception/front/{task}/image"] == "sensor_msgs/msg/Image"
            assert topics[f"/perception/front/{task}/view/compressed"] == "sensor_msgs/msg/CompressedImage"
        assert topics["/perception/budget"] == "mila_ros/msg/ComputeBudget"
        assert "/cam/color/image_raw/compressed" in topics
        assert storage.topics["/perception/front/depth/image"].messages == frames["complete"]
    finally:
        storage.close()
    assert not (out / "recording").exists()
    assert f"{frames['answered']} answered" in done.stdout and str(out / "report.html") in done.stdout
    assert _programs(out) == []


def test_where_no_frame_can_be_answered_the_report_says_why(model, tmp_path):
    small = tmp_path / "small"
    with BagWriter(small) as writer:
        for i in range(FRAMES):
            stamp = START + i * 33_333_333
            picture = writer.messages.image(np.zeros((12, 16, 3), np.uint8), "rgb8", stamp, "optical")
            writer.write_message("/cam/color/image_raw", picture, stamp)
    out = tmp_path / "out"
    done = subprocess.run(_command(small, model, out), capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    frames = json.loads((out / "summary.json").read_text())["frames"]
    assert frames["answered"] == 0 and frames["failed"] > 0
    why = f"{frames['failed']} of the frames could not be answered; the last one: a picture of 16x12 is too small"
    assert why in done.stdout and why in (out / "report.html").read_text()


def test_a_node_that_cannot_start_is_quoted(bag, model, tmp_path):
    """The error is the node's own, and nothing stays behind."""
    out = tmp_path / "out"
    command = _command(bag, model, out, "-p", "device:=cuda:93")
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "error: node ended with status 2" in done.stderr and "cuda:93" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert _programs(out) == []


def test_interrupted_it_takes_all_with_it(bag, model, tmp_path):
    out = tmp_path / "out"
    # A test run in the background of a shell ignores SIGINT, and so would what it starts.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    demo = subprocess.Popen(_command(bag, model, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    signal.signal(signal.SIGINT, kept)
    try:
        children: list[int] = []
        deadline = time.monotonic() + 120
        while len(children) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
            children = [child.pid for child in psutil.Process(demo.pid).children(recursive=True)]
        assert len(children) == 2, "node and recorder"
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130
    finally:
        demo.kill()
        demo.communicate()
    assert not [pid for pid in children if psutil.pid_exists(pid)]
