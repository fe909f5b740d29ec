"""The node as a process of its own, real DDS in between, a tiny network with random weights.

Asserted: which topics come with which headers, types and scales; that only what is wanted is computed; that parameters
act at once or are refused with a sentence; drops under overload; every kind of bad input, each followed by a frame that
is answered. Left out: how good the answers are (the networks' tests) and how fast (benchmarks).
"""

from __future__ import annotations

import json
import math
import time

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import ParameterType
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from mila_ros.images import decode_depth, decode_labels, decode_normals

from .perception_harness import (
    BEST_EFFORT,
    IMAGE,
    INFO,
    LATCHED,
    OUT,
    TASKS,
    camera_info,
    counters,
    exchange,
    frame,
    stamp,
    status,
    wait,
)


def test_three_tasks_come_with_the_header_of_their_frame(running):
    process, peer = running

    # Nobody has subscribed to anything yet: frames are counted, not computed.
    def unwanted():
        peer.publish(IMAGE, frame(0))
        return counters(peer).idle

    wait(unwanted, "frames that nobody wants")
    assert counters(peer).answered == 0 and math.isnan(peer.budgets()[-1].gflops_per_frame)

    topics = {f"{OUT}/{task}/image": Image for task in TASKS}
    topics |= {f"{OUT}/{task}/camera_info": CameraInfo for task in TASKS}
    topics |= {f"{OUT}/{task}/view": Image for task in TASKS}
    topics[f"{OUT}/segmentation/confidence"] = Image
    lists = {topic: peer.listen(kind, topic) for topic, kind in topics.items()}
    wait(lambda: all(peer.heard(topic) for topic in topics), "all publishers")
    sent = frame(7, frame_id="front_optical")
    exchange(peer, sent)
    wait(lambda: all(any(stamp(m) == stamp(sent) for m in got) for got in lists.values()), "all topics of one frame")
    by_topic = {
        topic.removeprefix(OUT + "/"): next(m for m in got if stamp(m) == stamp(sent)) for topic, got in lists.items()
    }
    assert {message.header.frame_id for message in by_topic.values()} == {"front_optical"}

    labels, depth, normals = (by_topic[f"{task}/image"] for task in TASKS)
    assert (labels.encoding, depth.encoding, normals.encoding) == ("mono8", "32FC1", "32FC3")
    assert decode_labels(labels).shape == (48, 64) and decode_labels(labels).max() < 4
    assert 0.1 < float(np.median(decode_depth(depth))) < 10
    np.testing.assert_allclose(np.linalg.norm(decode_normals(normals), axis=2), 1, atol=1e-3)
    assert by_topic["segmentation/confidence"].encoding == "32FC1"
    for task in TASKS:
        assert by_topic[f"{task}/view"].encoding == "rgb8"
        info = by_topic[f"{task}/camera_info"]
        assert (info.width, info.height, info.k[0], info.p[5]) == (64, 48, 50.0, 50.0)
        assert info.k[2] == pytest.approx(31.5) and info.k[5] == pytest.approx(23.5)

    classes = peer.listen(String, f"{OUT}/segmentation/classes", LATCHED)
    wait(lambda: classes, "the class names")
    assert [entry["name"] for entry in json.loads(classes[0].data)["classes"]] == ["wall", "floor", "chair", "table"]
    for topic in topics:
        peer.deaf(topic)
    assert process.running()


def test_frames_are_answered_by_memory_and_the_budget_says_what_it_cost(running):
    process, peer = running
    for task in TASKS:
        peer.listen(Image, f"{OUT}/{task}/image")
    wait(lambda: all(peer.heard(f"{OUT}/{task}/image") for task in TASKS), "publishers")
    budgets = peer.budgets()

    def answered_with_memory():
        peer.publish(INFO, camera_info())
        peer.publish(IMAGE, frame(20 + len(budgets)))
        time.sleep(0.03)
        if not budgets or math.isnan(budgets[-1].flops_saved):
            return False
        counts = {stage.name: stage.count for stage in budgets[-1].stages}
        return counts["ila"] > 2 and counts["slow"] > 0 and "timer" in budgets[-1].reason

    wait(answered_with_memory, "frames answered from a keyframe")
    budget, camera = budgets[-1], budgets[-1].cameras[0]
    assert [stage.name for stage in budget.stages] == [
        "decode", "upload", "slow", "fast", "ila", "heads", "download", "publish", "total",
    ]  # fmt: skip
    for stage in budget.stages:
        assert stage.count and 0 < stage.p50_ms <= stage.p95_ms <= stage.max_ms and stage.mean_ms > 0, stage
    assert (budget.device, budget.precision, budget.mode) == ("cpu", "fp32", "asynchronous")
    assert budget.slow_gflops > budget.fast_gflops > 0 and budget.ila_gflops > 0 and budget.heads_gflops > 0
    assert 0 < budget.gflops_per_frame < budget.slow_gflops * 2 and budget.flops_saved < 1
    assert camera.camera == "front" and camera.keyframe_id == camera.keyframes > 0 and camera.keyframe_age_s >= 0
    assert camera.received >= camera.answered + camera.dropped + camera.failed + camera.idle
    assert budget.keyframe_period_s == pytest.approx(0.5) and budget.rss_mb > 50

    def answering():
        peer.publish(IMAGE, frame(20 + len(budgets)))
        time.sleep(0.03)
        return status(peer, "front").level == DiagnosticStatus.OK and status(peer, "front").message == "answering"

    wait(answering, "a camera that is OK")
    keys = {value.key for value in status(peer, "front").values}
    assert keys >= {"frames received", "latency p95 ms", "last input error"}
    assert status(peer, "rear").level == DiagnosticStatus.STALE
    missing = "nobody publishes /rear/image_raw or /rear/image_raw/compressed"
    assert f"{missing}; there are " in status(peer, "rear").message and f"{IMAGE} (raw)" in status(peer, "rear").message
    # Once, though what else there is has changed since.
    assert process.log.count(f"camera rear: no frame comes: {missing}") == 1
    for task in ("segmentation", "normals"):
        peer.deaf(f"{OUT}/{task}/image")


def test_publishers_of_both_kinds_of_reliability_are_heard(peer):
    assert exchange(peer, frame(100), qos=BEST_EFFORT)
    assert exchange(peer, frame(101))


def test_compressed_frames_and_an_assumed_field_of_view(running):
    peer = running[1]
    pixels = np.full((96, 128, 3), 128, np.uint8)
    message = CompressedImage(format="jpeg", data=cv2.imencode(".jpg", pixels)[1].tobytes())
    message.header.stamp.sec, message.header.frame_id = 9, "rear_optical"
    out = "/perception/rear/depth"
    infos = peer.listen(CameraInfo, f"{out}/camera_info")
    answer = exchange(peer, message, "/rear/image_raw/compressed", f"{out}/image")
    assert "camera rear: listens to /rear/image_raw/compressed now" in running[0].log
    assert "in a moment" not in running[0].log, "what mends itself is no warning"
    assert "there is no parameter" not in running[0].log  # what is set for its topic is no typing mistake
    assert answer.header == message.header and (answer.width, answer.height) == (64, 48)
    focal = 32 / math.tan(math.radians(30))
    assert wait(lambda: infos, "camera_info")[0].k[0] == pytest.approx(focal)

    def told() -> str:
        return next((value.value for value in status(peer, "rear").values if value.key == "calibration"), "")

    wait(lambda: "60 degrees is assumed" in told(), "a word about it")
    assert status(peer, "rear").level != DiagnosticStatus.WARN  # it is what was asked for


def test_parameters_act_at_once_or_are_refused_with_a_sentence(peer):
    assert peer.set_parameter("keyframe.period", 0.25).successful
    budgets = peer.budgets()
    wait(lambda: budgets and budgets[-1].keyframe_period_s == pytest.approx(0.25), "the new period")
    assert peer.set_parameter("keyframe.period", 1).successful  # a whole number is a number
    wait(lambda: budgets[-1].keyframe_period_s == pytest.approx(1.0), "the period given as a whole number")
    assert peer.set_parameter("keyframe.period", 0.25).successful
    assert peer.set_parameter("mode", "synchronous").successful
    wait(lambda: budgets[-1].mode == "synchronous", "the new mode")
    assert peer.set_parameter("mode", "asynchronous").successful
    assert peer.set_parameter("depth_encoding", "16UC1").successful
    assert exchange(peer, frame(200)).encoding == "16UC1"
    assert peer.set_parameter("depth_encoding", "32FC1").successful
    assert peer.set_parameter("output_scale", 1.0).successful
    assert exchange(peer, frame(201)).width == 128
    assert peer.set_parameter("output_scale", 0.5).successful

    for name, value, words in (
        ("keyframe.period", -1.0, "keyframe.period"),
        ("mode", "sometimes", "asynchronous, synchronous"),
        ("depth_encoding", "64FC1", "32FC1, 16UC1"),
        ("device", "cuda", "read-only"),
        ("model", "other", "read-only"),
        ("keyframe.period", "soon", "it is a number"),
        ("front.image_topic", "/other", "read-only"),
    ):
        refused = peer.set_parameter(name, value)
        assert not refused.successful and words in refused.reason, (name, refused.reason)
    period, mode, override = peer.describe(
        ["keyframe.period", "mode", f"qos_overrides.{IMAGE}.subscription.reliability"]
    )
    assert period.description and period.floating_point_range[0].to_value == 60.0 and not period.read_only
    assert "synchronous" in mode.additional_constraints
    assert override.type == ParameterType.PARAMETER_STRING


def test_the_budget_is_held_by_a_longer_period_and_given_back(peer):
    peer.listen(Image, f"{OUT}/depth/image")
    budgets = peer.budgets()
    assert peer.set_parameter("keyframe.period", 0.25).successful
    assert peer.set_parameter("keyframe.longest_period", 1.5).successful
    assert peer.set_parameter("device_share", 0.05).successful
    number = 205  # below the next test's

    def held():
        peer.publish(INFO, camera_info())
        peer.publish(IMAGE, frame(number))
        time.sleep(0.02)
        return budgets and "of the device's share" in budgets[-1].reason

    wait(held, "a stretched period")
    budget = budgets[-1]
    assert 0.25 < budget.keyframe_period_s <= 1.5 and budget.device_share_limit == pytest.approx(0.05)
    assert 0 < budget.device_share <= 1 and list(budget.skipped_tasks) == []
    said = wait(lambda: peer.status("perception: budget"), "diagnostics")
    wait(lambda: peer.status("perception: budget").level == DiagnosticStatus.WARN, "a warning")
    assert "instead of 0.25" in peer.status("perception: budget").message, said
    assert peer.set_parameter("device_share", 1.0).successful
    assert peer.set_parameter("keyframe.longest_period", 0.0).successful

    def given_back():
        peer.publish(IMAGE, frame(number))
        time.sleep(0.02)
        return budgets[-1].keyframe_period_s == pytest.approx(0.25)

    wait(given_back, "the wanted period")


def test_under_overload_the_newest_frame_wins_and_drops_are_counted(peer):
    answers = peer.listen(Image, f"{OUT}/depth/image")
    exchange(peer, frame(300, 640, 480))
    before = counters(peer)
    burst = [frame(310 + i, 640, 480) for i in range(40)]
    for message in burst:
        peer.publish(IMAGE, message)
        time.sleep(0.005)
    wait(lambda: answers and stamp(answers[-1]) == stamp(burst[-1]), "the newest frame's answer")
    after = counters(peer)
    names = ("received", "answered", "dropped", "failed", "idle")
    grown = {name: getattr(after, name) - getattr(before, name) for name in names}
    assert grown["dropped"] > 0 and grown["answered"] > 0, grown
    assert grown["received"] == grown["answered"] + grown["dropped"] + grown["failed"] + grown["idle"]
    stamps = [stamp(answer) for answer in answers if stamp(answer) >= stamp(burst[0])]
    assert stamps == sorted(stamps)


def _broken(**changes):
    message = frame(0)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


BAD_FRAMES = {
    "unknown encoding": (lambda: _broken(encoding="rgb7"), "rgb7"),
    "data shorter than step x height": (lambda: _broken(data=frame(0).data[:1000]), "1000"),
    "zero-size": (lambda: _broken(width=0, height=0), "0x0"),
    "step smaller than a row": (lambda: _broken(step=3), "step"),
    "8K": (lambda: Image(width=7680, height=4320, encoding="rgb8", step=23040, data=[0] * 64), "7680x4320"),
    "too small for the networks": (lambda: frame(0, 24, 18), "too small"),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_bad_frames_are_named_counted_and_survived(running, kind):
    process, peer = running
    exchange(peer, frame(400))
    failed = counters(peer).failed
    make, words = BAD_FRAMES[kind]
    bad = make()
    bad.header.stamp.sec = 40
    peer.publish(IMAGE, bad)
    wait(lambda: counters(peer).failed > failed, f"the count of {kind}")
    assert words in process.log

    def told():
        return words in {value.key: value.value for value in status(peer, "front").values}["last input error"]

    wait(told, "the error in the diagnostics")
    assert exchange(peer, frame(401))


def test_truncated_jpegs_are_survived(running):
    process, peer = running
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))[1].tobytes()
    topic, out = "/rear/image_raw/compressed", "/perception/rear/depth/image"
    good = CompressedImage(format="jpeg", data=whole)
    good.header.stamp.sec = 50
    exchange(peer, good, topic, out)
    peer.publish(topic, CompressedImage(format="jpeg", data=whole[: len(whole) // 2]))
    peer.publish(topic, CompressedImage(format="jpeg", data=b""))
    wait(lambda: "truncated" in process.log or "cut off" in process.log, "a word about the truncated JPEG")
    good.header.stamp.sec = 51
    assert exchange(peer, good, topic, out)


def test_big_endian_frames_are_answered_with_a_remark(running):
    process, peer = running
    message = frame(500)
    message.is_bigendian = 1
    assert exchange(peer, message)
    assert "is_bigendian" in process.log


def test_without_a_usable_focal_length_there_is_no_depth_but_everything_else(running):
    process, peer = running
    info = camera_info()
    info.k = [math.nan] * 9
    info.p = [math.nan] * 12
    depths = peer.listen(Image, f"{OUT}/depth/image")
    before = len(depths)
    answer = exchange(peer, frame(600), out=f"{OUT}/normals/image", info=info)
    assert answer.encoding == "32FC3"
    assert len(depths) == before
    wait(lambda: "no depth" in process.log and "camera_info" in process.log, "the reason in the log")

    def told():
        peer.publish(IMAGE, frame(600))
        time.sleep(0.1)
        return "no depth" in status(peer, "front").message

    wait(told, "the reason in the diagnostics")
    assert peer.set_parameter("front.fallback_hfov", 60.0).successful
    assert exchange(peer, frame(601), info=info)
    assert peer.set_parameter("front.fallback_hfov", 0.0).successful
    assert exchange(peer, frame(602))
    peer.deaf(f"{OUT}/normals/image")


def test_a_change_of_resolution_and_stamps_that_jump_back_are_survived(running):
    process, peer = running
    exchange(peer, frame(700))
    answer = exchange(peer, frame(701, 160, 120))
    assert (answer.width, answer.height) == (80, 60)
    assert "from 128x96 to 160x120" in process.log
    assert exchange(peer, frame(690, 160, 120))
    assert "jumped back" in process.log


def test_a_calibration_that_was_published_once_is_heard(peer):
    infos = peer.listen(CameraInfo, "/perception/rear/depth/camera_info")
    peer.listen(Image, "/perception/rear/depth/image")
    jpeg = cv2.imencode(".jpg", np.full((96, 128, 3), 90, np.uint8))[1].tobytes()
    # The field of view that is assumed without it has another focal length.
    peer.publish("/rear/camera_info", camera_info(focal=100.0), qos=LATCHED)

    def told():
        peer.publish("/rear/image_raw/compressed", CompressedImage(format="jpeg", data=jpeg))
        time.sleep(0.1)
        return infos and infos[-1].k[0] == pytest.approx(50.0)

    wait(told, "the calibration, scaled to the output")
