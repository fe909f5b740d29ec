"""worlds/rendered_casting.py: every solid is hit where it begins, and no culling loses a hit.

The reference steps along each ray in half millimetres and asks, with formulas of its own, whether it is inside.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mila_ros.worlds import rendered_casting as casting
from mila_ros.worlds.rendered_casting import BALL, BOX, CAPSULE, COLUMN, Solids
from mila_ros.worlds.rendered_paths import optical_pose

SIZE = 16
INTRINSICS = torch.tensor([[18.0, 18.0, 7.5, 7.5]])


def turned(rng):
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.sign(np.linalg.det(q))


def solids(rows):
    """Solids of one frame from (kind, map (3, 4), shape), given in the order of kinds."""
    kinds = [k for k, _, _ in rows]
    forward = torch.tensor(np.stack([m for _, m, _ in rows]), dtype=torch.float32)[None]
    shape = torch.tensor([[s for _, _, s in rows]], dtype=torch.float32)
    extent = torch.ones(1, len(rows), 3)
    spans = {k: slice(kinds.index(k), kinds.index(k) + kinds.count(k)) for k in sorted(set(kinds))}
    if COLUMN in spans:
        extent[:, spans[COLUMN], :2] = 1 + shape[:, spans[COLUMN], None].abs()
    if CAPSULE in spans:
        extent[:, spans[CAPSULE], 2] = 1 + shape[:, spans[CAPSULE]]
    valid = torch.ones(1, len(rows), dtype=torch.bool)
    return Solids(forward, casting.invert(forward), shape, extent, valid, valid, spans)


def placed(rng, kind, centre, half, shape=0.0):
    return kind, np.concatenate((turned(rng) * half, np.reshape(centre, (3, 1))), 1), shape


def inside(kind, forward, shape, point):
    """Whether world points (..., 3) lie in a solid, in metres from its axes."""
    axes, centre = forward[:, :3], forward[:, 3]
    size = np.linalg.norm(axes, axis=0)
    metres = (point - centre) @ (axes / size)
    x, y, z = np.moveaxis(metres, -1, 0)
    if kind == BOX:
        return (np.abs(metres) <= size).all(-1)
    if kind == BALL:
        return ((metres / size) ** 2).sum(-1) <= 1
    if kind == COLUMN:
        return (np.abs(z) <= size[2]) & (np.hypot(x / size[0], y / size[1]) <= 1 + shape * z / size[2])
    length = shape * size[0]
    return np.linalg.norm(np.stack((x, y, z - np.clip(z, -length, length)), -1), axis=-1) <= size[0]


CASES = [
    (BOX, (0.3, 0.2, 0.4), 0.0),
    (BALL, (0.4, 0.2, 0.3), 0.0),
    (COLUMN, (0.3, 0.3, 0.4), 0.0),
    (COLUMN, (0.3, 0.2, 0.4), 0.4),
    (COLUMN, (0.3, 0.3, 0.4), -0.35),
    (CAPSULE, (0.2, 0.2, 0.2), 1.5),
]


@pytest.mark.parametrize(("kind", "half", "shape"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_a_solid_is_hit_where_it_begins(kind, half, shape, seed):
    rng = np.random.default_rng(seed)
    row = placed(rng, kind, rng.uniform(-0.1, 0.1, 3) + (1.4, 0, 1), np.array(half), shape)
    pose = optical_pose(np.array([[0.0, 0.0, 1.0]]), np.zeros(1), np.zeros(1), np.array([0.3]))
    depth, index = casting.cast_camera(solids([row]), torch.tensor(pose, dtype=torch.float32), INTRINSICS, SIZE, SIZE)
    fx, fy, cx, cy = INTRINSICS[0].numpy()
    v, u = np.mgrid[:SIZE, :SIZE]
    ray = np.stack(((u - cx) / fx, (v - cy) / fy, np.ones_like(u)), -1) @ pose[0, :3, :3].T
    along = np.arange(0.3, 2.6, 0.0005)
    within = inside(*row, pose[0, :3, 3] + ray[:, :, None] * along[:, None])
    expected = np.where(within.any(-1), along[within.argmax(-1)], np.inf)
    hit, wanted = np.isfinite(depth[0].numpy()), np.isfinite(expected)
    # Where a ray only grazes the solid, steps of half a millimetre may miss it.
    assert (hit == wanted).mean() > 0.99 and wanted.sum() > 20
    both = hit & wanted
    assert np.abs(depth[0].numpy()[both] - expected[both]).max() < 0.0006
    assert int(index.max()) == 0


@pytest.mark.parametrize(("kind", "half", "shape"), CASES)
def test_normals_stand_on_the_surface(kind, half, shape):
    """A step out along the normal leaves the solid, a step back enters it, and a step aside does neither by much."""
    rng = np.random.default_rng(7)
    row = placed(rng, kind, (1.4, 0, 1), np.array(half), shape)
    pose = optical_pose(np.array([[0.0, 0.0, 1.0]]), np.zeros(1), np.zeros(1), np.zeros(1))
    scene, eye = solids([row]), torch.tensor(pose, dtype=torch.float32)
    depth, index = casting.cast_camera(scene, eye, INTRINSICS, SIZE, SIZE)
    fx, fy, cx, cy = INTRINSICS[0]
    v, u = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    ray = torch.stack(((u - cx) / fx, (v - cy) / fy, torch.ones_like(u)), -1)
    point = ((ray * depth[0, ..., None]) @ eye[0, :3, :3].T + eye[0, :3, 3])[torch.isfinite(depth[0])]
    normal, _ = casting.surface(scene, torch.zeros(1, len(point), dtype=torch.int64), point[None])
    out, back = (point + s * 1e-3 * normal[0] for s in (1, -1))
    assert not inside(*row, out.numpy().astype(float)).any()
    # At a sharp rim a step back may leave by the other side.
    assert inside(*row, back.numpy().astype(float)).mean() > 0.97
    assert torch.allclose(normal.norm(dim=-1), torch.ones(()), atol=1e-5)
    aside = torch.nn.functional.normalize(
        torch.cross(normal[0], torch.tensor([[0.3, 0.5, 0.8]]).expand_as(point), dim=-1), dim=-1
    )
    tangent = (point + 4e-3 * aside - 1e-3 * normal[0]).numpy().astype(float)
    assert inside(*row, tangent).mean() > 0.9


@pytest.fixture(scope="module")
def crowd():
    rng = np.random.default_rng(3)
    rows = []
    for kind in (BOX, BALL, COLUMN, CAPSULE):
        for _ in range(12):
            half = rng.uniform(0.03, 0.5, 3) if kind == BOX else np.repeat(rng.uniform(0.05, 0.25), 3)
            shape = {COLUMN: rng.uniform(-0.4, 0.4), CAPSULE: rng.uniform(0.2, 3)}.get(kind, 0.0)
            rows.append(placed(rng, kind, rng.uniform((-1.5, -1.5, 0), (1.5, 1.5, 2)), half, shape))
    return solids(rows)


@pytest.mark.parametrize("seed", range(4))
def test_culling_by_tiles_loses_nothing(crowd, monkeypatch, seed):
    """From the middle of the crowd, where boxes reach behind the camera."""
    rng = np.random.default_rng(seed)
    pose = optical_pose(
        np.array([[0.2, 0.1, 1.0]]), rng.uniform(-3, 3, 1), rng.normal(0, 0.4, 1), rng.normal(0, 0.3, 1)
    )
    eye = torch.tensor(pose, dtype=torch.float32)
    camera = torch.tensor([[60.0, 60.0, 39.5, 31.5]])
    culled = casting.cast_camera(crowd, eye, camera, 64, 80)
    everything = torch.full(crowd.shape.shape, torch.inf)
    monkeypatch.setattr(casting, "_screen_boxes", lambda *_: (-everything, everything, -everything, everything))
    full = casting.cast_camera(crowd, eye, camera, 64, 80)
    assert torch.equal(culled[0], full[0])
    assert torch.equal(culled[1], full[1])
    assert bool(torch.isfinite(full[0]).any())


def test_culling_of_segments_loses_nothing(crowd):
    generator = torch.Generator().manual_seed(1)
    middle = torch.rand(1, 6, 1, 3, generator=generator) * 2 - torch.tensor([1.0, 1.0, 0.0])
    start = middle + 0.1 * torch.randn(1, 6, casting.TILE**2, 3, generator=generator)
    goal = torch.tensor([0.3, -0.2, 2.2]) + 0.1 * torch.randn(1, 6, casting.TILE**2, 3, generator=generator).clamp(
        -2, 2
    )
    centre = 0.5 * (start.amin(2) + start.amax(2))
    reach, size = torch.tensor([0.3, -0.2, 2.2]) - centre, 0.5 * (start.amax(2) - start.amin(2)).norm(dim=-1)
    spread = size.clamp_min(0.36)
    culled = casting.cast_segments(crowd, start, goal - start, crowd.casts, reach, spread)
    full = casting.cast_segments(crowd, start, goal - start, crowd.casts, reach, spread + 100)
    assert torch.equal(culled.clamp(max=1), full.clamp(max=1))
    assert 0.05 < float((full < 1).float().mean()) < 0.95


def test_only_what_casts_shadows_is_in_the_way(crowd):
    start = torch.zeros(1, 1, casting.TILE**2, 3)
    step = torch.tensor([2.0, 0.0, 2.0]).expand_as(start)
    none = torch.zeros_like(crowd.casts)
    free = casting.cast_segments(crowd, start, step, none, step[:, :, 0], torch.full((1, 1), 9.0))
    assert bool((free == 1).all())


def test_tiles_and_back():
    image = torch.arange(2 * 32 * 48 * 3).view(2, 32, 48, 3)
    tiles = casting.to_tiles(image)
    assert tiles.shape == (2, 6, 256, 3)
    assert torch.equal(tiles[1, 4, 17], image[1, 17, 17])
    assert torch.equal(casting.from_tiles(tiles, 32, 48), image)
