"""Guessed depth of a street: a road below the camera, things upright where they stand, the sky far."""

import numpy as np
import pytest

from mila_ros.worlds.frames import IGNORE, Intrinsics
from mila_ros.worlds.street import standing_depth

CLASSES = ("sky", "building", "pole", "road", "pavement", "car")
CAMERA = Intrinsics(400.0, 400.0, 79.5, 59.5, 160, 120)


def test_road_lies_below_things_stand_on_it_and_the_sky_is_far():
    labels = np.zeros((120, 160), np.uint8)
    labels[40:60] = 1  # houses down to the horizon
    labels[60:] = 3
    labels[30:80, 70:90] = 5  # a car that reaches down to row 80
    depth = standing_depth(labels, CLASSES, CAMERA)
    assert depth is not None and depth.dtype == np.float32 and np.isfinite(depth).all()
    assert depth[100, 10] == pytest.approx(400 * 1.4 / (100 - 59), rel=0.02)
    assert (np.diff(depth[60:, 10]) <= 0).all()  # nearer downwards
    car = depth[30:80, 80]
    assert (car == car[0]).all() and car[0] == depth[80, 80] < depth[45, 10]
    assert depth[0, 0] == depth.max() == 150


def test_what_is_cut_off_by_the_edge_is_near_and_a_picture_without_ground_is_not_guessed():
    labels = np.full((120, 160), 3, np.uint8)
    labels[50:, 150:] = 5  # a car beside the camera, its wheels out of sight
    labels[:40] = IGNORE
    depth = standing_depth(labels, CLASSES, CAMERA)
    assert depth is not None
    assert depth[60, 155] == depth[119, 0] == depth.min()
    assert depth[0, 0] == depth[40, 0] == 150  # the ground reaches above the middle: so the horizon does, too
    assert standing_depth(np.zeros((120, 160), np.uint8), CLASSES, CAMERA) is None
