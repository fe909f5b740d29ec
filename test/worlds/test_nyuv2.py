"""Reading a folder of labelled frames, and the sentences for one that is not whole."""

import cv2
import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.nyuv2 import NyuV2, held_out_names

from .nyu_tree import make_tree


def test_a_frame_has_picture_depth_labels_normals(tmp_path) -> None:
    frames = NyuV2(make_tree(tmp_path, ["0001", "0002"]))
    assert frames.names == ["0001", "0002"]
    frame = frames[0]
    assert frame.rgb.shape == (96, 128, 3)
    assert frame.rgb[:40, -5:, 2].mean() < frame.rgb[:40, -5:, 0].mean()  # RGB: the wall is a little red
    assert frame.depth is not None
    assert abs(float(frame.depth[20, 2]) - 4.0) < 0.05
    assert frame.labels is not None
    assert set(np.unique(frame.labels)) <= {0, 1, 4, 255}
    assert frame.normals is not None
    assert frame.normals[20, 4] @ np.array([0, 0, -1], np.float32) > 0.95  # the wall faces the camera
    assert abs(frame.intrinsics.fx - 518.86 * 128 / 640) < 1e-6


def test_training_and_validation_share_no_frame(tmp_path) -> None:
    folder = make_tree(tmp_path, ["0003", "0022", "0130", "0131", "0224"])
    assert NyuV2(folder, "train").names == ["0003", "0131"]
    assert NyuV2(folder, "validation").names == ["0022", "0130"]  # 0224 is set aside: neither trained on nor judged
    assert NyuV2(folder, "held-out").names == ["0022", "0130", "0224"]


def test_no_room_is_more_than_a_tenth_of_the_validation() -> None:
    names = held_out_names()
    assert len(names) == 109
    rooms: list[list[str]] = []
    for name in names:
        follows = rooms and int(name) == int(rooms[-1][-1]) + 1
        rooms[-1].append(name) if follows else rooms.append([name])
    judged = [sum(names[name] for name in room) for room in rooms]
    assert min(judged) >= 1
    assert max(judged) <= 8
    assert sum(judged) == 77


def test_own_pictures_bring_camera_and_split(tmp_path) -> None:
    folder = make_tree(tmp_path, ["0022", "0131"])
    (folder / "camera.yaml").write_text("{fx: 400, fy: 400, cx: 320, cy: 240, width: 640, height: 480}")
    (folder / "validation.txt").write_text("0131\n")
    assert NyuV2(folder, "validation").names == ["0131"]
    assert NyuV2(folder, "train").names == ["0022"]
    assert NyuV2(folder)[0].intrinsics.fx == 400 * 128 / 640
    with pytest.raises(UserError, match=r"labels must be 0\.\.3"):
        NyuV2(folder, classes=("wall", "floor", "bed", "chair"))[0]
    (folder / "camera.yaml").write_text("{fx: 400, fy: 400, cx: 320, cy: 180, width: 640, height: 360}")
    with pytest.raises(UserError, match="are 128x96, its camera is one of 640x360"):
        NyuV2(folder)[0]
    (folder / "validation.txt").write_text("0131 0132\n")
    with pytest.raises(UserError, match="names 0132, of which there is no picture"):
        NyuV2(folder, "train")
    (folder / "camera.yaml").write_text("{fx: 400}")
    with pytest.raises(UserError, match=r"camera\.yaml: expected fx"):
        NyuV2(folder)


def test_there_is_a_name_and_a_colour_for_every_class() -> None:
    labels = load_labels("nyu40")
    assert len(labels.classes) == 39
    assert len(set(labels.palette)) == 39
    assert (labels.classes[0], labels.classes[30], labels.classes[38]) == ("wall", "person", "other furniture")
    with pytest.raises(UserError, match=r"missing\.yaml"):
        load_labels("missing")


def test_what_is_wrong_with_a_folder_is_said(tmp_path) -> None:
    with pytest.raises(UserError, match="no rgb/"):
        NyuV2(tmp_path)
    folder = make_tree(tmp_path / "set", ["0001"])
    with pytest.raises(UserError, match="split must be"):
        NyuV2(folder, "test")
    with pytest.raises(UserError, match="no pictures of the split validation"):
        NyuV2(folder, "validation")
    cv2.imwrite(str(folder / "label40" / "0001.png"), np.full((96, 128), 77, np.uint8))
    with pytest.raises(UserError, match="has the value 77"):
        NyuV2(folder)[0]
    cv2.imwrite(str(folder / "label40" / "0001.png"), np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match="differ in size"):
        NyuV2(folder)[0]
    cv2.imwrite(str(folder / "label40" / "0001.png"), np.zeros((96, 128), np.uint16))
    with pytest.raises(UserError, match="expected 8 bit in one channel; it is uint16 in 1"):
        NyuV2(folder)[0]
    jpeg = (folder / "rgb" / "0001.jpg").read_bytes()
    (folder / "rgb" / "0001.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    with pytest.raises(UserError, match="half downloaded .truncated JPEG"):
        NyuV2(folder)[0]
    (folder / "rgb" / "0001.jpg").write_bytes(b"half a picture")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        NyuV2(folder)[0]
    (folder / "depth8" / "0001.png").unlink()
    with pytest.raises(UserError, match=r"depth8/0001\.png is missing"):
        NyuV2(folder)
