"""Geometry of depth pictures: the view from a moved camera.

Everything is batched torch, on whatever device the tensors are. Axes: x right, y down, z forward (REP 103).
Intrinsics are (B, 4) tensors: fx, fy, cx, cy in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_rays(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Points at z = 1 through each pixel's centre: (B, 4) -> (B, 3, H, W)."""
    fx, fy, cx, cy = (value.view(-1, 1, 1) for value in intrinsics.unbind(dim=1))
    v, u = torch.meshgrid(
        torch.arange(height, device=intrinsics.device, dtype=intrinsics.dtype),
        torch.arange(width, device=intrinsics.device, dtype=intrinsics.dtype),
        indexing="ij",
    )
    x, y = (u[None] - cx) / fx, (v[None] - cy) / fy
    return torch.stack([x, y, torch.ones_like(x)], dim=1)


_USUAL_DEPTH = 10.0
"""Metres, for pictures of which no depth is known at all."""


def without_holes(depth: Tensor) -> Tensor:
    """Depth for moving a camera, where something must be assumed: (B, H, W), unknown <= 0 or NaN -> same, all known.

    A hole gets its picture's median, a picture without any depth stands 10 m away like a wall.
    """
    known = torch.isfinite(depth) & (depth > 0)
    filled = []
    for picture, valid in zip(depth, known, strict=True):
        usual = picture[valid].median() if bool(valid.any()) else picture.new_tensor(_USUAL_DEPTH)
        filled.append(torch.where(valid, picture, usual))
    return torch.stack(filled)


class Reprojection(NamedTuple):
    """Which pixel of a picture another camera sees at each of its own."""

    source: Tensor
    """(B, H, W), int64: index into the picture's H * W pixels; 0 where nothing is seen."""
    seen: Tensor
    """(B, H, W), bool: False in holes."""
    depth: Tensor
    """(B, H, W), metres from the other camera; 0 in holes."""

    def carry(self, values: Tensor) -> Tensor:
        """What belongs to the pixels that are seen: (B, C, H, W) -> same; meaningless in holes."""
        return (
            values.flatten(2).gather(2, self.source.flatten(1)[:, None].expand(-1, values.shape[1], -1)).view_as(values)
        )


def reproject(depth: Tensor, intrinsics: Tensor, motion: Tensor) -> Reprojection:
    """Forward warp with a depth test.

    Args:
        depth: (B, H, W), metres, known everywhere (fill it first).
        intrinsics: (B, 4), of both cameras.
        motion: (B, 4, 4), from this camera's frame to the other's.
    """
    b, h, w = depth.shape
    points = pixel_rays(intrinsics, h, w) * depth[:, None]
    moved = torch.einsum("bij,bjhw->bihw", motion[:, :3, :3], points) + motion[:, :3, 3, None, None]
    fx, fy, cx, cy = (value.view(-1, 1, 1) for value in intrinsics.unbind(dim=1))
    z = moved[:, 2]
    u = (moved[:, 0] / z.clamp(min=1e-3) * fx + cx).round()
    v = (moved[:, 1] / z.clamp(min=1e-3) * fy + cy).round()
    ahead = z > 0.05
    # Each pixel paints a 2x2 patch, so that surfaces coming closer do not tear into a grid of holes; the three
    # further ones count as a little deeper, or every slanted surface would be covered by its neighbours' spill.
    best = torch.full((b, h * w), _FAR, dtype=torch.int64, device=depth.device)
    order = torch.arange(h * w, device=depth.device).view(1, h, w)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        uu, vv = u + dx, v + dy
        ok = ahead & (uu >= 0) & (uu < w) & (vv >= 0) & (vv < h)
        target = torch.where(ok, vv * w + uu, torch.zeros_like(uu)).long()
        deeper = z.clamp(0, 100) * (1.02 if dx or dy else 1.0)
        value = torch.where(ok, ((deeper * 1e5).long() << 24) | order, _FAR)
        best.scatter_reduce_(1, target.view(b, -1), value.view(b, -1), reduce="amin")
    seen = best < _FAR
    source = torch.where(seen, best & ((1 << 24) - 1), 0)
    distance = z.reshape(b, h * w).gather(1, source) * seen
    return Reprojection(source.view(b, h, w), seen.view(b, h, w), distance.view(b, h, w))


def flow_to(depth: Tensor, intrinsics: Tensor, motion: Tensor) -> Tensor:
    """Optical flow of a still scene: where what each pixel shows is in another camera's picture.

    Args:
        depth: (B, H, W), metres; 0 or NaN where unknown.
        intrinsics, motion: see `reproject`.

    Returns:
        (B, 2, H, W), pixels to the right and down; NaN where depth is unknown or the place lies behind that camera.
        Whether something stands before it there is not looked at.
    """
    _, h, w = depth.shape
    rays = pixel_rays(intrinsics, h, w)
    moved = torch.einsum("bij,bjhw->bihw", motion[:, :3, :3], rays * depth[:, None]) + motion[:, :3, 3, None, None]
    z = moved[:, 2:]
    focal = intrinsics[:, :2, None, None]
    there = moved[:, :2] / z * focal - rays[:, :2] * focal
    return torch.where((depth[:, None] > 0) & (z > 0.05), there, torch.nan)


def moved_view(rgb: Tensor, depth: Tensor, intrinsics: Tensor, motion: Tensor) -> Tensor:
    """What a camera elsewhere would have seen: reprojected, holes filled.

    Args:
        rgb: (B, 3, H, W), float.
        depth, intrinsics, motion: see `reproject`.

    Returns:
        (B, 3, H, W): the other camera's picture. Places that no pixel reaches take the colour of the nearest
        pixels around them; background is preferred, since holes open behind things.
    """
    return painted(rgb, reproject(depth, intrinsics, motion))


def painted(rgb: Tensor, view: Reprojection) -> Tensor:
    """The picture of a reprojection with its holes filled: (B, 3, H, W) -> same."""
    return _fill(view.carry(rgb), view.depth[:, None], view.seen[:, None])


_FAR = 1 << 62


def _fill(colours: Tensor, distance: Tensor, seen: Tensor) -> Tensor:
    """Fill unseen pixels from a pyramid of averages of the seen ones, far ones weighing more."""
    weight = seen.to(colours.dtype) * distance.clamp(0.1, 20.0) ** 2
    levels = [(colours * weight, weight)]
    while min(levels[-1][0].shape[-2:]) > 2:
        c, k = levels[-1]
        levels.append((F.avg_pool2d(c, 2, ceil_mode=True), F.avg_pool2d(k, 2, ceil_mode=True)))
    c, k = levels[-1]
    filled = c / k.clamp(min=1e-6)
    for c, k in reversed(levels[:-1]):
        finer = F.interpolate(filled, size=c.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(k > 1e-6, c / k.clamp(min=1e-6), finer)
    return torch.where(seen, colours, filled)


def rotation(angles: Tensor) -> Tensor:
    """Rotation matrices of rotation vectors in radians: (B, 3) -> (B, 3, 3)."""
    zero = torch.zeros_like(angles[:, 0])
    x, y, z = angles.unbind(dim=1)
    skew = torch.stack([torch.stack([zero, -z, y], 1), torch.stack([z, zero, -x], 1), torch.stack([-y, x, zero], 1)], 1)
    return torch.linalg.matrix_exp(skew)
