"""Data sets as published: files like theirs, made here, laid out and read back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.worlds import nyuv2_published
from mila_ros.worlds.bags import Bag
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.nyuv2 import DEPTH_UNIT, NyuV2
from mila_ros.worlds.prepare import main
from mila_ros.worlds.seven_scenes import COLOR
from mila_ros.worlds.world import open_world

h5py = pytest.importorskip("h5py")
io = pytest.importorskip("scipy.io")
SHAPE = (480, 640)


def picture(seed: int) -> np.ndarray:
    """Smooth, so that JPEG hardly changes it."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(noise, SHAPE[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Three frames as MATLAB stores them, number 1 and 3 for training. Labels count their columns, up to 50."""
    folder = tmp_path / "published"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = np.stack([picture(seed) for seed in range(3)])
    depths = rng.uniform(0.7, 9.9, (3, *SHAPE)).astype(np.float32)
    labels = np.broadcast_to(np.arange(SHAPE[1]) % 51, (3, *SHAPE)).astype(np.uint16)
    with h5py.File(folder / nyuv2_published.FRAMES, "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["depths"], file["labels"] = depths.transpose(0, 2, 1), labels.transpose(0, 2, 1)
    io.savemat(folder / nyuv2_published.SPLITS, {"trainNdxs": [[1], [3]], "testNdxs": [[2]]})
    # Label n is class n; of the last ten all are "other prop".
    io.savemat(folder / nyuv2_published.MAPPING, {"mapClass": np.minimum(np.arange(1, 51), 40)[None]})
    return folder


def test_nyuv2_reads_back_as_it_was_published(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "nyuv2"
    assert main(["nyuv2", str(published), str(out)]) == 0
    assert f"2 frames: --data nyuv2:{out}" in capsys.readouterr().out
    world = NyuV2(out)
    assert world.names == ["0001", "0003"]
    with h5py.File(published / nyuv2_published.FRAMES) as file:
        for frame, number in ((world[0], 1), (world[1], 3)):
            assert np.abs(frame.rgb.astype(int) - file["images"][number - 1].T).mean() < 3
            np.testing.assert_allclose(frame.depth, file["depths"][number - 1].T, atol=DEPTH_UNIT / 2 + 1e-4)
            column = np.arange(SHAPE[1]) % 51
            expected = np.where((column > 0) & (column < 40), column - 1, 255)
            np.testing.assert_array_equal(frame.labels, np.broadcast_to(expected, SHAPE))
    assert len(load_labels("nyu40").classes) == 39
    assert main(["nyuv2", str(published), str(tmp_path / "all"), "--split", "all"]) == 0
    assert NyuV2(tmp_path / "all").names == ["0001", "0002", "0003"]


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda folder: (folder / nyuv2_published.SPLITS).unlink(), "lacks splits.mat"),
        (lambda folder: (folder / nyuv2_published.SPLITS).write_bytes(b"no"), "cannot be read as a MATLAB file"),
        (lambda folder: io.savemat(folder / nyuv2_published.SPLITS, {"a": 1}), "has no variable trainNdxs"),
        (lambda folder: io.savemat(folder / nyuv2_published.SPLITS, {"trainNdxs": [[4]]}), "at least 4 frames"),
        (lambda folder: io.savemat(folder / nyuv2_published.MAPPING, {"mapClass": [[41]]}), "classes 1 to 40"),
        (lambda folder: io.savemat(folder / nyuv2_published.MAPPING, {"mapClass": [[1]]}), "label 50"),
        (
            lambda folder: (folder / nyuv2_published.FRAMES).write_bytes(
                (folder / nyuv2_published.FRAMES).read_bytes()[:2_000_000]
            ),
            "download complete",
        ),
    ],
)
def test_other_files_than_the_published_ones_are_refused_by_name(published: Path, tmp_path: Path, spoil, said: str):
    spoil(published)
    with pytest.raises(UserError, match=said):
        main(["nyuv2", str(published), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(published: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    for out in (tmp_path / "out", tmp_path / "out" / "mine"):
        with pytest.raises(UserError, match="not an empty folder"):
            main(["nyuv2", str(published), str(out)])
    assert (tmp_path / "out" / "mine").exists()


def test_a_sequence_of_7_scenes_becomes_a_recording_with_depth_where_the_colour_camera_sees_it(tmp_path: Path):
    folder = tmp_path / "seq-01"
    folder.mkdir()
    depth = np.full(SHAPE, 2000, np.uint16)
    depth[:100], depth[100:200] = 65535, 0
    for number in range(3):
        cv2.imwrite(str(folder / f"frame-{number:06d}.color.png"), picture(number)[..., ::-1])
        cv2.imwrite(str(folder / f"frame-{number:06d}.depth.png"), depth)
    out = tmp_path / "bag"
    assert main(["7scenes", str(folder), str(out)]) == 0
    with Bag(out) as bag:
        assert bag.color_count == 3 and bag.depth_topic and "depth" in bag.depth_topic
    world = open_world(f"bag:{out}")
    assert len(world) == 3 and set(world.tasks) == {"depth", "normals"} and world[0].intrinsics == COLOR
    found = world[1]
    assert np.abs(found.rgb.astype(int) - picture(1)).mean() < 3
    # The depth camera's row 200 lies 40 pixels of 585 above its centre: 36 of the colour camera's 526.
    known = np.isfinite(found.depth) & (found.depth > 0)
    assert not known[:200].any() and known[210:450, 50:590].mean() > 0.95 and np.allclose(found.depth[known], 2.0)
    assert world[2].stamp_ns - world[1].stamp_ns == pytest.approx(1e9 / 30, abs=2)
    whole = (folder / "frame-000002.depth.png").read_bytes()
    (folder / "frame-000002.depth.png").write_bytes(whole[:200])
    with pytest.raises(UserError, match="damaged or half downloaded"):
        main(["7scenes", str(folder), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
    (folder / "frame-000002.depth.png").unlink()
    with pytest.raises(UserError, match=r"frame-000002\.depth\.png is missing"):
        main(["7scenes", str(folder), str(tmp_path / "other")])
    with pytest.raises(UserError, match="has no frame-"):
        main(["7scenes", str(tmp_path), str(tmp_path / "other")])
    with pytest.raises(UserError, match="--split is for nyuv2"):
        main(["7scenes", str(folder), str(tmp_path / "other"), "--split", "all"])
