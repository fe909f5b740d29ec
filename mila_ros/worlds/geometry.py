"""Geometry of depth pictures: normals by plane fitting, and the view from a moved camera.

Everything is batched torch, on whatever device the tensors are. Axes: x right, y down, z forward (REP 103).
Intrinsics are (B, 4) tensors: fx, fy, cx, cy in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mila_ros.worlds.frames import Intrinsics


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


def normals_from_depth(
    depth: Tensor, intrinsics: Tensor, window: int = 21, tolerance: float = 0.03
) -> tuple[Tensor, Tensor]:
    """Surface normals by fitting a plane to inverse depth around each pixel.

    On a plane, 1/z is linear in pixel coordinates: 1/z = a x + b y + c with (x, y, 1) the pixel's ray, and (a, b, c)
    is along the normal. Neighbours are weighted equally over the window; where the fit misses the centre's
    depth or the window's depths by more than `tolerance` (relative), an edge runs through the window and the
    answer is marked invalid.

    Args:
        depth: (B, H, W), metres; NaN or <= 0 where unknown.
        intrinsics: (B, 4).
        window: side of the fitted square in pixels, odd.
        tolerance: largest relative root-mean-square misfit.

    Returns:
        normals (B, 3, H, W), unit, facing the camera, and validity (B, H, W), bool.
    """
    known = torch.isfinite(depth) & (depth > 1e-3)
    weight = known.to(torch.float64)
    inverse = torch.where(known, 1.0 / depth.clamp(min=1e-3), torch.zeros_like(depth)).double()
    rays = pixel_rays(intrinsics.double(), *depth.shape[-2:])
    x, y = rays[:, 0], rays[:, 1]
    products = [weight, x, y, x * x, x * y, y * y, inverse, inverse * x, inverse * y, inverse * inverse]
    stacked = torch.stack([weight] + [p * weight for p in products[1:]], dim=1)
    sums = _box_sum(stacked, window)
    n, sx, sy, sxx, sxy, syy, sz, szx, szy, szz = sums.unbind(dim=1)
    n = n.clamp(min=1.0)
    # Centred moments: better conditioned than the raw normal equations.
    mx, my, mz = sx / n, sy / n, sz / n
    cxx, cxy, cyy = sxx / n - mx * mx, sxy / n - mx * my, syy / n - my * my
    czx, czy, czz = szx / n - mz * mx, szy / n - mz * my, szz / n - mz * mz
    determinant = (cxx * cyy - cxy * cxy).clamp(min=1e-18)
    a = (czx * cyy - czy * cxy) / determinant
    b = (czy * cxx - czx * cxy) / determinant
    c = mz - a * mx - b * my
    normals = -F.normalize(torch.stack([a, b, c], dim=1), dim=1)
    misfit = (czz - a * czx - b * czy).clamp(min=0).sqrt() / mz.clamp(min=1e-6)
    at_centre = ((a * x + b * y + c - inverse).abs() / inverse.clamp(min=1e-6)) < 2 * tolerance
    enough = sums[:, 0] > 0.25 * window * window
    valid = known & enough & (misfit < tolerance) & at_centre
    # A surface seen from behind cannot be seen: such a fit is an artefact.
    valid &= (normals * rays).sum(dim=1) < 0
    return normals.to(depth.dtype), valid


def fitted_normals(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Normals of a depth picture by plane fitting: (H, W) -> (H, W, 3), NaN where no plane fits."""
    camera = torch.tensor([[intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy]])
    normals, valid = normals_from_depth(torch.from_numpy(depth)[None], camera)
    normals = normals.masked_fill(~valid[:, None], float("nan"))
    return normals[0].permute(1, 2, 0).contiguous().numpy()


def _box_sum(x: Tensor, window: int) -> Tensor:
    """Sum over a window x window square around each pixel, the outside counting as zero: (B, C, H, W) -> same.

    By running sums, whose cost does not grow with the window; in double precision, or they would cancel.
    """
    r = window // 2
    for axis in (-1, -2):
        pads = (r + 1, r, 0, 0) if axis == -1 else (0, 0, r + 1, r)
        running = F.pad(x, pads).cumsum(dim=axis)
        size = x.shape[axis]
        x = running.narrow(axis, window, size) - running.narrow(axis, 0, size)
    return x


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
