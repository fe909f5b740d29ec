"""Outputs, pictures and ground truth joined by stamp, on small recordings written here; and how they are judged."""

from __future__ import annotations

import numpy as np
import pytest

from mila_ros.evaluation.judging import Strip
from mila_ros.evaluation.moments import Moment, has_truth, moment_of, nearest, recorded_answers, truth_of, with_frames
from mila_ros.evaluation.scoring import Judge
from mila_ros.worlds.bag_storage import open_storage
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.bags import Bag
from mila_ros.worlds.frames import Frame, Intrinsics

H, W = 48, 64
CAMERA = Intrinsics(60.0, 60.0, 31.5, 23.5, W, H)
RECORDED = 1_600_000_000_000_000_000
PLAYED = 1_700_000_000_000_000_000
PERIOD = 33_333_333
TASKS = ("segmentation", "depth", "normals")
COLOR, DEPTH = "/cam/color/image_raw", "/cam/aligned_depth_to_color/image_raw"


@pytest.fixture
def played(tmp_path):
    """Six pictures of growing brightness with depth, as recorded."""
    with BagWriter(tmp_path / "played") as bag:
        for i in range(6):
            stamp = RECORDED + i * PERIOD
            picture = np.full((H, W, 3), 10 * i, np.uint8)
            bag.write_message(COLOR, bag.messages.image(picture, "rgb8", stamp, "optical"), stamp)
            info = bag.messages.camera_info(CAMERA, stamp, "optical")
            bag.write_message("/cam/color/camera_info", info, stamp)
            depth = np.full((H, W), 1000 + i, np.uint16)
            bag.write_message(DEPTH, bag.messages.image(depth, "16UC1", stamp, "optical"), stamp)
    return tmp_path / "played"


def _outputs(path, indices, picture=False):
    """What a recorder has of the node's answers to these pictures: everything says the picture's number."""
    with BagWriter(path) as bag:
        for i in indices:
            stamp = PLAYED + i * PERIOD
            pixels = {
                "segmentation": (np.full((H // 2, W // 2), i, np.uint8), "mono8"),
                "depth": (np.full((H // 2, W // 2), float(i), np.float32), "32FC1"),
                "normals": (np.full((H // 2, W // 2, 3), -0.577, np.float32), "32FC3"),
            }
            for task, (array, encoding) in pixels.items():
                message = bag.messages.image(array, encoding, stamp, "optical")
                bag.write_message(f"/perception/front/{task}/image", message, stamp)
            if picture:
                message = bag.messages.image(np.full((H, W, 3), 10 * i, np.uint8), "rgb8", stamp, "optical")
                bag.write_message("/camera/color/image_raw", message, stamp)
    return path


def _joined(recording, bag, topic="/none"):
    storage = open_storage(recording)
    try:
        answers = recorded_answers(storage, "/perception", "front", TASKS, topic)
        pairs = with_frames(storage, answers, bag, PLAYED)
        return [moment_of(storage, answer, frame) for answer, frame in pairs]
    finally:
        storage.close()


def test_each_answer_meets_its_own_picture_and_depth(played, tmp_path):
    """Only some frames were answered and kept; stamps were moved by playing."""
    with Bag(played) as bag:
        found = _joined(_outputs(tmp_path / "o", [0, 2, 5]), bag)
    assert [int(m.rgb[0, 0, 0]) for m in found] == [0, 20, 50]
    assert [int(m.answers["segmentation"][0, 0]) for m in found] == [0, 2, 5]
    assert [round(float(m.truth["depth"][0, 0]), 3) for m in found] == [1.0, 1.002, 1.005]
    assert found[0].truth["depth"].shape == found[0].answers["depth"].shape == (H // 2, W // 2)
    assert "segmentation" not in found[0].truth


def test_a_damaged_first_picture_moves_nobody(played, tmp_path):
    """The stamps' offset comes from the first message, not from the first one that can be decoded."""
    with BagWriter(tmp_path / "damaged") as bag:
        for i in range(3):
            stamp = RECORDED + i * PERIOD
            message = bag.messages.image(np.full((H, W, 3), 10 * i, np.uint8), "rgb8", stamp, "optical")
            if i == 0:
                message.data = message.data[:100]
            bag.write_message(COLOR, message, stamp)
            bag.write_message("/cam/color/camera_info", bag.messages.camera_info(CAMERA, stamp, "optical"), stamp)
    with Bag(tmp_path / "damaged") as bag:
        found = _joined(_outputs(tmp_path / "o", [1, 2]), bag)
    assert [int(m.rgb[0, 0, 0]) for m in found] == [10, 20]


def test_pictures_of_a_live_source_come_from_the_recorder(tmp_path):
    found = _joined(_outputs(tmp_path / "o", range(4), picture=True), None, "/camera/color/image_raw")
    assert [int(m.rgb[0, 0, 0]) for m in found] == [0, 10, 20, 30]
    assert all(m.truth == {} and set(m.answers) == set(TASKS) for m in found)


def test_normals_are_fitted_where_there_are_none():
    """A wall seen head-on faces the camera; where depth is unknown, so is the normal."""
    depth = np.full((H, W), 2.0, np.float32)
    depth[:10] = np.nan
    frame = Frame(rgb=np.zeros((H, W, 3), np.uint8), intrinsics=CAMERA, depth=depth)
    truth = truth_of(frame, (H, W))
    assert np.allclose(truth["normals"][30, 32], [0, 0, -1], atol=1e-4)
    assert np.isnan(truth["normals"][3, 32]).all()
    assert has_truth(frame) and not has_truth(Frame(frame.rgb, CAMERA))
    own = np.zeros((H, W, 3), np.float32)
    own[..., 0] = 1.0
    assert truth_of(Frame(frame.rgb, CAMERA, depth, normals=own), (H, W))["normals"][30, 32, 0] == 1.0


def test_resizing_invents_no_values():
    labels = np.array([[0, 7], [7, 0]], np.uint8).repeat(5, 0).repeat(5, 1)
    assert set(np.unique(nearest(labels, (3, 7)))) == {0, 7}


def _moment(answers, truth):
    return Moment(0, np.zeros((4, 4, 3), np.uint8), answers, truth)


def test_judged_as_by_compare():
    depth, far = np.full((4, 4), 2.0, np.float32), np.full((4, 4), 2.2, np.float32)
    holes = far.copy()
    holes[0] = np.nan
    ids, truth = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    truth[:2], truth[0, 0] = 1, 255
    judge = Judge(TASKS, ("wall", "floor"))
    judge.add(_moment({"depth": depth, "segmentation": ids}, {"depth": holes, "segmentation": truth}))
    found = judge.compute()
    assert found["depth"]["rmse"] == pytest.approx(0.2, abs=1e-5)
    assert found["depth"]["delta1"] == 1.0
    assert found["segmentation"]["pixel_accuracy"] == pytest.approx(8 / 15)
    assert found["segmentation"]["miou"] == pytest.approx((8 / 15 + 0) / 2)
    assert "normals" not in found, "without ground truth there is no number"
    assert judge.frames == {"segmentation": 1, "depth": 1, "normals": 0}


def test_labels_of_another_set_are_not_judged():
    truth = np.full((4, 4), 17, np.uint8)
    judge = Judge(("segmentation",), ("wall", "floor"))
    judge.add(_moment({"segmentation": np.zeros((4, 4), np.uint8)}, {"segmentation": np.zeros((4, 4), np.uint8)}))
    judge.add(_moment({"segmentation": np.zeros((4, 4), np.uint8)}, {"segmentation": truth}))
    assert judge.compute() == {}
    assert judge.strange_labels == {17}


def test_no_ground_truth_no_numbers():
    judge = Judge(TASKS, ("wall", "floor"))
    judge.add(_moment({"depth": np.ones((4, 4), np.float32)}, {}))
    judge.add(_moment({"depth": np.ones((4, 4), np.float32)}, {"depth": np.full((4, 4), np.nan, np.float32)}))
    assert judge.compute() == {}


def test_moments_are_spread_and_prefer_ground_truth():
    """The first of each part of the time, unless a later one has ground truth."""
    strip = Strip(0, 800, parts=8)
    for stamp in range(0, 801, 20):
        true = stamp % 300 == 240  # 240, 540
        if strip.wants(stamp, true):
            empty = np.zeros((4, 4, 3), np.uint8)
            strip.take(Moment(stamp, empty, {}, {"depth": np.ones((4, 4))} if true else {}))
    assert [m.stamp_ns for m in strip.moments()] == [0, 100, 240, 300, 400, 540, 600, 700]


def test_few_answers_make_a_short_strip():
    strip = Strip(0, 800)
    for stamp in (30, 770):
        assert strip.wants(stamp, False)
        strip.take(Moment(stamp, np.zeros((4, 4, 3), np.uint8), {}, {}))
    assert [m.stamp_ns for m in strip.moments()] == [30, 770]
