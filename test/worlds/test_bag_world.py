"""A recording as a data set: a video whose depth camera is the ground truth."""

from pathlib import Path

import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.frames import Intrinsics
from mila_ros.worlds.world import NoFramesError, open_world

CAMERA = Intrinsics(40.0, 40.0, 31.5, 23.5, 64, 48)
START = 1_700_000_000_000_000_000


def record(path: Path, frames: int = 10, depth: bool = True, info: bool = True) -> Path:
    """A wall that comes nearer, half of it out of the depth camera's sight."""
    with BagWriter(path) as bag:
        for i in range(frames):
            stamp = START + i * 33_333_333
            picture = np.full((48, 64, 3), 20 * i, np.uint8)
            bag.write_message("/cam/color/image_raw", bag.messages.image(picture, "rgb8", stamp, "optical"), stamp)
            if info:
                bag.write_message("/cam/color/camera_info", bag.messages.camera_info(CAMERA, stamp, "optical"), stamp)
            if depth and i:  # the depth camera starts late
                metres = np.full((48, 64), 3000 - 100 * i, np.uint16)
                metres[:, :20] = 0
                image = bag.messages.image(metres, "16UC1", stamp, "optical")
                bag.write_message("/cam/aligned_depth_to_color/image_raw", image, stamp)
    return path


def test_a_recording_is_one_video(tmp_path: Path) -> None:
    world = open_world(f"bag:{record(tmp_path / 'b')}")
    assert len(world) == 10 and list(world.videos) == [range(10)]
    assert world.tasks == ("depth", "normals")
    assert world.labelled == list(range(1, 10)) and len(world.with_truth()) == 9
    first, last = world[0], world[9]
    assert first.depth is None and first.normals is None
    assert last.depth is not None and last.normals is not None
    assert last.depth[10, 40] == pytest.approx(2.1) and np.isnan(last.depth[10, 5])
    assert last.normals[24, 45] @ np.array([0, 0, -1]) > 0.99 and np.isnan(last.normals[24, 5]).all()
    assert (last.rgb == 180).all() and last.intrinsics == CAMERA
    assert world[3].depth[10, 40] == pytest.approx(2.7)  # in any order


def test_the_end_of_a_recording_is_kept_to_judge_by(tmp_path: Path) -> None:
    path = record(tmp_path / "b")
    train, validation = open_world(f"bag:{path}", "train"), open_world(f"bag:{path}", "validation")
    assert (len(train), len(validation)) == (8, 2)
    assert max(train.names) < min(validation.names)
    with pytest.raises(NoFramesError, match='splits train, validation and all, not "test"'):
        open_world(f"bag:{path}", "test")


def test_what_is_wrong_with_a_recording_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recording at"):
        open_world(f"bag:{tmp_path / 'nothing'}")
    with pytest.raises(UserError, match="no depth or labels to judge by"):
        open_world(f"bag:{record(tmp_path / 'colour', depth=False)}")
    with pytest.raises(UserError, match="camera_info"):
        open_world(f"bag:{record(tmp_path / 'uncalibrated', info=False)}")
