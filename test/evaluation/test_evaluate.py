"""The command on small recordings: what it leaves, many at once, what is done stays done, what is wrong is said."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from mila_ros.errors import UserError
from mila_ros.evaluation import replay
from mila_ros.evaluation.evaluate import folders, main, recordings
from mila_ros.evaluation.ground_truth import GroundTruth, read_label_map
from mila_ros.evaluation.real_time import RealTimeRun
from mila_ros.evaluation.replay import read_sums
from mila_ros.evaluation.side_by_side import main as report
from mila_ros.models.checkpoint import save_model
from mila_ros.worlds.bags import Bag
from mila_ros.worlds.frames import Frame, Intrinsics

from .small_bag import OneThread, tiny_model, write_bag

FRAMES = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """model.safetensors and the recordings bags/a, bags/b (without ground truth)."""
    folder: Path = tmp_path_factory.mktemp("place")
    save_model(tiny_model(), folder / "model.safetensors")
    (folder / "bags").mkdir()
    write_bag(folder / "bags/a", FRAMES)
    write_bag(folder / "bags/b", FRAMES, truth=False)
    return folder


def evaluate(place: Path, out: Path, *arguments: str) -> int:
    model = ["--model", str(place / "model.safetensors"), "--out", str(out), "--device", "cpu", "--precision", "fp32"]
    return main([arguments[0], *model, *arguments[1:]])


@pytest.fixture(scope="module")
def out(place, tmp_path_factory) -> Path:
    """The results of bags/a, both ways."""
    folder: Path = tmp_path_factory.mktemp("out")
    assert evaluate(place, folder, str(place / "bags/a"), "--intervals", "3", "6") == 0
    return folder


def test_it_leaves_metrics_report_and_answers(out) -> None:
    found = json.loads((out / "a/metrics.json").read_text())
    assert found["bag"]["frames"] == found["every_frame"]["frames"] == FRAMES
    assert set(found["bag"]["topics"]) == {"color", "camera_info", "depth", "labels"}
    assert list(found["every_frame"]["methods"]) == ["slow", "mila/3", "mila/6"]
    for method in found["every_frame"]["methods"].values():
        assert set(method["metrics"]) == {"segmentation", "depth", "normals"}
        low, high = method["intervals"]["depth"]["rmse"]
        assert low <= method["metrics"]["depth"]["rmse"] <= high
        assert method["judged_frames"] == dict.fromkeys(("segmentation", "depth", "normals"), FRAMES)
    saved = [m["flops_saved"] for m in found["every_frame"]["methods"].values()]
    assert saved == sorted(saved) and saved[0] == 0
    assert set(found["real_time"]["methods"]) == {"slow", "mila"}
    page = (out / "a/report.html").read_text()
    assert "mila/3" in page and "Worst frames" in page and page.count("<svg") >= 3
    assert not re.search(r'(src|href)="http', page), "the page fetches something"
    with Bag(out / "a/predictions") as bag:
        topics = bag.topics
    for task in ("segmentation", "depth", "normals"):
        assert topics[f"/perception/replay/{task}/image"].messages == FRAMES
        assert topics[f"/perception/replay/{task}/view/compressed"].messages == FRAMES


def test_what_is_done_is_not_done_again_unless_it_would_differ(place, out, capsys) -> None:
    file = out / "a/metrics.json"
    arguments = (str(place / "bags/a"), "--intervals", "3", "6")
    before = file.stat().st_mtime_ns
    assert evaluate(place, out, *arguments) == 0
    assert file.stat().st_mtime_ns == before
    assert "evaluated already" in capsys.readouterr().out
    copy = out.parent / "copy"
    shutil.copytree(out, copy)
    assert evaluate(place, copy, str(place / "bags/a"), "--ways", "every-frame") == 0
    found = json.loads((copy / "a/metrics.json").read_text())
    assert "real_time" not in found and list(found["every_frame"]["methods"]) == ["slow", "mila/10"]


@pytest.mark.parametrize("where", [("--jobs", "2"), ("--ray", "local")], ids=" ".join)
def test_one_bad_recording_does_not_lose_the_others_and_totals_are_exact(place, tmp_path, where) -> None:
    if "--ray" in where:
        pytest.importorskip("ray")
    bags = tmp_path / "bags"
    shutil.copytree(place / "bags/a", bags / "a")
    write_bag(bags / "c", 5)
    (bags / "broken.mcap").write_bytes(b"no recording")
    with pytest.raises(UserError, match="1 of 3 recordings failed: broken"):
        evaluate(place, tmp_path / "out", str(bags / "**"), "--ways", "every-frame", *where, "--no-predictions")
    totals = json.loads((tmp_path / "out/metrics.json").read_text())
    assert totals["bags"] == ["a", "c"] and list(totals["failed"]) == ["broken"]
    sums = [read_sums(tmp_path / "out" / name / "sums.npz")["slow"]["depth"] for name in ("a", "c")]
    count, square, *_ = (sums[0] + sums[1]).sum(axis=0)
    assert totals["methods"]["slow"]["depth"]["rmse"] == pytest.approx((square / count) ** 0.5, rel=1e-12)
    assert not (tmp_path / "out/a/predictions").exists()


def test_a_cluster_that_is_not_there_is_said(place, tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="no Ray cluster can be reached at auto"):
        evaluate(place, tmp_path, str(place / "bags/a"), "--ways", "every-frame", "--ray", "auto")


def test_without_ground_truth_the_report_says_so(place, tmp_path) -> None:
    assert evaluate(place, tmp_path, str(place / "bags/b"), "--ways", "every-frame") == 0
    found = json.loads((tmp_path / "b/metrics.json").read_text())
    assert found["every_frame"]["methods"]["slow"]["metrics"] == {}
    assert found["every_frame"]["methods"]["mila/10"]["agreement"]["depth"]["rmse"] > 0
    assert "has no ground truth" in (tmp_path / "b/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nowhere/**",), "no recording matches"),
        (("BAG", "--intervals", "0"), "counted from 1"),
        (("BAG", "--output-scale", "2"), "at most 1"),
        (("BAG", "--seconds", "inf"), "a number above 0"),
        (("BAG", "--max-pixels", "100"), "at least 1024"),
        (("BAG", "--jobs", "2"), "disturb one another"),
        (("BAG", "--ray", "local"), "disturb one another"),
        (("BAG", "--label-map", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_impossible_wishes_are_refused(place, tmp_path, arguments, text: str) -> None:
    with pytest.raises(UserError, match=text):
        evaluate(place, tmp_path, *[str(place / "bags/a") if a == "BAG" else a for a in arguments])


def test_a_topic_that_is_not_there_names_those_that_are(place, tmp_path) -> None:
    with pytest.raises(UserError, match="has no topic /none; it has .*/cam/color/image_raw"):
        evaluate(place, tmp_path, str(place / "bags/a"), "--depth-topic", "/none")


def test_what_is_there_stays_when_nothing_new_can_be_made(place, out) -> None:
    before = (out / "a/metrics.json").read_bytes()
    for wrong in (("--depth-topic", "/none"), ("--device", "tpu"), ("--precision", "fp16")):
        with pytest.raises(UserError):
            evaluate(place, out, str(place / "bags/a"), *wrong)
    assert (out / "a/metrics.json").read_bytes() == before


def test_more_methods_than_colours_and_an_error_of_the_machine(place, tmp_path, monkeypatch) -> None:
    intervals = [str(k) for k in range(2, 9)]
    arguments = ("--ways", "every-frame", "--intervals", *intervals)
    assert evaluate(place, tmp_path, str(place / "bags/a"), *arguments) == 0
    assert "mila/8" in (tmp_path / "a/report.html").read_text()

    def full(*_arguments, **_named) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(UserError, match="No space left on device"):
        evaluate(place, tmp_path, str(place / "bags/b"), "--ways", "every-frame")


def test_an_interrupt_in_real_time_keeps_what_was_found(place, tmp_path, monkeypatch) -> None:
    class Interrupted(RealTimeRun):
        def _drain(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(replay, "RealTimeRun", Interrupted)
    monkeypatch.setattr(replay, "Engine", OneThread)
    assert evaluate(place, tmp_path, str(place / "bags/a")) == 130
    found = json.loads((tmp_path / "a/metrics.json").read_text())
    assert found["interrupted"] and found["every_frame"]["frames"] == FRAMES
    run = found["real_time"]["methods"]["slow"]
    assert run["frames"]["arrived"] == FRAMES and run["frames"]["judged"] > 0
    assert "mila" not in found["real_time"]["methods"]
    assert "was interrupted" in (tmp_path / "a/report.html").read_text()


def test_live_goes_through_the_node(place, tmp_path) -> None:
    pytest.importorskip("rclpy")
    assert evaluate(place, tmp_path, str(place / "bags/a"), "--ways", "live") == 0
    found = json.loads((tmp_path / "a/metrics.json").read_text())
    assert found["live"]["frames"]["published"] == FRAMES and "every_frame" not in found
    page = (tmp_path / "a/report.html").read_text()
    assert 'href="live/report.html"' in page and (tmp_path / "a/live/report.html").is_file()
    with pytest.raises(UserError, match="finds its topics by itself"):
        evaluate(place, tmp_path, str(place / "bags/a"), "--ways", "live", "--depth-topic", "/none")


def test_numbers_of_keyframes_alone_are_called_so(place, tmp_path, capsys) -> None:
    bag = write_bag(tmp_path / "bag", 21, every=5)
    assert evaluate(place, tmp_path / "out", str(bag), "--ways", "every-frame", "--intervals", "5", "4") == 0
    said = capsys.readouterr().out
    assert "all judged frames of mila/5 are keyframes" in said and "of mila/4 are" not in said
    assert evaluate(place, tmp_path / "ten", str(bag), "--ways", "every-frame", "--intervals", "10") == 0
    assert "mila/10 was judged only 0, 5 frames after its keyframe" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/bag/metrics.json").read_text())
    assert found["bag"]["without_partner"] == {"depth": 16, "labels": 16}
    with pytest.raises(UserError, match="holds .*CameraInfo, not images"):
        evaluate(place, tmp_path / "out", str(bag), "--depth-topic", "/cam/color/camera_info")


def test_recordings_are_found_once_and_named_apart(place, tmp_path) -> None:
    bags = place / "bags"
    assert recordings([str(bags / "**"), str(bags / "a")], place / "out") == [bags / "a", bags / "b"]
    with pytest.raises(UserError, match="no recording matches"):
        recordings([str(bags / "**")], place)  # that is where results are: their recordings are not evaluated
    named = folders([Path("x/run"), Path("y/run"), Path("z/other.mcap"), Path(".")], Path("out"))
    assert [str(out) for _, out in named.values()] == ["out/x_run", "out/y_run", "out/other", f"out/{Path.cwd().name}"]


def test_label_maps(tmp_path) -> None:
    classes = ("wall", "floor", "chair", "table")
    file = tmp_path / "map.yaml"
    file.write_text("1: chair\n2: 3\n9: null\n")
    assert read_label_map(file, classes) == {1: 2, 2: 3, 9: 255}
    camera = Intrinsics(10, 10, 1, 1, 3, 1)
    truth = GroundTruth(("segmentation",), classes, read_label_map(file, classes))
    frame = Frame(np.zeros((1, 3, 3), np.uint8), camera, labels=np.array([[1, 2, 9]], np.uint8))
    np.testing.assert_array_equal(truth.of(frame, (1, 3))["segmentation"], [[2, 3, 255]])
    frame = Frame(np.zeros((1, 3, 3), np.uint8), camera, labels=np.array([[1, 2, 8]], np.uint8))
    assert truth.of(frame, (1, 3)) == {} and truth.strange_labels == {8}
    for text, problem in (
        ("1: sofa", "sofa"),
        ("x: wall", "no label"),
        ("[1]", "must map"),
        ("1: [", "not valid YAML"),
        ("1: 7", "no class"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=problem):
            read_label_map(file, classes)


def test_a_demo_is_no_evaluation(tmp_path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    for path in (tmp_path, tmp_path / "metrics.json"):
        with pytest.raises(UserError, match="a demo's folder; `mila evaluate"):
            report([str(path)])


def test_side_by_side(place, out, tmp_path, capsys) -> None:
    file = out / "a/metrics.json"
    assert report([str(file), str(out / "a")]) == 0
    text = capsys.readouterr().out
    assert "no difference exceeds" in text and "depth rmse" in text
    found = json.loads(file.read_text())
    method = found["every_frame"]["methods"]["mila/3"]
    method["metrics"]["depth"]["rmse"], method["intervals"]["depth"]["rmse"] = 99.0, [98.0, 100.0]
    other = tmp_path / "metrics.json"
    method["over_time"] = {}  # of other frames
    other.write_text(json.dumps(found))
    assert report([str(file), str(other)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("depth rmse"))
    assert line.rstrip().endswith("99.000 (98.000-100.000) +")
    # On the same frames small differences count, if they are there in every frame; medians have no frames.
    found = json.loads(file.read_text())
    slow, method = (found["every_frame"]["methods"][name] for name in ("slow", "mila/3"))
    assert len(slow["over_time"]["stamp_ns"]) >= 8
    method["metrics"]["depth"]["rmse"] = slow["metrics"]["depth"]["rmse"] + 0.001
    method["over_time"]["depth.rmse"] = [value + 0.001 for value in slow["over_time"]["depth.rmse"]]
    method["over_time"]["depth.abs_rel"] = [v + (-1) ** i for i, v in enumerate(slow["over_time"]["depth.abs_rel"])]
    other.write_text(json.dumps(found))
    assert report([str(file), str(other), "--method", "slow", "mila/3"]) == 0
    text = capsys.readouterr().out
    stars = {line.split(",")[0]: line.rstrip().endswith("*") for line in text.splitlines() if line.startswith("depth")}
    assert stars["depth rmse"] and not stars["depth abs_rel"]
    assert "frame by frame it differs from A" in text
    # Where the total says the opposite of the mean over frames, nothing is claimed.
    method["metrics"]["depth"]["rmse"] -= 0.002
    other.write_text(json.dumps(found))
    assert report([str(file), str(other), "--method", "slow", "mila/3"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("depth rmse"))
    assert not line.rstrip().endswith("*")
    with pytest.raises(UserError, match="names 2 methods for 1 files"):
        report([str(file), "--method", "slow", "mila/3"])
    other.write_text("{}")
    with pytest.raises(UserError, match="no evaluation"):
        report([str(other)])
    with pytest.raises(UserError, match="has no method 'x'"):
        report([str(file), "--method", "x"])
