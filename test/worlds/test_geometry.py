"""Normals from depth, and views from elsewhere, on scenes whose answer is known."""

import math

import torch

from mila_ros.worlds.geometry import flow_to, moved_view, pixel_rays, rotation
from mila_ros.worlds.motion import random_motion

CAMERA = torch.tensor([[260.0, 260.0, 159.5, 119.5]])


def plane(normal: torch.Tensor, distance: float) -> torch.Tensor:
    """Depth of the plane normal . X = -distance, seen by CAMERA: (1, 240, 320)."""
    rays = pixel_rays(CAMERA, 240, 320)
    return -distance / (rays * normal.view(1, 3, 1, 1)).sum(dim=1)


def test_a_camera_that_stays_sees_the_same() -> None:
    torch.manual_seed(0)
    rgb = torch.rand(1, 3, 240, 320)
    slanted = plane(torch.tensor([0.0, 0.8, -0.6]), 2.0)
    seen = moved_view(rgb, slanted.clamp(0.5, 20), CAMERA, torch.eye(4)[None])
    torch.testing.assert_close(seen, rgb)


def test_a_wall_shifts_by_the_parallax_of_the_motion() -> None:
    torch.manual_seed(0)
    rgb = torch.rand(1, 3, 60, 80)
    camera = torch.tensor([[100.0, 100.0, 39.5, 29.5]])
    motion = torch.eye(4)[None].clone()
    motion[0, 0, 3] = 0.2  # 0.2 m at 2 m depth and f = 100: ten pixels to the right
    seen = moved_view(rgb, torch.full((1, 60, 80), 2.0), camera, motion)
    torch.testing.assert_close(seen[..., 10:], rgb[..., :-10])
    assert torch.isfinite(seen).all()


def test_flow_is_that_parallax_and_unknown_where_depth_is() -> None:
    camera = torch.tensor([[100.0, 80.0, 39.5, 29.5]])
    motion = torch.eye(4)[None].clone()
    motion[0, :3, 3] = torch.tensor([0.2, -0.1, 0.5])
    depth = torch.full((1, 60, 80), 2.0)
    depth[0, 5, 6], depth[0, 7, 8] = 0.0, torch.nan
    flow = flow_to(depth, camera, motion)
    known = flow.isfinite().all(dim=1)
    assert int((~known).sum()) == 2 and not known[0, 5, 6] and not known[0, 7, 8]
    # X = 2 u / fx, so u' = fx (X + 0.2) / 2.5 = (2 u + 20) / 2.5; v' = (2 v - 8) / 2.5.
    rows, columns = torch.meshgrid(torch.arange(60.0) - 29.5, torch.arange(80.0) - 39.5, indexing="ij")
    wanted = torch.stack([(columns * 2 + 20) / 2.5 - columns, (rows * 2 - 8) / 2.5 - rows])[None]
    torch.testing.assert_close(flow[:, :, known[0]], wanted[:, :, known[0]])
    motion[0, 2, 3] = -3.0  # the wall is behind that camera
    assert flow_to(depth, camera, motion).isnan().all()


def test_near_things_cover_far_ones() -> None:
    camera = torch.tensor([[100.0, 100.0, 39.5, 29.5]])
    depth = torch.full((1, 60, 80), 4.0)
    depth[:, 20:40, 30:50] = 1.0
    rgb = torch.zeros(1, 3, 60, 80)
    rgb[:, 0, 20:40, 30:50] = 1.0  # a red box before a black wall
    motion = torch.eye(4)[None].clone()
    motion[0, 0, 3] = 0.2  # the box moves 20 pixels, the wall 5
    seen = moved_view(rgb, depth, camera, motion)
    assert (seen[0, 0, 22:38, 53:67] > 0.99).all()
    # What the box hid is filled from the wall around it, not from the box.
    assert (seen[0, 0, 25:35, 38:44] < 0.5).all()


def test_rotations_are_rotations() -> None:
    turns = rotation(torch.tensor([[0.0, 0.0, 0.0], [0.0, math.pi / 2, 0.0], [0.3, -0.2, 0.1]]))
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        turns[1] @ torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]), atol=1e-5, rtol=0
    )


def test_motion_grows_with_distance_and_repeats_with_the_seed() -> None:
    near = random_motion(torch.ones(200), torch.Generator().manual_seed(3))
    far = random_motion(torch.full((200,), 10.0), torch.Generator().manual_seed(3))
    torch.testing.assert_close(far[:, :3, 3], 10 * near[:, :3, 3])
    again = random_motion(torch.ones(200), torch.Generator().manual_seed(3))
    torch.testing.assert_close(near, again)


def test_a_car_drives_ahead() -> None:
    motion = random_motion(torch.full((500,), 10.0), torch.Generator().manual_seed(3), "driven")
    # What is 20 m ahead now was further away then: up to 5 m in ten frames.
    ahead = (motion @ torch.tensor([0.0, 0.0, 20.0, 1.0]))[:, 2] - 20
    assert -0.2 < float(ahead.min()) < 0.2 and 4.5 < float(ahead.max()) < 5.1
    assert abs(float(ahead.mean()) - 2.5) < 0.2
