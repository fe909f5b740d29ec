"""The benchmarks' own arithmetic and form, and one turn of all methods with a tiny network. No times are judged."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of an installation", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import latency, obstacles, roofline, rows, throughput  # noqa: E402
from mila_ros.models.config import ModelConfig  # noqa: E402
from mila_ros.models.mila import Mila  # noqa: E402
from mila_ros.ros.points_out import organised  # noqa: E402
from mila_ros.runtime.engine import Engine  # noqa: E402
from mila_ros.runtime.passing import Answer  # noqa: E402
from mila_ros.worlds.frames import Intrinsics  # noqa: E402


def _row(method, metric, value, unit="ms", setting=""):
    return {"question": "q", "method": method, "setting": setting, "metric": metric, "value": value, "unit": unit}


def test_rows_are_json_of_the_agreed_form(tmp_path):
    rows.write([_row("a", "p50", 1.5), _row("b", "p50", 2.0)], tmp_path / "sub" / "x.json")
    found = json.loads((tmp_path / "sub" / "x.json").read_text())
    assert [set(row) for row in found] == [{"question", "method", "setting", "metric", "value", "unit"}] * 2


def test_tables_line_methods_up():
    text = rows.tables([_row("slow", "p50", 100.0), _row("slow", "p95", 120.25), _row("mila", "p95", 0.1234, "")])
    lines = text.splitlines()
    assert lines[0] == "Q"
    assert lines[1].split() == ["p50,", "ms", "p95,", "ms", "p95"]
    assert lines[2].split() == ["slow", "100", "120.2", "-"]
    assert lines[3].split() == ["mila", "-", "-", "0.123"]


def test_ratios_are_of_the_same_frames():
    """One disturbed block does not move the ratio, though it moves both means."""
    reference = [10.0] * 50
    values = [4.0] * 40 + [100.0] * 10
    assert latency._paired(values, reference) == pytest.approx(0.4)


def test_flow_costs_more_than_it_should():
    """Counted without computing: convolutions grow with the picture, its all-pairs comparison with its square."""
    small, large = latency.raft_flops(128, 128), latency.raft_flops(256, 256)
    assert 4 * small < large < 16 * small
    assert latency.raft_flops(120, 121) == latency.raft_flops(128, 128)


def test_a_turn_of_every_method():
    config = replace(ModelConfig.tiny(), working_pixels=64 * 96)
    engine = Engine(Mila(config), device="cpu", precision="fp32", threads=1, slow_threads=1)
    random = np.random.default_rng(0)
    frames = [(random.integers(0, 255, (64, 96, 3), np.uint8), 80.0) for _ in range(12)]
    found, rounds = latency.measure(engine, frames, 0.0, lambda _: None)
    assert rounds >= 3
    by = {(row["method"], row["setting"], row["metric"]): row["value"] for row in found}
    methods = {method for method, *_ in by}
    assert {"slow network on every frame", "fast network alone", "MILA synchronous", "MILA asynchronous"} <= methods
    for k in latency.INTERVALS:
        setting = f"keyframe every {k} frames"
        assert by["MILA synchronous", setting, "frames a keyframe"] == k
        assert by["MILA asynchronous", setting, "frames a keyframe"] >= k
        assert by["MILA synchronous", setting, "p50"] > 0
    saved = [by["MILA synchronous", f"keyframe every {k} frames", "arithmetic against slow"] for k in latency.INTERVALS]
    assert saved == sorted(saved, reverse=True)
    assert by["slow network on every frame", "", "mean against slow"] == 1.0
    for stage in ("upload", "slow", "fast", "ila", "heads", "download"):
        assert by[stage, "", "p50"] >= 0
    assert by["attention against RAFT-small", "96x64 picture", "ratio"] > 0


def test_bytes_are_counted_where_something_is_computed_and_not_where_it_is_looked_at():
    x, y = torch.zeros(8, 4), torch.zeros(8, 4)
    with roofline.Traffic() as counted:
        _ = x.reshape(4, 8).t()[1:]
    assert counted.bytes == 0
    with roofline.Traffic() as counted:
        _ = x + y
    assert counted.bytes == 3 * 32 * 4
    with roofline.Traffic() as counted:
        x.add_(y)
    assert counted.bytes == 3 * 32 * 4


def test_roofline_of_every_part():
    config = replace(ModelConfig.tiny(), working_pixels=64 * 96)
    engine = Engine(Mila(config), device="cpu", precision="fp32", threads=1, slow_threads=1)
    frames = [(np.full((64, 96, 3), 90, np.uint8), 80.0)] * 10
    found = roofline.rows_of(engine, frames, 10, lambda: None)
    by = {(row["method"], row["metric"]): row["value"] for row in found}
    assert by["products of matrices", "rate"] > 0.1 and by["copying memory", "rate"] > 0.1
    for part in roofline.PARTS:
        larger = max(by[part, "limit by arithmetic"], by[part, "limit by memory"])
        assert by[part, "time against the larger limit"] == pytest.approx(by[part, "p50"] / larger)
        assert by[part, "moved"] > 0
    small, large = (roofline.traffic(engine.model, 64 * scale, 96 * scale)["fast"] for scale in (1, 2))
    assert small < large < 4 * small, "weights do not grow with the picture"


def test_rivals_answer_what_they_are_asked():
    pytest.importorskip("transformers")
    import torch

    from benchmarks import rivals

    config = replace(ModelConfig.tiny(), working_pixels=64 * 96)
    engine = Engine(Mila(config), device="cpu", precision="fp32", threads=1, slow_threads=1)
    rgb = np.zeros((48, 64, 3), np.uint8)
    with torch.inference_mode():
        normals = rivals.Rival("normals", rivals.depth_anything(3), (42, 56), engine)
        assert normals.answer(rgb, (24, 32)).shape == (1, 3, 24, 32)
        classes = rivals.Rival("classes", rivals.segformer(9), (64, 64), engine)
        answer = classes.answer(rgb, (24, 32))
        assert answer.shape == (1, 24, 32) and answer.dtype == np.uint8 and answer.max() < 9
        assert normals.flops() > classes.flops() > 0 and len(normals.ms) == 1


def test_growth_measures_every_way_and_counts_what_is_remembered():
    import torch

    from benchmarks import growth

    torch.manual_seed(0)
    model = Mila(replace(ModelConfig.tiny(), working_pixels=64 * 96, warp=True)).eval()
    sizes, growth.RESOLUTIONS = growth.RESOLUTIONS, ((32, 48), (96, 128))
    try:
        found = growth.settings(model, "cpu", "fp32")
        rows = list(growth.measure(found, 2))
    finally:
        growth.RESOLUTIONS = sizes
    value = {(row["question"], row["method"], row["metric"]): row["value"] for row in rows}
    assert {name for question, name in found if question == "propagation"} == {"as it is", *growth.WAYS} - {
        "with warp",
        "window 5",  # as it is
    }
    for (question, _, metric), number in value.items():
        assert number > 0, (question, metric)
    ratios = "arithmetic of propagation, ratio"
    assert value["propagation", "as it is", ratios] == 1
    assert value["propagation", "a look-up a task", ratios] == pytest.approx(3)
    assert value["propagation", "4 keyframes", "remembered"] > 1.5 * value["propagation", "2 keyframes", "remembered"]
    assert value["resolution", "128x96", "remembered"] > value["resolution", "48x32", "remembered"]
    one = torch.zeros(2**18)
    assert growth.remembered_mb((one, {"again": one[:5]}, [torch.zeros(2**18)], None)) == 2.0
    assert len(list(growth.cameras(model, "cpu", "fp32", frames=2))) == 2 * len(growth.CAMERAS) - 1


def test_throughput_of_every_method():
    config = replace(ModelConfig.tiny(), working_pixels=64 * 96)
    engine = Engine(Mila(config), device="cpu", precision="fp32", threads=1, slow_threads=1)
    random = np.random.default_rng(0)
    frames = [(random.integers(0, 256, (64, 96, 3), dtype=np.uint8), 100.0) for _ in range(12)]
    turns = []
    found = throughput.measure(engine, frames, 2, lambda: turns.append(1))
    assert len(turns) == 3  # the first is not counted
    rates = {(r["method"], r["setting"]): r["value"] for r in found if r["metric"] == "frames a second"}
    assert len(rates) == 3 and all(rate > 0 for rate in rates.values())
    (ratio,) = (r["value"] for r in found if r["metric"] == "ratio")
    mila, *slow = rates.values()
    assert ratio == pytest.approx(mila / max(slow))


def test_a_second_thread_that_fails_fails_the_measurement():
    engine = Engine(
        Mila(replace(ModelConfig.tiny(), working_pixels=64 * 96)), device="cpu", precision="fp32", threads=1
    )

    def failing(looked):
        raise RuntimeError("no such head")

    second = throughput.Overlapped(engine, failing, lambda: None)
    with pytest.raises(RuntimeError, match="no such head"):
        second.give(1)
        second.finish(1)
    second.close()


def test_obstacles_are_what_stands_above_the_floor():
    """A camera one metre above the floor, looking ahead; a box stands on it. The answer bends the floor upwards."""
    camera = Intrinsics(fx=60.0, fy=60.0, cx=39.5, cy=19.5, width=80, height=60)
    labels = np.zeros((60, 80), np.uint8)
    rows = np.arange(60, dtype=np.float32)[:, None]
    depth = np.where(rows > 22, 60.0 / np.maximum(rows - 19.5, 1e-3), np.nan) + np.zeros((60, 80), np.float32)
    labels[rows[:, 0] > 22] = 1
    depth[20:40, 30:50], labels[20:40, 30:50] = 2.5, 2
    depth = depth.astype(np.float32)

    def cloud(depth, labels=None, leave_out=()):
        answer = Answer(labels, None, depth, None, (60, 80), {})
        return organised(answer, camera, 1, leave_out)

    truth = cloud(depth)
    exact = obstacles.counted(truth, cloud(depth), labels, (1,))
    assert exact["floor"] > 500 and exact["thing"] > 100
    assert exact["false"] == dict.fromkeys(obstacles.THRESHOLDS, 0)
    assert exact["right"] == dict.fromkeys(obstacles.THRESHOLDS, exact["thing"])
    # Seen a quarter too near, a floor one metre below is a quarter of a metre higher.
    near = obstacles.counted(truth, cloud(0.75 * depth), labels, (1,))
    assert near["false"][0.1] == near["false"][0.2] == near["floor"] and near["false"][0.3] == 0
    known = obstacles.counted(truth, cloud(0.75 * depth, labels, (1,)), labels, (1,))
    assert known["false"][0.1] == 0 and known["right"][0.1] == near["right"][0.1] > 100
    assert obstacles.counted(truth, cloud(depth), labels, (7,)) is None  # no floor is seen
