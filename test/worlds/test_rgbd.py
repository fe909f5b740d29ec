"""A folder of RGB-D frames: millimetres, holes, optional labels, and the sentences for one that is not whole."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.world import NoFramesError, open_world, open_world_for


def make_tree(folder: Path, labels: bool = True) -> Path:
    for kind in ("rgb", "depth", *(["labels"] if labels else [])):
        (folder / kind).mkdir(parents=True)
    (folder / "camera.yaml").write_text("{fx: 100, fy: 100, cx: 63.5, cy: 47.5, width: 128, height: 96}")
    depth = np.full((48, 64), 2500, np.uint16)
    depth[:, :8] = 0
    for name in ("a", "b"):
        cv2.imwrite(str(folder / "rgb" / f"{name}.png"), np.full((48, 64, 3), (10, 20, 200), np.uint8))
        cv2.imwrite(str(folder / "depth" / f"{name}.png"), depth)
        if labels:
            cv2.imwrite(str(folder / "labels" / f"{name}.png"), np.ones((48, 64), np.uint8))
    return folder


def test_a_frame_is_metric_and_has_holes(tmp_path: Path) -> None:
    world = open_world(f"rgbd:{make_tree(tmp_path / 's')}")
    frame = world[0]
    assert world.tasks == ("segmentation", "depth", "normals")
    assert frame.rgb[0, 0].tolist() == [200, 20, 10] and frame.intrinsics.fx == 50
    assert frame.depth is not None and frame.depth[5, 20] == 2.5 and np.isnan(frame.depth[5, 5])
    assert frame.normals is not None and frame.normals[24, 40] @ np.array([0, 0, -1]) > 0.99
    assert open_world(f"rgbd:{make_tree(tmp_path / 'plain', labels=False)}").tasks == ("depth", "normals")


def test_named_frames_are_held_out(tmp_path: Path) -> None:
    folder = make_tree(tmp_path / "s")
    with pytest.raises(NoFramesError, match="validation.txt"):
        open_world(f"rgbd:{folder}", "validation")
    (folder / "validation.txt").write_text("b\n")
    assert open_world(f"rgbd:{folder}", "train").names == ["a"]
    assert open_world(f"rgbd:{folder}", "validation").names == ["b"]
    (folder / "validation.txt").write_text("# judged by nobody\n-b\n")
    assert open_world(f"rgbd:{folder}", "train").names == ["a"]
    with pytest.raises(NoFramesError):
        open_world(f"rgbd:{folder}", "validation")
    (folder / "validation.txt").write_text("b.png\n")
    with pytest.raises(UserError, match=r"validation.txt names b\.png, of which there is no picture"):
        open_world(f"rgbd:{folder}", "train")


def test_labels_are_those_of_whatever_network_asks(tmp_path: Path) -> None:
    source = f"rgbd:{make_tree(tmp_path / 's')}"
    streets, tasks = load_labels("camvid").classes, ("segmentation", "depth")
    assert open_world_for(source, "all", streets, tasks).classes == streets
    cv2.imwrite(str(tmp_path / "s" / "labels" / "a.png"), np.full((48, 64), 77, np.uint8))
    frame = open_world_for(source, "all", streets, ("depth",))[0]  # of no interest to it
    assert frame.labels is None and frame.depth is not None
    with pytest.raises(UserError, match="has the value 77"):
        open_world_for(source, "all", streets, tasks)[0]


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder of RGB-D frames"):
        open_world(f"rgbd:{tmp_path}")
    folder = make_tree(tmp_path / "s")
    cv2.imwrite(str(folder / "labels" / "a.png"), np.full((48, 64), 77, np.uint8))
    with pytest.raises(UserError, match="has the value 77"):
        open_world(f"rgbd:{folder}")[0]
    cv2.imwrite(str(folder / "depth" / "a.png"), np.zeros((48, 64), np.uint8))
    with pytest.raises(UserError, match="expected 16 bit, 64x48 like its picture; it is uint8"):
        open_world(f"rgbd:{folder}")[0]
    (folder / "depth" / "b.png").unlink()
    with pytest.raises(UserError, match=r"depth/b\.png is missing"):
        open_world(f"rgbd:{folder}")
    (folder / "camera.yaml").unlink()
    with pytest.raises(UserError, match=r"camera\.yaml is missing: depth in metres needs"):
        open_world(f"rgbd:{folder}")
