"""CamVid's folders: splits, void, labelled video, and the sentences for a folder that is not whole."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.worlds.camvid import CamVid, videos
from mila_ros.worlds.frames import IGNORE
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.world import NoFramesError, open_world

from .camvid_tree import make_tree


def test_every_split_is_found_or_the_one_named(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, {"train": ["0001TP_006690"], "val": ["0016E5_07959", "0016E5_07961"]})
    assert CamVid(folder).names == ["0001TP_006690", "0016E5_07959", "0016E5_07961"]
    assert open_world(f"camvid:{folder}", "val").names == open_world(f"camvid:{folder}", "validation").names
    assert open_world(f"camvid:{folder}", "train").names == ["0001TP_006690"]
    with pytest.raises(NoFramesError, match='no split "test", only train, val'):
        CamVid(folder, "test")


def test_a_frame_has_labels_and_nothing_else(tmp_path: Path) -> None:
    frame = CamVid(make_tree(tmp_path, {"val": ["0016E5_07959"]}))[0]
    assert frame.rgb.shape == (64, 96, 3) and frame.rgb[2, 2, 2] > frame.rgb[2, 2, 0]  # RGB: the sky is blue
    assert frame.labels is not None and frame.labels[2, 2] == 0 and frame.labels[-2, 2] == 3
    assert (frame.labels[0] == IGNORE).all()  # void
    assert frame.depth is None and frame.normals is None
    guess = frame.assumed_depth  # to move the camera by
    assert guess is not None and guess.shape == frame.rgb.shape[:2] and guess[-1, 2] < guess[40, 2] < guess[2, 2]
    assert frame.stamp_ns == 7959 * 1_000_000_000 // 30


def test_frames_of_one_drive_close_in_time_are_a_video() -> None:
    names = ["0001TP_006690", "0001TP_006720", "0016E5_07959", "0016E5_07961", "0016E5_07963", "Seq05VD_f00000", "x"]
    assert videos(names, 3) == [range(2, 5)]
    assert videos(["0016E5_01", "0006R0_f02", "0006R0_f03"], 3) == [range(1, 3)]
    assert videos([], 3) == []


def test_names_of_classes() -> None:
    labels = load_labels("camvid")
    assert labels.classes[:4] == ("sky", "building", "pole", "road") and len(labels.classes) == 11


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a CamVid folder: expected FOLDER/SPLIT/NAME.jpg"):
        CamVid(tmp_path)
    folder = make_tree(tmp_path, {"val": ["0016E5_07959", "0016E5_07961"]})
    annotation = folder / "valannot" / "0016E5_07959.png"
    cv2.imwrite(str(annotation), np.full((64, 96), 12, np.uint8))
    with pytest.raises(UserError, match=r"07959.png has the value 12: labels must be 0\.\.10 or 255"):
        CamVid(folder)[0]
    cv2.imwrite(str(annotation), np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match="differ in size"):
        CamVid(folder)[0]
    annotation.write_bytes(b"half a picture")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        CamVid(folder)[0]
    annotation.unlink()
    with pytest.raises(UserError, match=r"valannot/0016E5_07959.png is missing"):
        CamVid(folder)
    with pytest.raises(UserError, match="the kind one of bag, camvid, cityscapes, nyuv2, rendered, rgbd"):
        open_world("kitti:somewhere")
