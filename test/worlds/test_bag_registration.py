"""A depth camera beside the colour camera: readings land where the colour camera sees them, or it is said why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mila_ros.worlds.bag_registration import Registration, chain
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.bags import Bag
from mila_ros.worlds.frames import Intrinsics

COLOR_CAMERA = Intrinsics(100.0, 100.0, 63.5, 47.5, 128, 96)
DEPTH_CAMERA = Intrinsics(80.0, 80.0, 59.5, 39.5, 120, 80)
BASELINE = 0.05
COLOR, DEPTH = "/cam/color/image_raw", "/cam/depth/image_rect_raw"
START = 1_600_000_000_000_000_000


def step_scene(camera: Intrinsics, x_offset: float) -> np.ndarray:
    """A wall 2 m away with a board of 0.4 x 0.4 m 1 m away in front of it, seen from x_offset metres right of it."""
    rows, columns = np.mgrid[: camera.height, : camera.width]
    x, y = (columns - camera.cx) / camera.fx + x_offset, (rows - camera.cy) / camera.fy
    board = (np.abs(x) < 0.2) & (np.abs(y) < 0.2)
    return np.where(board, 1.0, 2.0).astype(np.float32)


def test_readings_land_where_the_color_camera_sees_them() -> None:
    pose = np.eye(4)
    pose[0, 3] = BASELINE  # the depth camera stands 5 cm right of the colour camera
    found = Registration(DEPTH_CAMERA, pose).apply(step_scene(DEPTH_CAMERA, BASELINE), COLOR_CAMERA)
    truth = step_scene(COLOR_CAMERA, 0.0)
    known = np.isfinite(found)
    assert known[30:66, 30:90].mean() > 0.9
    assert (np.abs(found - truth)[known] < 1e-3).mean() > 0.97
    assert set(np.unique(found[known])) == {1.0, 2.0}, "something was made up between two surfaces"


def test_the_nearest_surface_wins_and_nothing_known_stays_unknown() -> None:
    camera = Intrinsics(10.0, 10.0, 1.0, 0.0, 3, 1)
    metres = np.array([[5.0, np.nan, 0.0]], np.float32)
    same = Registration(camera, np.eye(4)).apply(metres, camera)
    np.testing.assert_array_equal(same, [[5.0, np.nan, np.nan]])
    one = Intrinsics(0.1, 0.1, 0.0, 0.0, 1, 1)  # all readings fall on one pixel
    assert Registration(camera, np.eye(4)).apply(np.array([[5.0, 1.5, 3.0]], np.float32), one) == 1.5


def transform(bag: BagWriter, parent: str, child: str, x: float, stamp: int = START):
    new = bag.messages.new
    return new(
        "geometry_msgs/msg/TransformStamped",
        header=bag.messages.header(stamp, parent),
        child_frame_id=child,
        transform=new(
            "geometry_msgs/msg/Transform",
            translation=new("geometry_msgs/msg/Vector3", x=x, y=0.0, z=0.0),
            rotation=new("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
        ),
    )


def write(path: Path, calibrated: bool = True, connected: bool = True) -> Path:
    """Three frames of the scene by both cameras; the transforms go through a common link."""
    with BagWriter(path) as bag:
        links = [transform(bag, "link", "color_optical", 0.02)]
        if connected:
            links.append(transform(bag, "link", "depth_optical", 0.02 + BASELINE))
        bag.write_message("/tf_static", bag.messages.new("tf2_msgs/msg/TFMessage", transforms=links), START)
        for i in range(3):
            stamp = START + i * 33_333_333
            picture = np.full((96, 128, 3), 100, np.uint8)
            bag.write_message(COLOR, bag.messages.image(picture, "rgb8", stamp, "color_optical"), stamp)
            info = bag.messages.camera_info(COLOR_CAMERA, stamp, "color_optical")
            bag.write_message("/cam/color/camera_info", info, stamp)
            depth = (step_scene(DEPTH_CAMERA, BASELINE) * 1000).astype(np.uint16)
            bag.write_message(DEPTH, bag.messages.image(depth, "16UC1", stamp, "depth_optical"), stamp)
            if calibrated:
                info = bag.messages.camera_info(DEPTH_CAMERA, stamp, "depth_optical")
                bag.write_message("/cam/depth/camera_info", info, stamp)
    return path


def test_a_recording_of_two_cameras(tmp_path: Path) -> None:
    with Bag(write(tmp_path / "bag")) as bag:
        assert bag.depth_topic == DEPTH and bag.registration is not None
        frames = list(bag.frames())
    assert len(frames) == 3
    for frame in frames:
        known = np.isfinite(frame.depth)
        assert known.mean() > 0.5
        assert (np.abs(frame.depth - step_scene(COLOR_CAMERA, 0.0))[known] < 2e-3).mean() > 0.97


@pytest.mark.parametrize(
    ("missing", "words"), [("calibrated", "it has no camera_info"), ("connected", "does not connect 'depth_optical'")]
)
def test_what_is_missing_is_said(tmp_path: Path, missing: str, words: str) -> None:
    path = write(tmp_path / "bag", **{missing: False})
    with Bag(path) as bag:
        assert bag.depth_topic is None and bag.registration is None
        assert bag.registration_problem is not None and words in bag.registration_problem
        assert "it is not used" in bag.registration_problem
    with Bag(path, depth=DEPTH) as bag:  # whoever names it knows better
        assert bag.depth_topic == DEPTH and bag.registration is None
        assert "taken for registered" in str(bag.registration_problem)


def test_chains_go_both_ways_and_turn() -> None:
    class Of:
        def __init__(self, **values) -> None:
            self.__dict__.update(values)

    half = Of(x=0.0, y=0.0, z=np.sin(np.pi / 4), w=np.cos(np.pi / 4))  # a quarter turn about z
    turned = Of(
        header=Of(frame_id="a"),
        child_frame_id="/b",
        transform=Of(translation=Of(x=1.0, y=0.0, z=0.0), rotation=half),
    )
    there, back = chain([turned], "a", "b"), chain([turned], "b", "a")
    assert there is not None and back is not None
    np.testing.assert_allclose(there @ [1, 0, 0, 1], [1, 1, 0, 1], atol=1e-12)
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-12)
    assert chain([turned], "a", "c") is None
    none = Of(
        header=Of(frame_id="a"),
        child_frame_id="c",
        transform=Of(translation=turned.transform.translation, rotation=Of(x=0, y=0, z=0, w=0)),
    )
    assert chain([none], "a", "c") is None


def test_readings_that_are_no_number_make_up_nothing() -> None:
    pose = np.eye(4)
    pose[2, 3] = 0.02  # what is not known would come to lie 2 cm before the camera
    for nothing in (np.inf, -np.inf, np.nan, 0.0, -1.0):
        metres = np.full((80, 120), 2.0, np.float32)
        metres[40, 60] = nothing
        found = Registration(DEPTH_CAMERA, pose).apply(metres, COLOR_CAMERA)
        assert set(np.unique(found[np.isfinite(found)])) == {np.float32(2.02)}
