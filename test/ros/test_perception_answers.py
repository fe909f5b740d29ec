"""What comes with an answer of the running node (real DDS, a tiny network): how it was answered, points, obstacles."""

from __future__ import annotations

import time

import numpy as np
from mila_ros.msg import AnswerInfo
from sensor_msgs.msg import Image, PointCloud2

from mila_ros.images import decode_depth
from mila_ros.ros.cameras_in import scaled_info

from .perception_harness import IMAGE, INFO, OUT, camera_info, counters, exchange, frame, stamp, wait


def test_each_answer_says_which_keyframe_it_is_from_and_what_took_the_time(peer):
    infos = peer.listen(AnswerInfo, f"{OUT}/answer_info")
    answers = peer.listen(Image, f"{OUT}/depth/image")
    wait(lambda: peer.heard(f"{OUT}/answer_info") and peer.heard(f"{OUT}/depth/image"), "publishers")

    def from_an_earlier_keyframe():
        exchange(peer, frame(60 + len(infos)))
        wait(lambda: infos, "an answer's info")
        return infos[-1].keyframe_distance > 0

    wait(from_an_earlier_keyframe, "an answer from an earlier frame's keyframe")
    info = infos[-1]
    assert stamp(info) in {stamp(answer) for answer in answers} and info.header.frame_id == "optical"
    assert info.source == AnswerInfo.KEYFRAME and list(info.tasks) == ["depth"]
    assert 0 < info.keyframe_age_s < 60 and info.keyframe_id >= 1
    assert (info.keyframe_stamp.sec, info.keyframe_stamp.nanosec) < stamp(info)
    took = dict(zip(info.stages, info.stage_ms, strict=True))
    assert list(took) == ["decode", "upload", "fast", "ila", "heads", "download", "publish"]
    assert info.latency_ms > 0.9 * sum(took.values()) > 0
    peer.deaf(f"{OUT}/depth/image")
    # By itself it has nothing computed: nobody wants an answer.
    before = counters(peer)

    def idle():
        peer.publish(IMAGE, frame(99))
        return counters(peer).idle > before.idle

    wait(idle, "a frame that nobody wants")
    assert counters(peer).answered == before.answered
    peer.deaf(f"{OUT}/answer_info")


def test_points_lie_where_depth_and_calibration_say(peer):
    """For a rectified camera: P, which differs from K here."""
    info = camera_info()
    info.p[0], info.p[5], info.p[2], info.p[6] = 80.0, 70.0, 60.0, 50.0
    clouds, obstacles = (peer.listen(PointCloud2, f"{OUT}/{name}") for name in ("points", "obstacles"))
    depth = exchange(peer, frame(90, frame_id="front_optical"), info=info)
    pixels = decode_depth(depth)
    cloud = wait(lambda: next((cloud for cloud in clouds if stamp(cloud) == stamp(depth)), None), "points")
    assert cloud.header == depth.header and (cloud.width, cloud.height) == (depth.width // 2, depth.height // 2)
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "normal_x", "normal_y", "normal_z", "label"]
    kind = np.dtype([(field.name, "<u4" if field.name == "label" else "<f4") for field in cloud.fields])
    assert cloud.point_step == kind.itemsize and cloud.row_step == kind.itemsize * cloud.width and cloud.is_dense
    points = np.frombuffer(cloud.data, kind).reshape(cloud.height, cloud.width)
    np.testing.assert_array_equal(points["z"], pixels[::2, ::2])
    p = scaled_info(info, (depth.height, depth.width), (96, 128)).p
    across, down = np.meshgrid(np.arange(0, depth.width, 2), np.arange(0, depth.height, 2))
    np.testing.assert_allclose(points["x"], (across - p[2]) / p[0] * points["z"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(points["y"], (down - p[6]) / p[5] * points["z"], rtol=1e-4, atol=1e-5)
    length = np.sqrt(points["normal_x"] ** 2 + points["normal_y"] ** 2 + points["normal_z"] ** 2)
    np.testing.assert_allclose(length, 1, atol=1e-3)
    assert points["label"].max() < 4
    cloud = wait(lambda: next((cloud for cloud in obstacles if stamp(cloud) == stamp(depth)), None), "obstacles")
    things = np.frombuffer(cloud.data, kind).reshape(cloud.height, cloud.width)
    floor = points["label"] == 1  # of wall, floor, chair, table
    np.testing.assert_array_equal(np.isnan(things["z"]), floor)
    np.testing.assert_array_equal(things["z"][~floor], points["z"][~floor])
    peer.deaf(f"{OUT}/obstacles")

    peer.deaf(f"{OUT}/depth/image")  # points alone
    assert peer.set_parameter("points.stride", 4).successful
    clouds.clear()

    def sparse():
        peer.publish(INFO, info)
        peer.publish(IMAGE, frame(91))
        time.sleep(0.05)
        return clouds and clouds[-1].width == depth.width // 4

    wait(sparse, "fewer points")
    assert peer.set_parameter("points.stride", 2).successful
    peer.deaf(f"{OUT}/points")
