"""What the demo refuses before anything starts, and how it tells the player and the node what to do."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.evaluation import demo
from mila_ros.evaluation.inputs import bag_input, camera_input, video_input
from mila_ros.evaluation.results import prepare
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.frames import Intrinsics

STAMP = 1_700_000_000_000_000_000
CAMERA = Intrinsics(40.0, 40.0, 31.5, 23.5, 64, 48)


def _bag(path, *, topic="/cam/color/image_raw", info=True, frames=3):
    with BagWriter(path) as bag:
        for i in range(frames):
            stamp = STAMP + i * 33_000_000
            image = bag.messages.image(np.zeros((48, 64, 3), np.uint8), "bgr8", stamp, "optical")
            bag.write_message(topic, image, stamp)
            if info:
                bag.write_message("/cam/color/camera_info", bag.messages.camera_info(CAMERA, stamp, "optical"), stamp)
    return path


def test_a_recording_is_looked_through(tmp_path):
    found = bag_input(_bag(tmp_path / "b"), None)
    assert found.frames == 3 and not found.compressed and found.fov_deg is None and found.truth == ()
    assert found.play_arguments()[1:] == [
        "--color-topic",
        "/cam/color/image_raw",
        "--topics",
        "/cam/color/image_raw",
        "/cam/color/camera_info",
    ]
    parameters = found.node_parameters("front")
    assert "front.image_topic:=/cam/color/image_raw" in parameters
    assert "front.camera_info_topic:=/cam/color/camera_info" in parameters
    assert "front.transport:=raw" in parameters
    assert found.node_remappings() == []
    odd = replace(found, compressed=True, image_topic="/cam/image_compressed")
    assert odd.node_remappings() == ["--ros-args", "-r", "/cam/image_compressed/compressed:=/cam/image_compressed"]


def test_without_calibration_a_field_of_view_is_assumed(tmp_path):
    path = _bag(tmp_path / "b", info=False)
    assert bag_input(path, None).node_parameters("front")[-1] == "front.fallback_hfov:=60.000000"
    assert bag_input(path, 75.5).node_parameters("front")[-1] == "front.fallback_hfov:=75.500000"
    with pytest.raises(UserError, match="field of view of 300 degrees"):
        bag_input(path, 300.0)


def test_recordings_that_cannot_be_played(tmp_path):
    with pytest.raises(UserError, match="no recording at"):
        bag_input(tmp_path / "nothing", None)
    with BagWriter(tmp_path / "blind") as bag:
        bag.write_message("/info", bag.messages.camera_info(CAMERA, STAMP, "optical"), STAMP)
    with pytest.raises(UserError, match="no colour camera"):
        bag_input(tmp_path / "blind", None)
    (tmp_path / "noise.mcap").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(UserError, match=r"noise\.mcap"):
        bag_input(tmp_path / "noise.mcap", None)


def test_videos(tmp_path):
    with pytest.raises(UserError, match="no file"):
        video_input(tmp_path / "nothing.mp4", None)
    with pytest.raises(UserError, match="is a folder"):
        video_input(tmp_path, None)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match="no picture"):
        video_input(tmp_path / "text.mp4", None)
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for value in range(5):
        writer.write(np.full((48, 64, 3), 40 * value, np.uint8))
    writer.release()
    found = video_input(path, 70.0)
    assert found.frames == 5 and found.play_arguments() == [str(path), "--fov", "70"]


def test_a_webcam_that_is_not_there():
    with pytest.raises(UserError, match="/dev/video9731 does not exist"):
        camera_input("9731", 5.0, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bag", "nothing"], "no recording at"),
        (["--model", "no-such-model"], 'no model "no-such-model"'),
        (["--seconds", "0"], "--seconds 0"),
    ],
)
def test_refused_before_anything_starts(tmp_path, monkeypatch, arguments, message):
    """Nothing is started, and results of a former run stay."""
    from mila_ros.models.checkpoint import save_model
    from mila_ros.models.config import ModelConfig
    from mila_ros.models.mila import Mila

    save_model(Mila(ModelConfig.tiny(("depth",))), tmp_path / "m.safetensors")
    monkeypatch.setattr(demo, "run_session", lambda *_, **__: pytest.fail("something was started"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("old")
    usual = ["--out", str(out)]
    usual += [] if "--model" in arguments else ["--model", str(tmp_path / "m.safetensors")]
    usual += [] if "--bag" in arguments else ["--bag", str(_bag(tmp_path / "b"))]
    with pytest.raises(UserError, match=message):
        demo.main([*usual, *arguments])
    assert (out / "report.html").read_text() == "old"


def test_a_damaged_checkpoint(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="not a readable safetensors"):
        demo.main(
            ["--bag", str(_bag(tmp_path / "b")), "--model", str(tmp_path / "m.safetensors"), "--out", str(tmp_path)]
        )


def test_only_our_own_results_are_removed(tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "x").write_text("")
    (tmp_path / "mine.txt").write_text("keep")
    prepare(tmp_path, demo._OURS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]
