"""A data set's video as a recording: the same pictures, labels and stamps, read back."""

from pathlib import Path

import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.worlds.bag_storage import BagError
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.camvid import CamVid
from mila_ros.worlds.convert import main
from mila_ros.worlds.frames import Frame, Intrinsics
from mila_ros.worlds.rendered_bag import Form, write_frame
from mila_ros.worlds.world import open_world

from .camvid_tree import make_tree


def test_depth_too_far_for_millimetres_is_unknown(tmp_path: Path) -> None:
    metres = np.full((48, 64), 3.0, np.float32)
    metres[:8], metres[8:16] = 70.0, np.nan
    camera = Intrinsics(60.0, 60.0, 31.5, 23.5, 64, 48)
    rgb = np.zeros((48, 64, 3), np.uint8)
    with BagWriter(tmp_path / "bag") as bag:
        write_frame(bag, Frame(rgb, camera, depth=metres, stamp_ns=10**9), Form(), truth=True)
    depth = open_world(f"bag:{tmp_path / 'bag'}")[0].depth
    assert depth is not None and not np.nan_to_num(depth[:16]).any() and np.allclose(depth[16:], 3)


def test_the_longest_video_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"0016E5_{number:05d}" for number in (100, 102, 104, 106)]
    folder = make_tree(tmp_path / "camvid", {"train": ["0001TP_000030"], "val": names})
    out = tmp_path / "bag"
    assert main([str(out), "--data", f"camvid:{folder}", "--quality", "100"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    source, bag = CamVid(folder, "val"), open_world(f"bag:{out}", "all", CamVid(folder).classes)
    assert len(bag) == 4 and bag.tasks == ("segmentation",)
    for a, b in ((source[i], bag[i]) for i in range(4)):
        assert a.stamp_ns == b.stamp_ns and a.intrinsics == b.intrinsics
        np.testing.assert_array_equal(a.labels, b.labels)
        assert np.abs(a.rgb.astype(int) - b.rgb).mean() < 6  # JPEG
    with pytest.raises(BagError, match="exist"):
        main([str(out), "--data", f"camvid:{folder}"])
    with pytest.raises(UserError, match="has no video"):
        main([str(tmp_path / "other"), "--data", f"camvid:{folder}", "--split", "train"])
    assert not (tmp_path / "other").exists()
    with pytest.raises(UserError, match="1 to 100"):
        main([str(tmp_path / "other"), "--data", f"camvid:{folder}", "--quality", "0"])
