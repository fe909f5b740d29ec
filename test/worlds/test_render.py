"""worlds/render.py: what `mila render` writes is read back by worlds/bags.py as it was rendered.

Left out: the look of the bundled clip, and pictures of its full size (slow).
"""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.paths import clips_dir
from mila_ros.worlds import render
from mila_ros.worlds.bags import Bag
from mila_ros.worlds.frames import Frame, Intrinsics
from mila_ros.worlds.render import START_NS, frames_of, main, prepare
from mila_ros.worlds.rendered import RenderedWorld
from mila_ros.worlds.rendered_bag import _quaternion, velocity
from mila_ros.worlds.rendered_demo import LOOP, demo_path, demo_scene

SMALL = ["--frames", "4", "--width", "64", "--height", "48", "--rate", "30", "--truth-every", "2"]


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    out = tmp_path_factory.mktemp("render") / "clip"
    assert main([str(out), *SMALL]) == 0
    return out


@pytest.fixture(scope="module")
def truth():
    world = RenderedWorld(height=48, width=64, shadows=3, supersample=2, clean=True)
    return list(frames_of(world, prepare(world, "demo", 4, 30.0, 3), 30.0))


def test_a_recording_holds_what_was_rendered(bag, truth):
    with Bag(bag) as recording:
        frames = list(recording.frames())
        assert recording.color_topic == "/camera/color/image_raw/compressed"
        assert recording.camera_info_topic == "/camera/color/camera_info"
        assert recording.depth_topic == "/camera/aligned_depth_to_color/image_raw/compressedDepth"
        assert recording.labels_topic == "/camera/labels/image/compressed"
    assert len(frames) == 4
    for k, (read, made) in enumerate(zip(frames, truth)):
        assert read.stamp_ns == made.stamp_ns == START_NS + round(k * 1e9 / 30)
        assert read.intrinsics == made.intrinsics
        assert np.abs(read.rgb.astype(int) - made.rgb).mean() < 8
        if k % 2:
            assert read.depth is None and read.labels is None
        else:
            assert np.abs(read.depth - made.depth).max() <= 0.00051
            np.testing.assert_array_equal(read.labels, made.labels)


def test_raw_recordings_are_exact(tmp_path, truth):
    assert main([str(tmp_path / "raw"), *SMALL, "--raw", "--normals"]) == 0
    with Bag(tmp_path / "raw") as recording:
        frames = list(recording.frames())
    np.testing.assert_array_equal(frames[0].rgb, truth[0].rgb)
    np.testing.assert_array_equal(frames[2].depth, truth[2].depth)
    np.testing.assert_array_equal(frames[2].labels, truth[2].labels)
    np.testing.assert_allclose(frames[2].normals, truth[2].normals, atol=1e-6)


def test_the_same_command_writes_the_same_recording(bag, tmp_path):
    assert main([str(tmp_path / "again"), *SMALL]) == 0
    one, other = (hashlib.sha256(next(p.glob("*.mcap")).read_bytes()).hexdigest() for p in (bag, tmp_path / "again"))
    if one != other:
        # The name of the file is part of it.
        with Bag(bag) as a, Bag(tmp_path / "again") as b:
            assert [m.data for m in a.messages()] == [m.data for m in b.messages()]


def test_the_pose_is_recorded_as_a_transform(bag, truth):
    with Bag(bag) as recording:
        (first, *_) = [recording.deserialize(m) for m in recording.messages(["/tf"])]
    stamped = first.transforms[0]
    assert (stamped.header.frame_id, stamped.child_frame_id) == ("map", "camera_color_optical_frame")
    t = stamped.transform.translation
    np.testing.assert_allclose([t.x, t.y, t.z], truth[0].pose[:3, 3], atol=1e-6)
    q = stamped.transform.rotation
    x, y, z, w = q.x, q.y, q.z, q.w
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    np.testing.assert_allclose(turn, truth[0].pose[:3, :3], atol=1e-6)


def test_odometry_says_where_and_how_fast(bag, truth):
    with Bag(bag) as recording:
        found = [recording.deserialize(m) for m in recording.messages(["/odom"])]
    assert len(found) == len(truth)
    first, second = found[:2]
    assert (first.header.frame_id, first.child_frame_id) == ("map", "camera_color_optical_frame")
    assert first.twist.twist.linear.x == first.twist.twist.angular.y == 0
    p = second.pose.pose.position
    np.testing.assert_allclose([p.x, p.y, p.z], truth[1].pose[:3, 3], atol=1e-6)
    v = second.twist.twist.linear
    seconds = (truth[1].stamp_ns - truth[0].stamp_ns) * 1e-9
    moved = truth[1].pose[:3, :3] @ [v.x, v.y, v.z] * seconds
    np.testing.assert_allclose(moved, truth[1].pose[:3, 3] - truth[0].pose[:3, 3], atol=1e-6)


def test_a_turn_by_hand():
    def at(angle, x, stamp):
        pose = np.eye(4)
        pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        pose[0, 3] = x
        return Frame(np.zeros((2, 2, 3), np.uint8), Intrinsics(1, 1, 0, 0, 2, 2), pose=pose, stamp_ns=stamp)

    linear, angular = velocity(at(np.pi / 2, 1.0, 500_000_000), at(0.0, 0.0, 0))
    np.testing.assert_allclose(angular, [0, np.pi, 0], atol=1e-9)
    np.testing.assert_allclose(linear, [0, 0, 2], atol=1e-9)  # turned right, it moves forwards


def test_quaternions_of_half_turns():
    for axis in np.eye(3):
        assert np.abs(_quaternion(2 * np.outer(axis, axis) - np.eye(3))[:3]) == pytest.approx(axis, abs=1e-9)


def test_the_demo_comes_back_to_its_start():
    np.testing.assert_allclose(*demo_path(np.array([0.0, LOOP])), atol=0.02)
    scene = demo_scene(3)
    for maps in scene.walkers[0].maps(np.array([0.0, LOOP])):
        np.testing.assert_allclose(maps[0], maps[1], atol=0.02)


def test_other_rooms_and_no_truth(tmp_path):
    assert main([str(tmp_path / "b"), *SMALL[:-1], "0", "--room", "bathroom", "--seed", "5"]) == 0
    with Bag(tmp_path / "b") as recording:
        assert recording.depth_topic is None
        assert len(list(recording.frames())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "0"], "--frames must be 1"),
        (["--rate", "0"], "--rate must be"),
        (["--quality", "101"], "--quality must be 1 to 100"),
        (["--room", "castle"], "invalid choice"),
        (["--seed", "-1"], "--seed must not be negative"),
    ],
)
def test_wrong_arguments_stop_before_anything_is_written(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "x"), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_an_unknown_device_and_an_existing_folder_are_told(tmp_path):
    with pytest.raises(UserError, match="device 'abacus' cannot be used"):
        main([str(tmp_path / "x"), "--device", "abacus"])
    with pytest.raises(UserError, match="exists already"):
        main([str(tmp_path), *SMALL])


def test_the_bundled_clip_is_whole():
    with Bag(clips_dir() / "demo") as recording:
        assert recording.truncated is None
        assert recording.color_count == round(30 * LOOP)
        frames = [f for f in recording.frames() if f.depth is not None]
    assert len(frames) >= 10
    assert frames[0].rgb.shape == (480, 640, 3)
    assert all(np.isfinite(f.depth).all() and f.labels is not None for f in frames)
    seen = set(np.concatenate([np.unique(f.labels) for f in frames]).tolist())
    assert len(seen) > 12 and {0, 1, 5, 30} <= seen


def test_a_sheet_of_all_that_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "KINDS", ("office", "corridor"))
    assert main([str(tmp_path / "sheet.jpg"), "--sheet", "--seed", "2"]) == 0
    picture = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert picture.shape == (2 * 244, 5 * 324, 3)
    for column in range(5):
        cell = picture[:240, column * 324 : column * 324 + 320]
        assert cell.std() > 5, f"column {column} shows nothing"
    with pytest.raises(UserError, match="writes a JPEG"):
        main([str(tmp_path / "sheet.gif"), "--sheet"])
