"""The summary and the page made from it: right keys, no invented numbers, nothing that is fetched from elsewhere."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from mila_ros.evaluation import pictures, plots, report, summary
from mila_ros.evaluation.moments import Moment
from mila_ros.evaluation.session import Usage
from mila_ros.evaluation.timeline import BudgetSample, FrameAnswer, FrameTime

S = 1_000_000_000
WALL = 1_700_000_000 * S
METRICS = {
    "segmentation": {"miou": 0.41, "pixel_accuracy": 0.72, "iou": [0.6, None, 0.22]},
    "depth": {"rmse": 0.5, "abs_rel": 0.12, "delta1": 0.85},
    "normals": {"mean_deg": 25.0, "median_deg": 18.0, "within_11_25": 0.3, "within_22_5": 0.5, "within_30": 0.6},
}
JUDGED = {"segmentation": 30, "depth": 30, "normals": 30}
CLASSES = ("wall", "floor", "sofa")
PALETTE = ((120, 120, 120), (80, 50, 50), (11, 102, 255))


def _frames(answered=True):
    """Three seconds at 30 Hz; every tenth frame is dropped."""
    frames = []
    for i in range(90):
        published = i * S // 30
        arrived = published + 40_000_000 + 100_000 * (i % 7) if answered and i % 10 else None
        frames.append(FrameTime(WALL + published, published, arrived, 3 if arrived else 0))
    return frames


def _budgets():
    return [
        BudgetSample(
            stamp_ns=WALL + (i + 1) * S,
            device="cpu",
            precision="bf16",
            backend="openvino",
            mode="asynchronous",
            model="m",
            keyframe_period=0.333,
            slow_gflops=10.0,
            gflops_per_frame=3.0,
            flops_saved=0.7,
            rss_mb=500.0,
            stages={"decode": (27, 2.0), "fast": (27, 20.0), "slow": (3, 90.0), "ila": (0, math.nan)},
            counts={
                "received": 30 * (i + 1),
                "answered": 27 * (i + 1),
                "dropped": 3 * (i + 1),
                "keyframes": 3 * (i + 1),
            },
        )
        for i in range(3)
    ]


def _answers():
    """The first without a keyframe; then one in each second."""
    frames = [frame for frame in _frames() if frame.arrived_ns is not None]
    return [
        FrameAnswer(f.stamp_ns, None if i == 0 else WALL + f.published_ns // S * S, 0.2, {"decode": 2.0, "fast": 20.0})
        for i, f in enumerate(frames)
    ]


def _usage():
    return [Usage(i * S // 4, 400.0 + (100 if i < 2 else 120), 150.0) for i in range(-4, 16)]


def _moments(truth):
    made = []
    for i in range(3):
        answers = {
            "segmentation": np.full((24, 32), i, np.uint8),
            "depth": np.full((24, 32), 1.0 + i, np.float32),
            "normals": np.full((24, 32, 3), -0.577, np.float32),
        }
        depth = answers["depth"].copy()
        depth[:4] = np.nan
        known = {"segmentation": np.full((24, 32), 255, np.uint8), "depth": depth} if truth else {}
        made.append(Moment(WALL + i * S, np.full((48, 64, 3), 90, np.uint8), answers, known))
    return made


def _evidence(metrics=METRICS, truth=True, frames=None, budgets=None, usage=None, notes=(), answers=None):
    frames = _frames() if frames is None else frames
    budgets = _budgets() if budgets is None else budgets
    usage = _usage() if usage is None else usage
    return report.Evidence(
        title="Recording room <b>1</b>",
        summary=summary.build(frames, budgets, usage, metrics, JUDGED if metrics else {}, {"source": "room"}),
        frames=frames,
        answers=_answers() if answers is None else answers,
        budgets=budgets,
        usage=usage,
        moments=_moments(truth),
        classes=CLASSES,
        palette=PALETTE,
        cores=2,
        settings={"mode": "asynchronous"},
        machine={"CPU": "some"},
        versions={"torch": "2"},
        notes=notes,
    )


def test_summary_has_what_programs_read():
    found = _evidence().summary
    assert found["frames"]["received"] == 90 and found["frames"]["answered"] == 81 and found["frames"]["dropped"] == 9
    assert found["frames"]["published"] == 90 and found["frames"]["complete"] == 81 and found["frames"]["lost"] == 0
    assert 40 <= found["latency_ms"]["p50"] <= found["latency_ms"]["p95"] <= found["latency_ms"]["p99"] <= 41
    assert found["flops_saved"] == pytest.approx(0.7)
    assert found["segmentation"]["miou"] == 0.41 and found["depth"]["delta1"] == 0.85
    assert found["normals"]["median_deg"] == 18.0
    assert found["node_rss_mb"] == 520.0 and found["node_rss_start_mb"] == 520.0


def test_summary_is_json_without_nan():
    budgets = [BudgetSample(**{**vars(b), "flops_saved": math.nan}) for b in _budgets()]
    found = _evidence(budgets=budgets).summary
    assert found["flops_saved"] is None
    json.dumps(found, allow_nan=False)


def test_nothing_answered_gives_no_latency():
    found = _evidence(metrics={}, truth=False, frames=_frames(answered=False)).summary
    assert found["latency_ms"]["p50"] is None
    assert "depth" not in found and "segmentation" not in found
    lines = "\n".join(summary.sentences(found))
    assert "latency" not in lines and "90 published" in lines


def test_sentences_say_the_numbers():
    lines = "\n".join(summary.sentences(_evidence().summary))
    for text in ("81 answered", "9 dropped", "70 %", "520 MiB", "mIoU 0.410", "RMSE 0.500 m", "mean 25.0"):
        assert text in lines


def _foreign(page):
    """Whatever the page would fetch."""
    links = re.findall(r"""(?:src|href)=["']([^"']+)|url\(["']?([^"')]+)""", page)
    links = [link or other for link, other in links]
    assert links, "there are pictures"
    return [link for link in links if not link.startswith(("data:", "#"))]


@pytest.mark.parametrize("truth", [True, False])
def test_the_page_stands_alone(truth):
    page = report.render(_evidence(metrics=METRICS if truth else {}, truth=truth))
    assert _foreign(page) == []
    assert "http" not in page and "@import" not in page
    assert "&lt;b&gt;1&lt;/b&gt;" in page, "names from outside are text, not markup"
    assert page.count("<svg") == 7
    assert ("How right it was" in page) == truth
    assert ("ground truth" in page) == truth


def test_a_run_of_an_older_node_has_no_stages_of_frames():
    page, with_stages = report.render(_evidence(answers=[])), report.render(_evidence())
    assert page.count("<svg") == 6 and with_stages.count("<svg") == 7
    waiting = plots.STAGE_COLOURS["transport and waiting"]  # text is drawn as paths
    # In the bar of means it is either way.
    assert page.count(waiting) < with_stages.count(waiting)


def test_metrics_in_the_page_are_those_of_the_summary():
    rows = {row["key"]: row["value"] for row in report.metric_rows(_evidence().summary)}
    assert rows["segmentation.miou"] == "41.0 %" and rows["depth.rmse"] == "0.500 m"
    assert rows["normals.median_deg"] == "18.0°"
    assert report.class_rows(_evidence().summary, CLASSES) == [("wall", 0.6), ("sofa", 0.22)]


def test_a_page_of_a_run_that_answered_nothing():
    """No latency, no budget, no pictures: still a page that says so."""
    evidence = _evidence(
        metrics={}, truth=False, frames=_frames(answered=False), budgets=[], usage=[], notes=["Why."], answers=[]
    )
    page = report.render(report.Evidence(**{**vars(evidence), "moments": []}))
    assert "of 90" in page and "Why." in page


def test_depth_colours_show_the_unknown():
    depth = np.array([[0.5, 4.0, np.nan, 0.0, 99.0]], np.float32)
    picture = pictures.depth_picture(depth, 5.0)
    assert (picture[0, 2] == 0).all() and (picture[0, 3] == 0).all()
    assert picture[0, 0, 0] > picture[0, 0, 2] and picture[0, 4, 2] > picture[0, 4, 1], "near is red, far is blue"
    assert picture.sum(axis=-1)[0, [0, 1, 4]].min() > 150, "no known depth looks unknown"


def test_normals_colours_follow_their_legend():
    right, up, facing = [1, 0, 0], [0, -1, 0], [0, 0, -1]
    picture = pictures.normals_picture(np.array([[right, up, facing, [np.nan] * 3]], np.float32))
    assert [int(pixel.argmax()) for pixel in picture[0, :3]] == [0, 1, 2]
    assert (picture[0, 3] == 0).all()


def test_legend_names_what_occurs():
    table = pictures.class_colours(PALETTE, 3)
    ids = np.zeros((100, 100), np.uint8)
    ids[:30], ids[99, 99], ids[50] = 2, 1, 255
    named = [("wall", "rgb(120,120,120)"), ("sofa", "rgb(11,102,255)")]
    assert pictures.legend([ids], CLASSES, table) == [*named, ("unlabelled", "rgb(50,50,50)")]
    assert pictures.legend([np.where(ids == 255, 0, ids)], CLASSES, table) == named


def test_colours_are_made_up_where_there_is_no_palette():
    table = pictures.class_colours((), 40)
    assert len({tuple(colour) for colour in table[:40]}) == 40
    assert (table[255] == 0).all()


def test_depth_range_is_round_and_robust():
    depth = np.full((50, 50), 3.2, np.float32)
    depth[0, :3] = 60.0
    assert pictures.depth_range([depth]) == 3.5
    assert pictures.depth_range([np.full((2, 2), np.nan, np.float32)]) == 5.0
