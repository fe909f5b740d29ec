"""Rays against primitives, in plain torch: what the rendered world is seen with.

Every primitive is one affine map from the world into the space of a unit solid: a cube or a ball of half size 1, a
round column of radius 1 and half height 1 (with a taper), or a capsule of radius 1 (with a half length). An affine map
keeps the parameter of a ray, so the solids need no sizes of their own, and a hit at parameter t of a ray whose camera
direction is (x, y, 1) has depth t.

Rays are cast in square tiles of pixels. A tile is tested only against the primitives whose bounding box may meet it;
the (tile, primitive) pairs that are left are a dense batch, the same on a CPU and on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 16
"""Pixels on the side of a tile."""
BOX, BALL, COLUMN, CAPSULE = range(4)
"""Kinds of solids."""
NEAR = 0.02
"""Metres in front of the camera where the world begins."""

Components = tuple[Tensor, Tensor, Tensor]


@dataclass
class Solids:
    """Primitives of F frames, P a frame, sorted by kind.

    Attributes:
        forward: (F, P, 3, 4), unit space to world; the three columns of the linear part are orthogonal.
        inverse: (F, P, 3, 4), world to unit space.
        shape: (F, P), taper of a column, half length of a capsule in radii.
        extent: (F, P, 3), half size of the bounding box in unit space.
        valid: (F, P), false for padding.
        casts: (F, P), whether it throws shadows.
        spans: kind to the slice of P that it fills.
    """

    forward: Tensor
    inverse: Tensor
    shape: Tensor
    extent: Tensor
    valid: Tensor
    casts: Tensor
    spans: dict[int, slice]


def invert(forward: Tensor) -> Tensor:
    """World-to-unit maps (..., 3, 4) of unit-to-world maps with orthogonal columns."""
    axes = forward[..., :3]
    linear = axes.transpose(-1, -2) / axes.square().sum(-2).clamp_min(1e-12).unsqueeze(-1)
    offset = -(linear * forward[..., None, :, 3]).sum(-1, keepdim=True)
    return torch.cat((linear, offset), -1)


def _safe(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1e-9, torch.full_like(x, 1e-9), x)


def _box(o: Components, d: Components, shape: Tensor, start: float) -> Tensor:
    near, far = None, None
    for ok, dk in zip(o, d, strict=True):
        inverse = 1.0 / _safe(dk)
        middle, half = -ok * inverse, inverse.abs()
        near = middle - half if near is None else torch.maximum(near, middle - half)
        far = middle + half if far is None else torch.minimum(far, middle + half)
    assert near is not None and far is not None
    return torch.where((near <= far) & (near > start), near, torch.inf)


def _ball(o: Components, d: Components, shape: Tensor, start: float) -> Tensor:
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1.0
    root = b * b - a * c
    t = (-b - root.clamp_min(0).sqrt()) / a.clamp_min(1e-12)
    return torch.where((root > 0) & (t > start), t, torch.inf)


def _column(o: Components, d: Components, shape: Tensor, start: float) -> Tensor:
    radius = 1.0 + shape * o[2]
    slope = shape * d[2]
    a = _safe(d[0] * d[0] + d[1] * d[1] - slope * slope)
    b = o[0] * d[0] + o[1] * d[1] - radius * slope
    c = o[0] * o[0] + o[1] * o[1] - radius * radius
    root = b * b - a * c
    side = (-b - root.clamp_min(0).sqrt()) / a
    on_side = (root > 0) & ((o[2] + side * d[2]).abs() <= 1.0) & (side > start)
    dz = _safe(d[2])
    end = -torch.sign(dz)
    cap = (end - o[2]) / dz
    x, y, rim = o[0] + cap * d[0], o[1] + cap * d[1], 1.0 + shape * end
    on_cap = (x * x + y * y <= rim * rim) & (cap > start)
    return torch.minimum(torch.where(on_side, side, torch.inf), torch.where(on_cap, cap, torch.inf))


def _capsule(o: Components, d: Components, shape: Tensor, start: float) -> Tensor:
    flat = d[0] * d[0] + d[1] * d[1]
    b = o[0] * d[0] + o[1] * d[1]
    c = o[0] * o[0] + o[1] * o[1] - 1.0
    root = b * b - flat * c
    side = (-b - root.clamp_min(0).sqrt()) / flat.clamp_min(1e-12)
    z = o[2] + side * d[2]
    on_side = (root > 0) & (z.abs() <= shape) & (side > start)
    end = torch.where(z > 0, shape, -shape)
    cap = _ball((o[0], o[1], o[2] - end), d, shape, start)
    cap = torch.where(root > 0, cap, torch.inf)
    return torch.where(on_side, side, cap)


_SOLIDS: dict[int, Callable[[Components, Components, Tensor, float], Tensor]] = {
    BOX: _box,
    BALL: _ball,
    COLUMN: _column,
    CAPSULE: _capsule,
}


def to_tiles(image: Tensor) -> Tensor:
    """(F, H, W, ...) with H and W multiples of TILE -> (F, H/TILE * W/TILE, TILE * TILE, ...)."""
    f, h, w = image.shape[:3]
    rest = image.shape[3:]
    split = image.reshape(f, h // TILE, TILE, w // TILE, TILE, *rest).transpose(2, 3)
    return split.reshape(f, (h // TILE) * (w // TILE), TILE * TILE, *rest)


def from_tiles(tiles: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `to_tiles`."""
    f = tiles.shape[0]
    rest = tiles.shape[3:]
    split = tiles.reshape(f, height // TILE, width // TILE, TILE, TILE, *rest).transpose(2, 3)
    return split.reshape(f, height, width, *rest)


def _edges(device: torch.device) -> tuple[Tensor, Tensor]:
    """The 12 edges of the cube [-1, 1]^3: their two ends, (12, 3) each."""
    corners = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)], device=device)
    pairs = [(i, i | bit) for bit in (1, 2, 4) for i in range(8) if not i & bit]
    index = torch.tensor(pairs, device=device)
    return corners[index[:, 0]], corners[index[:, 1]]


def _screen_boxes(solids: Solids, view: Tensor, intrinsics: Tensor) -> tuple[Tensor, ...]:
    """Bounds u0, u1, v0, v1 in pixels, (F, P) each, of the primitives' bounding boxes; empty behind the camera.

    view (F, 3, 4) is world to camera; intrinsics (F, 4).
    """
    linear = (view[:, None, :, :3, None] * solids.forward[:, :, None, :, :3]).sum(-2)
    centre = (view[:, None, :, :3] * solids.forward[:, :, None, :, 3]).sum(-1) + view[:, None, :, 3]
    first, second = _edges(view.device)
    scaled = linear * solids.extent[:, :, None, :]
    a = (scaled[:, :, None] * first[:, None, :]).sum(-1) + centre[:, :, None]
    b = (scaled[:, :, None] * second[:, None, :]).sum(-1) + centre[:, :, None]
    za, zb = a[..., 2], b[..., 2]
    share = ((NEAR - za) / _safe(zb - za)).clamp(0, 1).unsqueeze(-1)
    cut = a + (b - a) * share
    a = torch.where((za < NEAR).unsqueeze(-1), cut, a)
    b = torch.where((zb < NEAR).unsqueeze(-1), cut, b)
    seen = torch.cat(((za >= NEAR) | (zb >= NEAR),) * 2, -1)
    ends = torch.cat((a, b), -2)
    fx, fy, cx, cy = (k[:, None, None] for k in intrinsics.unbind(-1))
    depth = ends[..., 2].clamp_min(0.5 * NEAR)
    u, v = fx * ends[..., 0] / depth + cx, fy * ends[..., 1] / depth + cy
    big = torch.inf
    return (
        torch.where(seen, u, big).amin(-1),
        torch.where(seen, u, -big).amax(-1),
        torch.where(seen, v, big).amin(-1),
        torch.where(seen, v, -big).amax(-1),
    )


def _chunks(count: int, device: torch.device) -> Iterator[slice]:
    # On a CPU the temporaries of a chunk should stay in its cache; a GPU wants few, large kernels.
    step = 512 if device.type == "cpu" else 1 << 17
    for start in range(0, count, step):
        yield slice(start, start + step)


def cast_camera(solids: Solids, pose: Tensor, intrinsics: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The first surface along the ray of each pixel.

    Args:
        solids: F frames of primitives.
        pose: (F, 4, 4), camera (optical frame) to world.
        intrinsics: (F, 4), fx, fy, cx, cy in pixels.
        height: rows, a multiple of TILE.
        width: columns, a multiple of TILE.

    Returns:
        depth (F, H, W) in metres along the optical axis, infinite where nothing is hit, and the index of the
        primitive (F, H, W), int64, 0 where nothing is hit.
    """
    device = pose.device
    frames, count = solids.shape.shape
    rotation = pose[:, :3, :3].transpose(1, 2)
    view = torch.cat((rotation, -(rotation * pose[:, None, :3, 3]).sum(-1, keepdim=True)), -1)
    u0, u1, v0, v1 = _screen_boxes(solids, view, intrinsics)
    rows, columns = height // TILE, width // TILE
    left = torch.arange(columns, device=device) * TILE
    top = torch.arange(rows, device=device) * TILE
    across = (u0[:, None] <= left[:, None] + TILE) & (u1[:, None] >= left[:, None] - 1)
    along = (v0[:, None] <= top[:, None] + TILE) & (v1[:, None] >= top[:, None] - 1)
    meets = (along[:, :, None] & across[:, None] & solids.valid[:, None, None]).reshape(frames, rows * columns, count)

    # What the rays look like in a primitive's space: origin, and direction = at the tile's corner + du * x + dv * y.
    linear = solids.inverse[..., :3]
    origin = (linear * pose[:, None, None, :3, 3]).sum(-1) + solids.inverse[..., 3]
    turned = (linear[..., :, :, None] * pose[:, None, None, :3, :3]).sum(-2)
    fx, fy, cx, cy = (k[:, None, None] for k in intrinsics.unbind(-1))
    along_u, along_v = turned[..., 0] / fx, turned[..., 1] / fy
    at_zero = turned[..., 2] - along_u * cx - along_v * cy
    du = torch.arange(TILE, device=device, dtype=pose.dtype).repeat(TILE)
    dv = torch.arange(TILE, device=device, dtype=pose.dtype).repeat_interleave(TILE)

    nearest = _Nearest(frames * rows * columns, device)
    for kind, span in solids.spans.items():
        frame, tile, which = meets[:, :, span].nonzero(as_tuple=True)
        which = which + span.start
        for part in _chunks(len(frame), device):
            f, n, p = frame[part], tile[part], which[part]
            o, gu, gv = origin[f, p], along_u[f, p], along_v[f, p]
            corner = (
                at_zero[f, p] + gu * ((n % columns) * TILE).unsqueeze(1) + gv * ((n // columns) * TILE).unsqueeze(1)
            )
            direction = [corner[:, k, None] + gu[:, k, None] * du + gv[:, k, None] * dv for k in range(3)]
            t = _SOLIDS[kind](_columns(o), (direction[0], direction[1], direction[2]), solids.shape[f, p, None], NEAR)
            nearest.add(f * (rows * columns) + n, t, p)
    depth, index = nearest.result()
    shape = (frames, rows * columns, TILE * TILE)
    return from_tiles(depth.view(shape), height, width), from_tiles(index.view(shape), height, width)


def _columns(x: Tensor) -> Components:
    """(N, 3) as three (N, 1)."""
    return x[:, 0, None], x[:, 1, None], x[:, 2, None]


class _Nearest:
    """Collects the nearest hit of each ray over (tile, primitive) pairs."""

    def __init__(self, tiles: int, device: torch.device) -> None:
        # The bits of a positive float sort like the float: depth above, index below, and one minimum finds both.
        self.best = torch.full((tiles, TILE * TILE), _MISS, dtype=torch.int64, device=device)

    def add(self, tile: Tensor, t: Tensor, index: Tensor) -> None:
        key = (t.view(torch.int32).to(torch.int64) << 32) | index.unsqueeze(1)
        self.best.scatter_reduce_(0, tile.unsqueeze(1).expand_as(key), key, "amin")

    def result(self) -> tuple[Tensor, Tensor]:
        depth = (self.best >> 32).to(torch.int32).view(torch.float32)
        return depth, torch.where(torch.isinf(depth), 0, self.best & 0xFFFFFFFF)


_MISS = 0x7F800000 << 32
"""Infinite depth, primitive 0."""


def cast_segments(
    solids: Solids, start: Tensor, step: Tensor, candidates: Tensor, reach: Tensor, spread: Tensor
) -> Tensor:
    """How far one can go from each pixel's point before something is in the way.

    Args:
        solids: F frames of primitives.
        start: (F, N, TILE * TILE, 3), where the rays begin, in tiles.
        step: (F, N, TILE * TILE, 3); start + step is where they end.
        candidates: (F, P), which primitives count.
        reach: (F, N, 3), the segment that stands for a tile: from the middle of its points by this much.
        spread: (F, N), how far any ray of the tile strays from that segment, metres.

    Returns:
        (F, N, TILE * TILE), the share of the way that is free, 1 where all of it is.
    """
    frames, tiles = start.shape[:2]
    low, high = start.amin(2), start.amax(2)
    middle = 0.5 * (low + high)
    inverse = solids.inverse
    linear = inverse[..., :3]
    near = torch.full((frames, tiles, inverse.shape[1]), -torch.inf, device=start.device)
    far = torch.full_like(near, torch.inf)
    for k in range(3):
        row = linear[:, :, k]
        o = torch.einsum("fnc,fpc->fnp", middle, row) + inverse[:, None, :, k, 3]
        d = _safe(torch.einsum("fnc,fpc->fnp", reach, row))
        size = solids.extent[:, None, :, k] + spread[:, :, None] * row.norm(dim=-1)[:, None]
        at, half = -o / d, size / d.abs()
        near, far = torch.maximum(near, at - half), torch.minimum(far, at + half)
    meets = (near <= far) & (near <= 1) & (far >= 0) & (candidates & solids.valid)[:, None]
    free = torch.ones(frames * tiles, TILE * TILE, device=start.device)
    flat_start, flat_step = start.flatten(0, 1), step.flatten(0, 1)
    for kind, span in solids.spans.items():
        frame, tile, which = meets[:, :, span].nonzero(as_tuple=True)
        which = which + span.start
        for part in _chunks(len(frame), start.device):
            f, p = frame[part], which[part]
            row_index = f * tiles + tile[part]
            matrix = inverse[f, p]
            s, d = flat_start[row_index], flat_step[row_index]
            o_local, d_local = [], []
            for k in range(3):
                x, y, z, w = matrix[:, k, :, None].unbind(1)
                o_local.append(torch.addcmul(torch.addcmul(torch.addcmul(w, s[..., 0], x), s[..., 1], y), s[..., 2], z))
                d_local.append(torch.addcmul(torch.addcmul(d[..., 0] * x, d[..., 1], y), d[..., 2], z))
            t = _SOLIDS[kind](
                (o_local[0], o_local[1], o_local[2]),
                (d_local[0], d_local[1], d_local[2]),
                solids.shape[f, p, None],
                0.0,
            )
            free.scatter_reduce_(0, row_index.unsqueeze(1).expand_as(t), t, "amin")
    return free.view(frames, tiles, TILE * TILE)


def surface(solids: Solids, index: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Normals and unit-space coordinates of points on primitives.

    Args:
        solids: F frames of primitives.
        index: (F, R), primitive of each point.
        point: (F, R, 3), world coordinates.

    Returns:
        outward unit normals in the world (F, R, 3) and the points in unit space (F, R, 3).
    """
    frame = torch.arange(index.shape[0], device=index.device)[:, None].expand_as(index)
    matrix = solids.inverse[frame, index]
    shape = solids.shape[frame, index]
    local = (matrix[..., :3] * point.unsqueeze(-2)).sum(-1) + matrix[..., 3]
    x, y, z = local.unbind(-1)
    zero = torch.zeros_like(x)
    axis = local.abs().argmax(-1, keepdim=True)
    cube = torch.zeros_like(local).scatter(-1, axis, local.gather(-1, axis))
    on_end = z.abs() > 1.0 - 1e-4
    column = torch.stack(
        (
            torch.where(on_end, zero, x),
            torch.where(on_end, zero, y),
            torch.where(on_end, z, -shape * (1.0 + shape * z)),
        ),
        -1,
    )
    capsule = torch.stack((x, y, z - torch.minimum(torch.maximum(z, -shape), shape)), -1)
    normal = cube
    for kind, candidate in ((BALL, local), (COLUMN, column), (CAPSULE, capsule)):
        span = solids.spans.get(kind)
        if span is not None:
            inside = (index >= span.start) & (index < span.stop)
            normal = torch.where(inside.unsqueeze(-1), candidate, normal)
    outward = (matrix[..., :3] * normal.unsqueeze(-1)).sum(-2)
    return torch.nn.functional.normalize(outward, dim=-1), local
