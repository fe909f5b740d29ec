"""Cityscapes' folders: labelled frames with those before them, ids, depth from disparity, and what is said when not."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.worlds.cityscapes import Cityscapes
from mila_ros.worlds.frames import IGNORE
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.world import NoFramesError, open_world

H, W = 32, 64
STEM = "aachen_000003_000019"


def write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


def make_tree(folder: Path, video: bool = True, depth: bool = True) -> Path:
    """One labelled frame in train, with the two before it; one in val without a video."""
    ids = np.full((H, W), 7, np.uint8)  # road
    ids[: H // 2], ids[0], ids[-1, -1] = 23, 3, 33  # sky; the border is no class; a bicycle
    for part, city, stem in (("train", "aachen", STEM), ("val", "bonn", "bonn_000000_000019")):
        place = f"{part}/{city}"
        write(folder / "gtFine" / place / f"{stem}_gtFine_labelIds.png", ids)
        write(folder / "leftImg8bit" / place / f"{stem}_leftImg8bit.png", np.full((H, W, 3), (200, 90, 10), np.uint8))
        if depth:
            write(folder / "disparity" / place / f"{stem}_disparity.png", np.full((H, W), 1 + 256 * 4, np.uint16))
    if video:
        for number in (17, 18):
            name = f"aachen_000003_{number:06d}_leftImg8bit.png"
            write(folder / "leftImg8bit_sequence" / "train/aachen" / name, np.zeros((H, W, 3), np.uint8))
    return folder


def test_a_labelled_frame_comes_with_those_before_it(tmp_path: Path) -> None:
    world = Cityscapes(make_tree(tmp_path))
    assert world.names == ["aachen_000003_000017", "aachen_000003_000018", STEM, "bonn_000000_000019"]
    assert list(world.videos) == [range(0, 3)]
    assert world[0].labels is None and world[0].depth is None
    assert [frame.name for frame in world.with_truth()] == [f"train/aachen/{STEM}", "val/bonn/bonn_000000_000019"]
    assert open_world(f"cityscapes:{tmp_path}", "validation").names == ["bonn_000000_000019"]
    (tmp_path / "leftImg8bit_sequence/train/aachen/aachen_000003_000018_leftImg8bit.png").unlink()
    assert Cityscapes(tmp_path, "train").names == [STEM]  # a video has no holes


def test_ids_become_the_classes_of_the_benchmark(tmp_path: Path) -> None:
    frame = Cityscapes(make_tree(tmp_path), "val")[0]
    names = load_labels("cityscapes").classes
    assert frame.labels is not None
    assert names[frame.labels[H - 1, 0]] == "road" and names[frame.labels[2, 0]] == "sky"
    assert names[frame.labels[-1, -1]] == "bicycle" and (frame.labels[0] == IGNORE).all()
    assert frame.rgb[0, 0].tolist() == [10, 90, 200]
    place = tmp_path / "gtFine/val/bonn/bonn_000000_000019_gtFine_labelTrainIds.png"
    write(place, np.full((H, W), 18, np.uint8))
    assert (Cityscapes(tmp_path, "val")[0].labels == 18).all()


def test_depth_is_focal_length_times_baseline_over_disparity(tmp_path: Path) -> None:
    world = Cityscapes(make_tree(tmp_path), "val")
    assert world.tasks == ("segmentation", "depth", "normals")
    camera = tmp_path / "camera/val/bonn/bonn_000000_000019_camera.json"
    camera.parent.mkdir(parents=True)
    inner = {"fx": 2000.0, "fy": 2000.0, "u0": 1000.0, "v0": 500.0}
    camera.write_text(json.dumps({"intrinsic": inner, "extrinsic": {"baseline": 0.2}}))
    frame = world[0]
    assert frame.depth is not None and frame.intrinsics.fx == pytest.approx(2000 * W / 2048)
    np.testing.assert_allclose(frame.depth, 2000 * W / 2048 * 0.2 / 4, rtol=1e-5)
    disparity = tmp_path / "disparity/val/bonn/bonn_000000_000019_disparity.png"
    write(disparity, np.zeros((H, W), np.uint16))
    assert np.isnan(world[0].depth).all()
    write(disparity, np.full((H, W), 2, np.uint16))  # 3 km
    assert np.isnan(world[0].depth).all()
    write(disparity, np.zeros((H, W), np.uint8))
    with pytest.raises(UserError, match="expected 16 bit, 64x32; it is uint8"):
        world[0]
    camera.write_text("{}")
    with pytest.raises(UserError, match="expected intrinsic"):
        world[0]
    assert Cityscapes(make_tree(tmp_path / "plain", depth=False)).tasks == ("segmentation",)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a Cityscapes folder: expected FOLDER/leftImg8bit_sequence"):
        Cityscapes(tmp_path)
    folder = make_tree(tmp_path)
    with pytest.raises(NoFramesError, match='no split "test", only train, val'):
        Cityscapes(folder, "test")
    annotation = folder / "gtFine/val/bonn/bonn_000000_000019_gtFine_labelIds.png"
    write(annotation, np.full((H, W), 34, np.uint8))
    with pytest.raises(UserError, match="has the value 34: Cityscapes' ids are 0..33"):
        Cityscapes(folder, "val")[0]
    write(annotation, np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match="differ in size"):
        Cityscapes(folder, "val")[0]
    write(annotation, np.zeros((H, W), np.uint8))
    (folder / "disparity/val/bonn/bonn_000000_000019_disparity.png").unlink()
    with pytest.raises(UserError, match="disparity.png is missing beside its labels"):
        Cityscapes(folder, "val")[0]
    odd = folder / "gtFine/val/bonn/odd_gtFine_labelIds.png"
    write(odd, np.zeros((H, W), np.uint8))
    with pytest.raises(UserError, match="odd is no name of a Cityscapes frame"):
        Cityscapes(folder, "val")
    odd.unlink()
    (folder / "leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(UserError, match="picture of val/bonn/bonn_000000_000019 is missing"):
        Cityscapes(folder, "val")
