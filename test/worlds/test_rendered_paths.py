"""worlds/rendered_paths.py, rendered_rooms.py and rendered_people.py: rooms that can be, ways that can be gone."""

from __future__ import annotations

import numpy as np
import pytest

from mila_ros.worlds import rendered_people as people
from mila_ros.worlds.rendered_paths import FloorPlan, camera_path, optical_pose
from mila_ros.worlds.rendered_rooms import KINDS, build_scene

RATE = 30.0


def scene_of(seed, kind=None):
    rng = np.random.default_rng([99, seed])
    return rng, build_scene(rng, kind)


def test_optical_axes():
    pose = optical_pose(np.zeros((1, 3)), np.array([np.pi / 2]), np.array([0.3]), np.zeros(1))[0]
    right, down, forward = pose[:3, :3].T
    # Looking along y: x is to the right, and a positive pitch looks down.
    np.testing.assert_allclose(right, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(forward, [0, np.cos(0.3), -np.sin(0.3)], atol=1e-12)
    np.testing.assert_allclose(np.cross(right, down), forward, atol=1e-12)
    assert down[2] < 0


@pytest.mark.parametrize("seed", range(20))
def test_cameras_move_like_robots_and_hands(seed):
    rng, scene = scene_of(seed)
    pose = camera_path(rng, scene, 90, RATE)
    position, forward = pose[:, :3, 3], pose[:, :3, 2]
    speed = np.linalg.norm(np.diff(position, axis=0), axis=1) * RATE
    turn = np.degrees(np.arccos(np.clip((forward[1:] * forward[:-1]).sum(-1), -1, 1))) * RATE
    assert speed.max() < 1.2 and np.median(speed) < 0.9
    assert turn.max() < 100 and np.median(turn) < 60
    x, y, z = scene.size
    assert (np.abs(position[:, 0]) < x / 2).all() and (np.abs(position[:, 1]) < y / 2).all()
    assert (position[:, 2] > 0.2).all() and (position[:, 2] < z - 0.1).all()
    plan = FloorPlan(scene, float(position[:, 2].max()))
    assert (plan.at(position[:, 0], position[:, 1]) > 0).all()
    rotation = pose[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (90, 1, 1)), atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_furniture_stands_in_its_room_and_not_in_each_other(kind):
    for seed in range(4):
        _, scene = scene_of(seed, kind)
        half = scene.size[:2] / 2 + 1e-6
        rects = np.array([f[:4] for f in scene.footprints if f[5] > 0.3]).reshape(-1, 4)
        assert (rects[:, :2] >= -half).all() and (rects[:, 2:] <= half).all()
        overlap = np.minimum(rects[:, None, 2:], rects[None, :, 2:]) - np.maximum(
            rects[:, None, :2], rects[None, :, :2]
        )
        depth = np.minimum(overlap[..., 0], overlap[..., 1])
        np.fill_diagonal(depth, -1)
        # Chairs may be pushed under a table.
        assert depth.max(initial=-1) < 0.3
        assert 1 <= len(scene.lights) <= 3


def test_footprints_cover_what_is_built():
    """Solids between knee and hip lie within the footprints or at the walls, so that cameras can trust them."""
    _, scene = scene_of(5, "living")
    b = scene.builder
    centre = np.array([m[:, 3] for m in b.forward])
    inside = (np.abs(centre[:, 0]) < scene.size[0] / 2 - 0.2) & (np.abs(centre[:, 1]) < scene.size[1] / 2 - 0.2)
    middle = centre[inside & (centre[:, 2] > 0.2) & (centre[:, 2] < 1.0)]
    rects = np.array([f[:4] for f in scene.footprints])
    covered = [bool(((c[:2] >= rects[:, :2] - 0.1) & (c[:2] <= rects[:, 2:] + 0.1)).all(1).any()) for c in middle]
    assert len(covered) > 20 and all(covered)


def test_free_floor_is_found_and_measured():
    _, scene = scene_of(1, "dining")
    plan = FloorPlan(scene)
    x, y = plan.somewhere(np.random.default_rng(0), 0.3)
    assert 0.25 < float(plan.at(x, y))
    assert float(plan.at(99.0, 0.0)) == 0.0
    x0, y0, x1, y1, _, _ = next(f for f in scene.footprints if f[5] > 0.3)
    assert float(plan.at((x0 + x1) / 2, (y0 + y1) / 2)) == 0.0


def test_walkers_walk():
    walker = people.Person(np.array([0.0, 0.0]), np.array([2.0, 0.0]), 0.0, 1.8, 1.0, 0.0)
    times = np.arange(0, 12, 1 / RATE)
    maps = walker.maps(times)
    head = maps[0][:, :, 3]
    assert np.ptp(head[:, 0]) == pytest.approx(2.0, abs=0.1)
    assert np.linalg.norm(np.diff(head, axis=0), axis=1).max() * RATE < 1.3
    assert 1.65 < head[:, 2].mean() < 1.8
    lowest = min(float((m[:, 2, 3] - np.linalg.norm(m[:, 2, :3], axis=-1)).min()) for m in maps)
    assert -0.06 < lowest < 0.06
    for (kind, shape), m in zip(walker.shapes, maps):
        size = np.linalg.norm(m[:, :, :3], axis=1)
        # Limbs keep their lengths, and axes stay at right angles, as the casting of rays assumes.
        np.testing.assert_allclose(size, np.broadcast_to(size[:1], size.shape), rtol=1e-9)
        dots = np.einsum("tki,tkj->tij", m[:, :, :3], m[:, :, :3])
        assert np.abs(dots - np.einsum("tij,ij->tij", dots, np.eye(3))).max() < 1e-9
        assert np.isfinite(shape) and kind in (1, 3)


def test_people_keep_clear_of_furniture_and_cameras_of_people():
    for seed in range(6):
        rng, scene = scene_of(seed, "living")
        before = FloorPlan(scene)
        people.add_people(rng, scene, 2)
        for walker in scene.walkers:
            for share in np.linspace(0, 1, 20):
                x, y = walker.start + share * (walker.end - walker.start)
                assert float(before.at(x, y)) > 0.2
                assert float(FloorPlan(scene).at(x, y)) < 0.1


def test_unknown_kind_of_room():
    with pytest.raises(ValueError, match="one of living, bedroom"):
        build_scene(np.random.default_rng(0), "castle")
