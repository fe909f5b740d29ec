"""Replay of every frame: the numbers are those of the shared metrics, repeatable, and nothing is made up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mila_ros.evaluation.every_frame import EveryFrame, EveryFramePass, error_maps
from mila_ros.evaluation.ground_truth import GroundTruth
from mila_ros.evaluation.metrics import TaskMetrics
from mila_ros.worlds.bags import Bag

from .small_bag import tiny_engine, write_bag


def run(path, intervals=(4,)) -> EveryFrame:
    engine = tiny_engine()
    with Bag(path) as bag:
        return EveryFramePass(engine, intervals, GroundTruth(engine.tasks, engine.classes), bag.color_count).run(bag)


@pytest.fixture(scope="module")
def bag_path(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp("bag") / "bag", 12)


def test_a_second_pass_gives_the_same_numbers_and_they_are_those_of_the_metrics(bag_path) -> None:
    one, other = run(bag_path), run(bag_path)
    assert one.methods == other.methods
    assert one.frames == 12 and one.size == (32, 48)
    engine = tiny_engine()
    metrics = TaskMetrics(engine.tasks, len(engine.classes))
    truth = GroundTruth(engine.tasks, engine.classes)
    with Bag(bag_path) as bag, torch.inference_mode():
        memory = None
        for number, frame in enumerate(bag.frames()):
            picture = engine.upload(frame.rgb)
            if number % 4 == 0:
                memory, _ = engine.keyframe(picture)
                answer = engine.answer_keyframe(picture, memory, engine.tasks, frame.intrinsics.fx)
            else:
                answer = engine.answer(picture, memory, engine.tasks, frame.intrinsics.fx)
            said = {task: torch.from_numpy(getattr(answer, task))[None] for task in engine.tasks}
            true = truth.of(frame, (32, 48))
            metrics.update(said, {task: torch.from_numpy(values.copy())[None] for task, values in true.items()})
    for task, values in metrics.compute().items():
        for name, value in values.items():
            if name != "iou":
                assert one.methods["mila/4"]["metrics"][task][name] == pytest.approx(value, rel=1e-5), (task, name)


def test_methods_agree_on_keyframes_and_are_told_apart_between_them(bag_path) -> None:
    methods = run(bag_path).methods
    assert list(methods) == ["slow", "mila/4"]
    assert set(methods["mila/4"]["by_distance"]) == {"0", "1", "2", "3"}
    assert methods["mila/4"]["agreement"]["segmentation"]["pixel_accuracy"] < 1
    for values in methods.values():
        sure = values["calibration"]
        assert 0 <= sure["ece"] <= 1 and sum(sure["share"]) == pytest.approx(1)
        right = sum(a * b for a, b in zip(sure["accuracy"], sure["share"], strict=True))
        assert right == pytest.approx(values["metrics"]["segmentation"]["pixel_accuracy"])
    every = run(bag_path, (1,)).methods
    assert every["mila/1"]["metrics"] == every["slow"]["metrics"]
    assert every["mila/1"]["agreement"]["segmentation"]["pixel_accuracy"] == 1
    assert every["mila/1"]["agreement"]["depth"]["rmse"] == 0


def test_without_ground_truth_nothing_is_judged_but_agreement_and_consistency(tmp_path) -> None:
    methods = run(write_bag(tmp_path / "bag", 9, truth=False)).methods
    for values in methods.values():
        assert values["metrics"] == {} and values["intervals"] == {} and "by_depth_range" not in values
        assert "calibration" not in values
        assert set(values["consistency"]) >= {"segmentation_agreement", "depth_change", "normals_deg"}
    assert set(methods["mila/4"]["agreement"]) == {"segmentation", "depth", "normals"}


def test_labels_that_mean_nothing_are_not_judged_and_told(tmp_path) -> None:
    result = run(write_bag(tmp_path / "bag", 3, labels=77))
    assert result.strange_labels == {77}
    assert set(result.methods["slow"]["metrics"]) == {"depth", "normals"}


def test_worst_frames_are_a_second_apart_and_evenly_shown_ones_spread(tmp_path) -> None:
    result = run(write_bag(tmp_path / "bag", 70))
    assert [shown.number for shown in result.evenly] == [2, 14, 30, 42, 58]
    assert {shown.distance for shown in result.evenly} == {2}  # half-way between keyframes
    stamps = sorted(shown.stamp_ns for shown in result.worst)
    assert len(stamps) >= 2 and min(np.diff(stamps)) >= 1_000_000_000
    assert [s.badness for s in result.worst] == sorted((s.badness for s in result.worst), reverse=True)


def test_frames_with_ground_truth_are_shown_first(tmp_path) -> None:
    result = run(write_bag(tmp_path / "bag", 70, every=10))
    assert [shown.number for shown in result.evenly] == [10, 20, 30, 50, 60]
    assert result.worst and all(shown.truth for shown in result.worst)
    assert result.with_truth == {"depth": 7, "labels": 7, "normals": 0}
    slow = result.methods["slow"]
    assert slow["judged_frames"]["depth"] == 7 and slow["intervals"] == {}, "seven frames are too few for an interval"
    assert set(result.methods["mila/4"]["by_distance"]) == {"0", "2"}


def test_error_maps_by_hand() -> None:
    up, side = np.array([0, -1, 0], np.float32), np.array([1, 0, 0], np.float32)
    said = {
        "segmentation": np.array([[1, 2, 3]], np.uint8),
        "depth": np.array([[1.0, 2.0, 5.0]], np.float32),
        "normals": np.stack([[up, up, up]]),
    }
    true = {
        "segmentation": np.array([[1, 3, 255]], np.uint8),
        "depth": np.array([[1.0, 2.5, np.nan]], np.float32),
        "normals": np.stack([[up, side, np.full(3, np.nan, np.float32)]]),
    }
    maps = error_maps(said, true)
    np.testing.assert_allclose(maps["segmentation"], [[0, 1, np.nan]])
    np.testing.assert_allclose(maps["depth"], [[0, 0.4, np.nan]], rtol=1e-6)
    np.testing.assert_allclose(maps["normals"], [[0, 1, np.nan]], atol=1e-6)


def test_it_stops_after_so_many_seconds(bag_path) -> None:
    engine = tiny_engine()
    with Bag(bag_path) as bag:
        truth = GroundTruth(engine.tasks, engine.classes)
        assert EveryFramePass(engine, (4,), truth, bag.color_count).run(bag, 0.11).frames == 4
