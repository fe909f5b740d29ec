"""Parts of the node that need no middleware: pictures for people, calibration, scaled CameraInfo, the quiet log."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from mila_ros.msg import ComputeBudget, StageTiming
from sensor_msgs.msg import CameraInfo

from mila_ros.ros.cameras_in import CameraInput, calibrate, pinhole, scaled_info
from mila_ros.ros.diagnostics import CameraReport, Throttle, budget_status, camera_status
from mila_ros.ros.frames import Noted, _same
from mila_ros.ros.settings import CameraSettings
from mila_ros.ros.topics_out import millimetres
from mila_ros.ros.views import colour_table, depth_view, normals_view, segmentation_view
from mila_ros.runtime.keyframes import KeyframeState
from mila_ros.runtime.meter import Meter


def test_class_colours_cover_the_picture_and_leave_the_unlabelled():
    table = colour_table([(255, 0, 0), (0, 0, 255)], 2)
    ids = np.array([[0, 1], [255, 0]], np.uint8)
    rgb = np.full((4, 4, 3), 100, np.uint8)
    view = segmentation_view(ids, table, rgb, 1.0)
    assert view[0, 0].tolist() == [255, 0, 0] and view[0, 1].tolist() == [0, 0, 255]
    assert view[1, 0].tolist() == [100, 100, 100]
    assert segmentation_view(ids, table, rgb, 0.0)[0, 0].tolist() == [100, 100, 100]


def test_a_missing_palette_is_made_up_of_different_colours():
    table = colour_table((), 40)
    assert len({tuple(colour) for colour in table[:40].tolist()}) == 40 and not table[40:].any()


def test_depth_colours_have_a_fixed_range_and_black_is_unknown():
    depth = np.array([[0.5, 9.9], [np.nan, 30.0]], np.float32)
    view = depth_view(depth, 10.0)
    assert view[0, 0, 0] > view[0, 0, 2] and view[0, 1, 2] > view[0, 1, 0]  # near red, far blue
    assert view[1, 0].tolist() == [0, 0, 0] and view[1, 1].any()
    # Not stretched to what is in the picture: the same metres always have the same colour.
    assert view[0, 0].tolist() == depth_view(depth[:1, :1], 10.0)[0, 0].tolist()


def test_normals_are_shifted_into_colours():
    view = normals_view(np.array([[[1.0, -1.0, 0.0]]], np.float32))
    assert view[0, 0].tolist() == [255, 0, 128]


def test_millimetres_are_whole_and_zero_is_unknown():
    depth = np.array([[1.2344, np.nan, 70.0, -1.0, 65.535]], np.float32)
    assert millimetres(depth).tolist() == [[1234, 0, 0, 0, 65535]]


def test_camera_info_is_scaled_about_pixel_centres():
    small = scaled_info(pinhole(500.0, (480, 640)), (240, 320), (480, 640))
    expected = pinhole(250.0, (240, 320))
    assert (small.width, small.height) == (320, 240)
    np.testing.assert_allclose(small.k, expected.k)
    np.testing.assert_allclose(small.p, expected.p)


def test_camera_info_of_another_resolution_is_scaled_to_the_frames():
    known = calibrate(pinhole(1000.0, (960, 1280)), "/info", (480, 640), 0.0)
    assert known.focal == pytest.approx(500.0) and known.problem is None
    np.testing.assert_allclose(scaled_info(known.info, (240, 320), (480, 640)).k[0], 250.0)


def test_a_region_of_interest_moves_the_principal_point_of_what_is_published():
    info = pinhole(500.0, (480, 640))
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 160, 120, 320, 240
    assert calibrate(info, "/info", (240, 320), 0.0).focal == pytest.approx(500.0)  # a crop, not a smaller picture
    out = scaled_info(info, (120, 160), (240, 320))
    expected = pinhole(250.0, (120, 160))  # the region is the middle of the picture
    np.testing.assert_allclose(out.k, expected.k)
    np.testing.assert_allclose(out.p, expected.p)
    assert (out.roi.width, out.binning_x) == (0, 0)


def test_another_region_or_binning_is_another_calibration():
    """Though K stays: what a calibration was made from is compared with every frame's."""
    info, moved, binned = (pinhole(500.0, (480, 640)) for _ in range(3))
    moved.roi.x_offset, binned.binning_x = 8, 2
    size = (240, 320)
    assert _same((info, size), (pinhole(500.0, (480, 640)), size))
    assert not _same((info, size), (moved, size))
    assert not _same((info, size), (binned, size))


def test_rectified_pictures_take_the_focal_length_of_p():
    info = pinhole(500.0, (480, 640))
    info.p[0] = info.p[5] = 400.0
    assert calibrate(info, "/info", (480, 640), 0.0, rectified=True).focal == pytest.approx(400.0)
    assert calibrate(info, "/info", (480, 640), 0.0).focal == pytest.approx(500.0)


@pytest.mark.parametrize("info", [None, CameraInfo(), CameraInfo(width=640, height=480, k=[math.nan] * 9)])
def test_without_a_focal_length_there_is_a_sentence_or_an_assumption(info):
    nothing = calibrate(info, "/info", (480, 640), 0.0)
    assert nothing.focal is None and nothing.info is None and "camera_info" in nothing.problem
    assumed = calibrate(info, "/info", (480, 640), 90.0)
    assert assumed.focal == pytest.approx(320.0)
    # Without any calibration an assumption is what was asked for; one that cannot be used is a problem.
    said, other = (assumed.remark, assumed.problem) if info is None else (assumed.problem, assumed.remark)
    assert "90 degrees is assumed" in said and other is None


class Silent:
    """A node whose subscriptions hear nothing."""

    def create_subscription(self, *_: object, **__: object) -> object:
        return SimpleNamespace(topic_name="/info")

    def resolve_topic_name(self, topic: str) -> str:
        return topic


def stamped(seconds: int, width: int) -> CameraInfo:
    message = CameraInfo(width=width)
    message.header.stamp.sec = seconds
    return message


def test_the_newest_calibration_whether_it_comes_once_or_again_and_again():
    now = [100.0]
    settings = CameraSettings("front", "/image", "/info", False, False, 0.0, False)
    source = CameraInput(Silent(), settings, lambda *_: None, lambda: now[0])
    assert source.info is None
    for seconds, width in ((5, 640), (3, 320)):  # two who published once; the older one is heard last
        source._latched_info(stamped(seconds, width))
    assert source.info.width == 640
    for seconds in (10, 11):
        source._camera_info(stamped(seconds, 1280))
        source._latched_info(stamped(seconds - 4, 640))
        assert source.info.width == 1280  # never in place of a newer one, while that goes on
    now[0] += 5.0
    source._latched_info(stamped(2, 848))  # another recording, of an earlier day
    assert source.info.width == 848
    now[0] += 1.0
    source._camera_info(stamped(3, 424))
    assert source.info.width == 424


def test_pictures_that_are_taken_for_not_rectified_are_remarked_upon():
    plain, bent, cropped = (pinhole(500.0, (480, 640)) for _ in range(3))
    bent.d = [-0.3, 0.1, 0.0, 0.0, 0.0]
    cropped.p[0] = 400.0
    assert calibrate(plain, "/info", (480, 640), 0.0).remark is None
    assert "lens's distortion" in calibrate(bent, "/info", (480, 640), 0.0).remark
    assert "fx 500, in P 400" in calibrate(cropped, "/info", (480, 640), 0.0).remark
    for info in (bent, cropped):
        assert calibrate(info, "/info", (480, 640), 0.0, rectified=True).remark is None
        assert calibrate(info, "/info", (480, 640), 0.0).problem is None


def test_what_a_driver_left_empty_is_filled_in_for_who_divides_by_it():
    info = pinhole(500.0, (480, 640))
    expected = pinhole(250.0, (240, 320))
    without_p, without_k = (pinhole(500.0, (480, 640)) for _ in range(2))
    without_p.p, without_p.r = [0.0] * 12, [0.0] * 9
    without_k.k = [0.0] * 9
    for given in (info, without_p, without_k):
        made = scaled_info(given, (240, 320), (480, 640))
        for name in ("k", "p", "r"):
            np.testing.assert_allclose(getattr(made, name), getattr(expected, name), err_msg=name)


def test_the_log_repeats_nothing_for_ten_seconds_and_numbers_are_no_news():
    throttle = Throttle()
    assert throttle.passes("size 10x20 is wrong", 0.0)
    assert not throttle.passes("size 11x20 is wrong", 1.0)
    assert throttle.passes("encoding rgb is wrong", 1.0)
    assert throttle.passes("size 11x20 is wrong", 11.0)
    for camera in ("cam0", "cam1", "/rig/2"):  # numbers in names are
        assert throttle.passes(f"camera {camera}: no frame for 3.5 s", 12.0)
        assert not throttle.passes(f"camera {camera}: no frame for 12 s", 13.0)
    for i in range(1000):
        throttle.passes("x" * i, 12.0)
    assert len(throttle._last) <= 64


def report(**changes) -> CameraReport:
    meter = Meter(["front"], 0.0)
    meter.count("front", "received", 30)
    for _ in range(30):
        meter.answered("front", 20.0, late=False)
    usual = {"image_topic": "/image", "info_topic": "/info", "silence": "nobody publishes /image", "since_frame": 0.02}
    return CameraReport(**(usual | {"window": meter.window(1.0).cameras["front"]} | changes))


@pytest.mark.parametrize(
    "changes, level, words",
    [
        ({}, DiagnosticStatus.OK, "answering"),
        ({"since_frame": None}, DiagnosticStatus.STALE, "no frame yet: nobody publishes"),
        ({"since_frame": 3.0}, DiagnosticStatus.STALE, "no frame for 3.0 s"),
        ({"failed": 2, "last_error": "unknown encoding"}, DiagnosticStatus.WARN, "2 frames failed: unknown encoding"),
        ({"dropped": 2}, DiagnosticStatus.OK, "answering"),
        ({"dropped": 12}, DiagnosticStatus.WARN, "12 frames dropped"),
        ({"late": 1}, DiagnosticStatus.WARN, "deadline"),
        ({"problem": "no depth: no camera_info"}, DiagnosticStatus.WARN, "no depth"),
        ({"lacking": "the slow network failed: memory"}, DiagnosticStatus.WARN, "the slow network failed"),
    ],
)
def test_a_camera_is_ok_stale_or_has_a_warning(changes, level, words):
    status = camera_status("perception", "front", report(**changes), stale_after=2.0)
    assert status.level == level and words in status.message
    values = {value.key: value.value for value in status.values}
    assert values["frames received"] == "30" and values["latency p50 ms"] == "20.000"


def test_a_camera_of_which_all_frames_fail_is_an_error():
    window = Meter(["front"], 0.0).window(1.0).cameras["front"]
    failing = report(window=window, failed=3, last_error="OutOfMemoryError: CUDA out of memory")
    status = camera_status("perception", "front", failing, stale_after=2.0)
    assert status.level == DiagnosticStatus.ERROR and "3 frames failed: OutOfMemoryError" in status.message


def test_a_camera_that_nobody_wants_is_told_from_one_that_is_not_answered():
    window = Meter(["front"], 0.0).window(1.0).cameras["front"]
    for idle, words in ((12, "nobody subscribes"), (0, "no frame was answered")):
        status = camera_status("perception", "front", report(window=window, idle=idle), stale_after=2.0)
        assert status.level == DiagnosticStatus.OK and words in status.message
    budget = ComputeBudget(stages=[StageTiming(name="total", p95_ms=math.nan)])
    assert budget_status("perception", budget, 100.0).message == "no frame was answered"


def test_a_lasting_lack_of_keyframes_is_a_problem_and_a_start_is_none():
    noted, none = Noted(), KeyframeState(0, math.nan, 0)
    assert [noted.lacking(none, 30) for _ in range(2)] == [None, None]
    assert noted.lacking(none, 30) == "30 frames answered without a keyframe: the slow network gives none"
    assert noted.lacking(KeyframeState(7, 0.2, 6), 0) is None
    said = [noted.lacking(KeyframeState(7, 0.2, 6), 1) for _ in range(3)]  # young when it is asked for, old when used
    assert said[:2] == [None, None] and "older than keyframe.max_age" in said[2]
    assert noted.lacking(none, 0) is None  # nobody is answered at all
    assert noted.lacking(KeyframeState(7, 0.2, 6, problem="out of memory"), 30) == "out of memory"
