"""Points from answers, without a middleware: a plane that is known, what is unknown, what was not asked for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sensor_msgs.msg import PointField
from std_msgs.msg import Header

from mila_ros.errors import UserError
from mila_ros.ros.points_out import no_obstacles, organised, point_cloud
from mila_ros.worlds.frames import Intrinsics

CAMERA = Intrinsics(fx=40.0, fy=30.0, cx=7.5, cy=5.5, width=16, height=12)


def answer(**parts) -> SimpleNamespace:
    return SimpleNamespace(**({"depth": None, "normals": None, "segmentation": None} | parts))


def test_points_of_a_slanted_plane_lie_in_it():
    u, v = np.meshgrid(np.arange(16), np.arange(12))
    normal = np.array([0.3, -0.5, -0.8])
    normal /= np.linalg.norm(normal)
    rays = np.stack([(u - 7.5) / 40.0, (v - 5.5) / 30.0, np.ones_like(u, float)], axis=-1)
    depth = (-2.0 / (rays @ normal)).astype(np.float32)
    normals = np.broadcast_to(normal.astype(np.float32), (12, 16, 3))
    labels = (u + 16 * v).astype(np.uint8)
    for stride in (1, 3):
        points = organised(answer(depth=depth, normals=normals, segmentation=labels), CAMERA, stride)
        assert points.shape == (len(range(0, 12, stride)), len(range(0, 16, stride)), 7)
        np.testing.assert_allclose(points[..., :3] @ normal, -2.0, rtol=1e-5)
        np.testing.assert_array_equal(points[..., 3:6], normals[::stride, ::stride])
        np.testing.assert_array_equal(points.view(np.uint32)[..., 6], labels[::stride, ::stride])


def test_what_is_unknown_is_not_made_up():
    depth = np.full((12, 16), 3.0, np.float32)
    depth[0, 0], depth[0, 1], depth[2, 2] = np.nan, 0.0, -1.0
    points = organised(answer(depth=depth), CAMERA, 1)
    for row, column in ((0, 0), (0, 1), (2, 2)):
        assert np.isnan(points[row, column, :3]).all()
    assert np.isfinite(points[..., :3]).all(axis=-1).sum() == 12 * 16 - 3
    assert np.isnan(points[..., 3:6]).all() and (points.view(np.uint32)[..., 6] == 255).all()


def test_classes_that_are_left_out_have_no_points():
    labels = np.zeros((12, 16), np.uint8)
    labels[6:], labels[:, 8:] = 1, 2
    depth, normals = np.full((12, 16), 3.0, np.float32), np.full((12, 16, 3), 0.5, np.float32)
    leave_out = no_obstacles(["floor", "mat"], ["wall", "floor", "mat"])
    for stride in (1, 2):
        points = organised(answer(depth=depth, normals=normals, segmentation=labels), CAMERA, stride, leave_out)
        kept = labels[::stride, ::stride] == 0
        assert (np.isfinite(points[..., :6]).all(axis=-1) == kept).all() and 0 < kept.sum() < kept.size
        assert (np.isnan(points[..., :6]).all(axis=-1) == ~kept).all()
        np.testing.assert_array_equal(points.view(np.uint32)[..., 6], labels[::stride, ::stride])


def test_a_class_that_there_is_not_is_refused():
    with pytest.raises(
        UserError, match=r'the class "flor", which there is not; did you mean "floor"\? \(classes: wall'
    ):
        no_obstacles(["wall", "flor"], ["wall", "floor"])
    with pytest.raises(UserError, match="segmentation is not offered"):
        no_obstacles(["floor"], ())
    # Without names: what a robot drives on, where there is such a class.
    assert no_obstacles([], ["wall", "road", "sidewalk", "floor mat"]) == (3, 1, 2) and no_obstacles([], ["a"]) == ()
    assert no_obstacles([], ["Wall", "Floor_Mat"]) == (1,)


def test_the_message_says_how_it_is_laid_out():
    header = Header(frame_id="optical")
    depth = np.full((12, 16), 3.0, np.float32)
    message = point_cloud(header, answer(depth=depth), CAMERA, 2)
    assert message.header == header and (message.height, message.width) == (6, 8) and message.is_dense
    assert len(message.data) == message.row_step * message.height and not message.is_bigendian
    label = message.fields[-1]
    assert (label.name, label.offset, label.datatype) == ("label", 24, PointField.UINT32)
    x = np.frombuffer(message.data, "<f4").reshape(6, 8, 7)[0, :, 0]
    np.testing.assert_allclose(x, (np.arange(0, 16, 2) - 7.5) / 40.0 * 3.0, rtol=1e-6)
    depth[0, 0] = np.nan
    assert not point_cloud(header, answer(depth=depth), CAMERA, 2).is_dense
