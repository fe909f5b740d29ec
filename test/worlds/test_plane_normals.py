"""Normals of planes are found; across edges, without depth and from behind none is claimed."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from mila_ros.worlds.frames import Intrinsics
from mila_ros.worlds.plane_normals import fitted_normals

CAMERA = Intrinsics(260.0, 260.0, 159.5, 119.5, 320, 240)


def plane(normal: npt.NDArray[np.float64], distance: float) -> npt.NDArray[np.float32]:
    """Depth of the plane normal . X = -distance, seen by CAMERA."""
    x = (np.arange(320) - CAMERA.cx) / CAMERA.fx
    y = ((np.arange(240) - CAMERA.cy) / CAMERA.fy)[:, None]
    return (-distance / (normal[0] * x + normal[1] * y + normal[2])).astype(np.float32)


@pytest.mark.parametrize("angles", [(0.0, 0.0), (0.6, 0.0), (-0.3, 0.5)])
def test_the_normal_of_a_plane(angles: tuple[float, float]) -> None:
    tilt, pan = angles
    normal = np.array([np.sin(pan), np.sin(tilt), -np.cos(tilt) * np.cos(pan)])
    normal = normal / np.linalg.norm(normal)
    found = fitted_normals(plane(normal, 2.0), CAMERA)
    valid = np.isfinite(found).all(axis=-1)
    assert found.dtype == np.float32 and valid.mean() > 0.95
    np.testing.assert_allclose(np.linalg.norm(found[valid], axis=-1), 1.0, atol=1e-5)
    assert np.rad2deg(np.arccos(np.clip(found[valid] @ normal, -1, 1))).max() < 0.5


def test_no_normal_is_claimed_across_an_edge_or_without_depth() -> None:
    depth = np.full((240, 320), 2.0, np.float32)
    depth[:, 160:] = 3.0
    depth[:60, :100] = np.nan
    depth[200:, :60] = 0.0
    valid = np.isfinite(fitted_normals(depth, CAMERA, window=21)).all(axis=-1)
    assert not valid[80:, 152:168].any()
    assert valid[100:180, 20:140].all()
    assert not valid[:40, :80].any() and not valid[200:, :60].any()


def test_the_fit_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    depth = (plane(np.array([0.3, 0.2, -0.9]), 2.0) * (1 + rng.normal(0, 0.003, (240, 320)))).astype(np.float32)
    depth[100:104, 97:105] = np.nan
    found = fitted_normals(depth, CAMERA, window=9)
    for row, column in ((50, 60), (106, 100), (200, 300), (3, 2)):
        window = np.s_[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5]
        v, u = (index[window] for index in np.mgrid[:240, :320])
        known = np.isfinite(depth[window])
        rays = [(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u)]
        rows = np.stack([ray[known] for ray in rays], axis=-1)
        fitted = np.linalg.lstsq(rows, 1.0 / depth[window][known].astype(np.float64), rcond=None)[0]
        np.testing.assert_allclose(found[row, column], -fitted / np.linalg.norm(fitted), atol=1e-5)


@pytest.mark.parametrize("size", [(120, 160), (240, 320), (101, 133), (300, 400)])
def test_normals_of_another_size_are_those_of_the_nearest_pixels(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    depth = (plane(np.array([0.3, 0.2, -0.9]), 2.0) * (1 + rng.normal(0, 0.01, (240, 320)))).astype(np.float32)
    depth[:, 160:] += 1
    whole = cv2.resize(fitted_normals(depth, CAMERA), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    np.testing.assert_array_equal(fitted_normals(depth, CAMERA, size=size), whole)


def test_a_picture_without_depth_has_no_normals() -> None:
    assert np.isnan(fitted_normals(np.zeros((24, 32), np.float32), CAMERA.scaled(32, 24))).all()
