"""worlds/rendered.py: the ground truth of clips agrees with itself, from frame to frame and picture to picture.

Left out: how good the pictures look (seen by eye), and CUDA (the same code, but not run here).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mila_ros.worlds import rendered_people as people
from mila_ros.worlds.rendered import RATE, RenderedWorld
from mila_ros.worlds.rendered_paths import optical_pose
from mila_ros.worlds.rendered_rooms import KINDS, build_scene

H, W, T = 72, 96, 3
PERSON = 30


@pytest.fixture(scope="module")
def world():
    return RenderedWorld(height=H, width=W)


@pytest.fixture(scope="module")
def clip(world):
    return world.clips(batch=5, frames=T, interval=3, seed=11, flow=True)


def rays(intrinsics):
    """(B, H, W, 3), z = 1, from the published intrinsics alone."""
    fx, fy, cx, cy = (k[:, None, None] for k in intrinsics.double().unbind(-1))
    x = ((torch.arange(W) - cx) / fx).expand(-1, H, -1)
    y = ((torch.arange(H)[:, None] - cy) / fy).expand(-1, -1, W)
    return torch.stack((x, y, torch.ones_like(x)), -1)


def points(clip, t):
    """(B, H, W, 3) in the world."""
    pose = clip.pose[:, t].double()
    local = rays(clip.intrinsics) * clip.depth[:, t].double().unsqueeze(-1)
    return (local.unsqueeze(-2) * pose[:, None, None, :3, :3]).sum(-1) + pose[:, None, None, :3, 3]


def normals_in_world(clip, t):
    normal = clip.normals[:, t].permute(0, 2, 3, 1).double()
    return (normal.unsqueeze(-2) * clip.pose[:, t, None, None, :3, :3].double()).sum(-1)


def test_shapes_and_types(clip):
    assert clip.rgb.shape == (5, T, 3, H, W) and clip.rgb.dtype == torch.uint8
    assert clip.depth.shape == (5, T, H, W) and clip.depth.dtype == torch.float32
    assert clip.labels.shape == (5, T, H, W) and clip.labels.dtype == torch.uint8
    assert clip.normals.shape == (5, T, 3, H, W) and clip.normals.dtype == torch.float32
    assert clip.intrinsics.shape == (5, 4) and clip.pose.shape == (5, T, 4, 4)
    assert clip.flow is not None and clip.flow.shape == (5, T, 2, H, W)


def test_every_pixel_has_depth_and_a_valid_label(clip):
    assert bool(torch.isfinite(clip.depth).all()) and float(clip.depth.min()) > 0
    assert set(clip.labels.unique().tolist()) <= {*range(39), 255}
    # A room: its walls and its floor are seen.
    assert {0, 1} <= set(clip.labels.unique().tolist())


def test_normals_are_unit_and_face_the_camera(clip):
    normals = clip.normals
    assert torch.allclose(normals.norm(dim=2), torch.ones(()), atol=1e-4)
    facing = (normals.permute(0, 1, 3, 4, 2) * rays(clip.intrinsics)[:, None].float()).sum(-1)
    assert float(facing.max()) < 1e-3


def test_normals_agree_with_depth_on_flat_parts(clip):
    p = points(clip, 0)
    across, down = p[:, 1:-1, 2:] - p[:, 1:-1, :-2], p[:, 2:, 1:-1] - p[:, :-2, 1:-1]
    measured = torch.nn.functional.normalize(torch.cross(down, across, dim=-1), dim=-1)
    normal = normals_in_world(clip, 0)
    middle = normal[:, 1:-1, 1:-1]
    flat = torch.ones_like(middle[..., 0], dtype=torch.bool)
    for there, at in (
        (normal[:, 1:-1, 2:], p[:, 1:-1, 2:]),
        (normal[:, 1:-1, :-2], p[:, 1:-1, :-2]),
        (normal[:, 2:, 1:-1], p[:, 2:, 1:-1]),
        (normal[:, :-2, 1:-1], p[:, :-2, 1:-1]),
    ):
        flat &= ((there * middle).sum(-1) > 0.99999) & ((middle * (at - p[:, 1:-1, 1:-1])).sum(-1).abs() < 1e-3)
    assert float(flat.double().mean()) > 0.4
    angle = torch.rad2deg(torch.acos((measured * middle).sum(-1).clamp(-1, 1)))[flat]
    assert float(angle.quantile(0.99)) < 0.3


def test_frames_agree_about_where_surfaces_are(clip):
    """Static points of a frame lie on the surfaces of the next one, to a millimetre."""
    p, then = points(clip, 0), points(clip, 1)
    pose = clip.pose[:, 1].double()
    local = ((p - pose[:, None, None, :3, 3]).unsqueeze(-1) * pose[:, None, None, :3, :3]).sum(-2)
    fx, fy, cx, cy = (k[:, None, None] for k in clip.intrinsics.double().unbind(-1))
    u = (fx * local[..., 0] / local[..., 2] + cx).round().long()
    v = (fy * local[..., 1] / local[..., 2] + cy).round().long()
    inside = (local[..., 2] > 0.05) & (u >= 0) & (u < W) & (v >= 0) & (v < H) & (clip.labels[:, 0] != PERSON)
    b = torch.arange(len(p))[:, None, None].expand_as(u)[inside]
    u, v = u[inside], v[inside]
    there, normal = then[b, v, u], normals_in_world(clip, 1)[b, v, u]
    same = normals_in_world(clip, 0)[inside].mul(normal).sum(-1) > 0.9999
    same &= (p[inside] - there).norm(dim=-1) < 0.1
    assert float(same.double().mean()) > 0.6
    off = ((p[inside] - there) * normal).sum(-1).abs()[same]
    # The rest are steps of a few millimetres between parallel faces: drawers, books, mats.
    assert float((off < 1e-3).double().mean()) > 0.95
    assert float(off.median()) < 1e-5


def test_flow_is_the_projection_of_static_points(clip):
    p = points(clip, 1)
    pose = clip.pose[:, 0].double()
    local = ((p - pose[:, None, None, :3, 3]).unsqueeze(-1) * pose[:, None, None, :3, :3]).sum(-2)
    fx, fy, cx, cy = (k[:, None, None] for k in clip.intrinsics.double().unbind(-1))
    u = fx * local[..., 0] / local[..., 2] + cx - torch.arange(W)
    v = fy * local[..., 1] / local[..., 2] + cy - torch.arange(H)[:, None]
    still = (clip.labels[:, 1] != PERSON) & (local[..., 2] > 0.3)
    error = (torch.stack((u, v), 1) - clip.flow[:, 1].double()).norm(dim=1)[still]
    assert float(error.max()) < 0.02
    assert float(clip.flow[:, 0].abs().max()) < 0.02


def test_people_move_and_flow_follows_them(world):
    rng = np.random.default_rng(4)
    scene = build_scene(rng, "dining")
    scene.footprints.clear()
    walker = people.Person(np.array([-1.0, 0.0]), np.array([1.0, 0.0]), 0.0, 1.7, 1.0, 0.5)
    people.dress(scene, walker, rng)
    times = np.array([0.0, 0.1])
    eye = optical_pose(np.tile([[0.0, -1.4, 1.2]], (2, 1)), np.full(2, np.pi / 2), np.full(2, 0.1), np.zeros(2))
    clips = world.assemble([scene], [eye], np.array([[80.0, 80.0, (W - 1) / 2, (H - 1) / 2]]), times, 1)
    clip = world.render(clips, flow=True)
    body = clip.labels[0, 1] == PERSON
    assert int(body.sum()) > 200
    # 0.1 m to the right at about 1.4 m with f = 80: the trunk was 5.7 pixels further left.
    assert float(clip.flow[0, 1, 0][body].median()) == pytest.approx(-5.7, abs=1.0)
    assert float(clip.flow[0, 1][:, ~body].abs().max()) < 0.02
    target = (torch.arange(W) + clip.flow[0, 1, 0]).round().long().clamp(0, W - 1)
    rows = (torch.arange(H)[:, None] + clip.flow[0, 1, 1]).round().long().clamp(0, H - 1)
    assert float((clip.labels[0, 0][rows, target][body] == PERSON).double().mean()) > 0.85


def test_same_seed_same_clip_and_other_seed_another(world, clip):
    again = world.clips(batch=5, frames=T, interval=3, seed=11)
    for name in ("rgb", "depth", "labels", "normals", "intrinsics", "pose"):
        assert torch.equal(getattr(again, name), getattr(clip, name)), name
    other = world.clips(batch=1, frames=1, seed=12)
    assert not torch.equal(other.depth[0, 0], clip.depth[0, 0])


def test_seedless_calls_go_on(world):
    first, second = world.clips(batch=1, frames=1), world.clips(batch=1, frames=1)
    assert not torch.equal(first.depth, second.depth)


def test_parts_of_a_clip_are_the_clip(world):
    clips = world.prepare(1, 4, 2, 5)
    whole, part = world.render(clips), world.render(clips.part(2, 2), gain=world.expose(clips))
    assert torch.equal(whole.depth[:, 2:], part.depth)
    assert torch.equal(whole.pose[:, 2:], part.pose)
    bright = [float(x.float().mean()) for x in (whole.rgb[:, 2:], part.rgb)]
    assert bright[0] == pytest.approx(bright[1], rel=0.1)


def test_antialiasing_leaves_the_truth_alone(world):
    clips = world.prepare(1, 1, 1, 21)
    plain = world.render(clips)
    smooth = RenderedWorld(height=H, width=W, supersample=2).render(clips)
    assert torch.equal(plain.depth, smooth.depth) and torch.equal(plain.labels, smooth.labels)
    difference = (plain.rgb.float() - smooth.rgb.float()).abs().mean()
    assert 0 < float(difference) < 15


def test_pictures_are_exposed_and_show_their_scene(world):
    clip = world.clips(batch=8, frames=1, seed=31)
    means = clip.rgb.float().mean((1, 2, 3, 4))
    assert bool(((means > 15) & (means < 240)).all())
    assert float(means.mean()) == pytest.approx(110, abs=45)
    # Edges of labels are edges of the picture: colours differ more across them than beside them.
    grey = clip.rgb[:, 0].float().mean(1)
    jump = (grey[..., 1:] - grey[..., :-1]).abs()
    edge = clip.labels[:, 0, :, 1:] != clip.labels[:, 0, :, :-1]
    assert float(jump[edge].mean()) > 3 * float(jump[~edge].mean())


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_rooms_render(world, kind):
    clip = world.clips(batch=1, frames=1, seed=3, kind=kind)
    assert bool(torch.isfinite(clip.depth).all())


def test_intervals_count_camera_frames(world):
    assert RATE == 30.0
    near, far = world.prepare(12, 2, 1, 8), world.prepare(12, 2, 6, 8)
    np.testing.assert_array_equal(near.forward, far.forward)
    steps = [np.linalg.norm(np.diff(c.pose[:, :, :3, 3], axis=1), axis=-1).mean() for c in (near, far)]
    assert 3 < steps[1] / steps[0] < 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"height": 4}, "too small"), ({"shadows": 4}, "shadows must be 0 to 3"), ({"supersample": 0}, "supersample")],
)
def test_impossible_worlds_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RenderedWorld(**arguments)


def test_impossible_clips_are_refused(world):
    with pytest.raises(ValueError, match="unknown kind of room 'castle'"):
        world.clips(batch=1, frames=1, kind="castle")
    with pytest.raises(ValueError, match="at least 1"):
        world.clips(batch=0, frames=1)
