"""Light and colour in the rendered world: materials, lamps and windows with soft shadows, dark corners."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mila_ros.worlds import rendered_materials as mat
from mila_ros.worlds.rendered_casting import BOX, Solids, cast_segments, from_tiles, to_tiles
from mila_ros.worlds.rendered_textures import SIZE, Atlas

LIGHTS = 3
"""Lights a scene has at most."""
CORNER = 0.7
"""Metres within which other surfaces keep the light from everywhere out."""
_EPSILON = 2e-3


@dataclass
class Lights:
    """Lights of F frames.

    Attributes:
        position: (F, L, 3), world.
        radius: (F, L), metres; half of the size of a lamp.
        power: (F, L, 3), radiant intensity; zero where there is no light.
        towards: (F, L, 3), where it shines, zero for all around.
        ambient: (F, 3), irradiance from everywhere, over pi.
    """

    position: Tensor
    radius: Tensor
    power: Tensor
    towards: Tensor
    ambient: Tensor


@dataclass
class Hits:
    """What the pixels see, (F, H, W, ...): everything the light needs to know.

    Attributes:
        index: primitive.
        depth: metres along the optical axis.
        point: (..., 3), world.
        normal: (..., 3), world, unit, towards the camera.
        local: (..., 3), unit space of the primitive.
        view: (..., 3), unit vector from the point to the camera.
        focal: (F,), pixels.
    """

    index: Tensor
    depth: Tensor
    point: Tensor
    normal: Tensor
    local: Tensor
    view: Tensor
    focal: Tensor


def _pattern(height: int, width: int, device: torch.device) -> Tensor:
    """A number 0..15 a pixel, so that any 4 x 4 pixels hold each once."""
    order = torch.tensor([0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5], device=device)
    rows, columns = torch.arange(height, device=device) % 4, torch.arange(width, device=device) % 4
    return order[rows[:, None] * 4 + columns]


def _sphere_points(device: torch.device) -> Tensor:
    """16 points spread over the inside of the unit ball."""
    k = torch.arange(16, device=device, dtype=torch.float32) + 0.5
    z, angle = 1 - k / 8, k * (math.pi * (3 - math.sqrt(5)))
    ring = (1 - z * z).sqrt()
    return torch.stack((ring * angle.cos(), ring * angle.sin(), z), -1)


def _around(normal: Tensor, pattern: Tensor) -> Tensor:
    """A direction a pixel over the hemisphere of its normal, cosine-weighted, by the pattern."""
    # A point of the sphere added to the normal has the cosine distribution.
    towards = normal + 0.98 * _sphere_points(normal.device)[pattern]
    return towards / towards.norm(dim=-1, keepdim=True).clamp_min(1e-3)


def _smooth(values: Tensor, hits: Hits, offsets: tuple[int, ...]) -> Tensor:
    """Mean of values (F, C, H, W) over neighbours at these offsets, both ways, on the same surface."""
    f, _, h, w = values.shape
    before, after = -min(offsets), max(offsets)
    pad = torch.nn.functional.pad
    guide = torch.cat((hits.normal, hits.depth.unsqueeze(-1)), -1).permute(0, 3, 1, 2)
    wide = pad(torch.cat((guide, values), 1), (before, after, before, after), mode="replicate")
    total, weight = torch.zeros_like(values), torch.zeros(f, 1, h, w, device=values.device)
    near = (0.012 * (after + before) * hits.depth).unsqueeze(1)
    for dy in offsets:
        for dx in offsets:
            there = wide[:, :, before + dy : before + dy + h, before + dx : before + dx + w]
            same = ((there[:, :3] * guide[:, :3]).sum(1, keepdim=True) > 0.9) & (
                (there[:, 3:4] - guide[:, 3:]).abs() < near
            )
            same = same.to(values.dtype)
            total = total + same * there[:, 4:]
            weight = weight + same
    return total / weight.clamp_min(1)


def visibility(solids: Solids, lights: Lights, hits: Hits, shadows: int) -> Tensor:
    """Shares of light that arrive, (F, shadows + 1, H, W): of the first lights, and of the light from everywhere.

    shadows: how many of the lights throw shadows, 0 to LIGHTS; dark corners are always drawn.
    """
    f, h, w = hits.index.shape
    device = hits.depth.device
    pattern = _pattern(h, w, device)
    origin = hits.point + _EPSILON * (1 + hits.depth.unsqueeze(-1)) * hits.normal
    start = to_tiles(origin)
    middle = 0.5 * (start.amin(2) + start.amax(2))
    size = 0.5 * (start.amax(2) - start.amin(2)).norm(dim=-1)
    layers = []
    for k in range(shadows):
        aim = (
            lights.position[:, k, None, None, :]
            + lights.radius[:, k, None, None, None] * _sphere_points(device)[pattern]
        )
        reach = lights.position[:, k, None, :] - middle
        spread = torch.maximum(size, lights.radius[:, k, None]) + 0.02
        free = cast_segments(solids, start, to_tiles(aim - origin), solids.casts, reach, spread)
        layers.append((free >= 1).to(torch.float32))
    step = CORNER * _around(hits.normal, pattern)
    everything = torch.ones_like(solids.casts)
    free = cast_segments(solids, start, to_tiles(step), everything, torch.zeros_like(middle), size + CORNER + 0.02)
    layers.append(free.clamp(0, 1).sqrt())
    # A mean over 4 x 4 pixels, which hold all 16 samples, turns them into half-shadows; in large pictures, where 16
    # samples are seen as 16 shadows, a second and wider mean hides their edges.
    smooth = _smooth(torch.stack([from_tiles(x, h, w) for x in layers], 1), hits, (-2, -1, 0, 1))
    return smooth if w < 480 else _smooth(smooth, hits, (-4, 0, 4))


def _coordinates(solids: Solids, hits: Hits, index: Tensor, row: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Texture coordinates u, v and the level of detail of hits, (F, R) each; size (F, R, 3) is half sizes."""
    local = hits.local.flatten(1, 2)
    x, y, z = local.unbind(-1)
    metres = local * size
    mx, my, mz = metres.unbind(-1)
    sx, sy, sz = size.unbind(-1)
    axis = local.abs().argmax(-1)
    on_x, on_z = axis == 0, axis == 2
    u = torch.where(on_x, my, torch.where(on_z, mx, -mx))
    v = torch.where(on_z, my, -mz)
    unit_u = torch.where(on_x, y, torch.where(on_z, x, -x)) * 0.5 + 0.5
    unit_v = torch.where(on_z, y, -z) * 0.5 + 0.5
    wide_u, wide_v = torch.where(on_x, sy, sx), torch.where(on_z, sy, sz)
    box = solids.spans.get(BOX, slice(0, 0))
    flat = (index >= box.start) & (index < box.stop)
    # Round things are wrapped, except where they look up or down: there a wrapped texture would be pinched.
    upright = flat | (on_z & (local.abs().amax(-1) > 0.6))
    u, v = torch.where(upright, u, torch.atan2(y, x) * sx), torch.where(upright, v, -mz)
    fit = (row[..., mat.FIT] > 0.5) & flat
    scale_u = torch.where(fit, 0.5 / wide_u, row[..., mat.SCALE_U])
    scale_v = torch.where(fit, 0.5 / wide_v, row[..., mat.SCALE_V])
    swap = row[..., mat.SWAP] > 0.5
    u, v = torch.where(swap, v, u), torch.where(swap, u, v)
    u = torch.where(fit, unit_u, u * scale_u + row[..., mat.OFFSET_U])
    v = torch.where(fit, unit_v, v * scale_v + row[..., mat.OFFSET_V])
    cosine = (hits.normal * hits.view).sum(-1).flatten(1).clamp(0.15, 1)
    footprint = hits.depth.flatten(1) / hits.focal[:, None] / cosine.sqrt()
    level = torch.log2((footprint * SIZE * torch.sqrt(scale_u * scale_v)).clamp_min(1e-3))
    return u, v, level


def refined(values: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    """Values of coarse pixels for finer ones: interpolated, but only between pixels that see the same.

    Args:
        values: (F, C, H, W).
        coarse: (F, K, H, W), what the coarse pixels see: the primitive, then perhaps the normal.
        fine: (F, K, nH, nW), the same of the fine pixels.

    Returns:
        (F, C, nH, nW).
    """
    kinds, n = coarse.shape[1], fine.shape[2] // coarse.shape[2]
    device = values.device

    def lean(count: int) -> tuple[Tensor, Tensor, Tensor]:
        """For each fine row or column: its coarse one, the next that it leans to, and how far."""
        at = torch.arange(count * n, device=device)
        offset = (at % n + 0.5) / n - 0.5
        return at // n + 1, at // n + 1 + offset.sign().to(torch.int64), offset.abs()

    (row, next_row, down), (column, next_column, aside) = (lean(k) for k in coarse.shape[2:])
    table = torch.nn.functional.pad(torch.cat((coarse, values), 1), (1, 1, 1, 1), mode="replicate")
    total = torch.zeros(len(values), values.shape[1], *fine.shape[2:], device=device)
    weight = torch.zeros(len(values), 1, *fine.shape[2:], device=device)
    for rows, across in ((row, 1 - down), (next_row, down)):
        for columns, along in ((column, 1 - aside), (next_column, aside)):
            there = table[:, :, rows][..., columns]
            same = there[:, :1] == fine[:, :1]
            if kinds > 1:
                same = same & ((there[:, 1:4] * fine[:, 1:4]).sum(1, keepdim=True) > 0.8)
            # Where no neighbour sees the same surface, the nearest ones have to do.
            share = across[:, None] * along * torch.where(same, 1.0, 1e-4)
            total, weight = total + share * there[:, kinds:], weight + share
    return total / weight


def shade(solids: Solids, materials: Tensor, lights: Lights, atlas: Atlas, hits: Hits, visible: Tensor) -> Tensor:
    """Linear radiance (F, 3, H, W) towards the camera.

    Args:
        solids: primitives.
        materials: (F, P, FIELDS).
        lights: lamps and windows.
        atlas: textures.
        hits: what each pixel sees.
        visible: from `visibility`, (F, shadows + 1, H, W).
    """
    f, h, w = hits.index.shape
    index = hits.index.flatten(1)
    frame = torch.arange(f, device=index.device)[:, None].expand_as(index)
    row = materials[frame, index]
    size = solids.forward[..., :3].norm(dim=-2)[frame, index]
    u, v, level = _coordinates(solids, hits, index, row, size)
    shares = atlas.look_up(row[..., mat.LAYER].to(torch.int64), u, v, level)
    albedo = (shares.unsqueeze(-1) * row[..., mat.COLOURS].unflatten(-1, (3, 3))).sum(-2)

    visible, shadows = visible.flatten(2), visible.shape[1] - 1
    point, normal, view = (x.flatten(1, 2) for x in (hits.point, hits.normal, hits.view))
    corner = visible[:, -1, :, None]
    # Floors and walls throw light back: surfaces that look down get some of it, those that look up get the ceiling's.
    tilt = 0.9 + 0.15 * normal[..., 2:]
    light = lights.ambient[:, None, :] * corner * tilt
    gloss, fresnel = row[..., mat.GLOSS, None], (1 - (normal * view).sum(-1, keepdim=True)).clamp(0, 1) ** 5
    shine = lights.ambient[:, None, :] * corner * gloss * (0.3 + 2.0 * fresnel)
    for k in range(LIGHTS):
        to_light = lights.position[:, k, None, :] - point
        square = to_light.square().sum(-1, keepdim=True).clamp_min(0.05)
        direction = to_light * square.rsqrt()
        towards = lights.towards[:, k, None, :]
        directed = towards.square().sum(-1, keepdim=True) > 0
        emitted = torch.where(directed, -(direction * towards).sum(-1, keepdim=True).clamp(max=0), 1.0)
        seen = visible[:, k, :, None] if k < shadows else 1.0
        arriving = lights.power[:, k, None, :] * (emitted * seen / (square + lights.radius[:, k, None, None] ** 2))
        light = light + arriving * (normal * direction).sum(-1, keepdim=True).clamp_min(0)
        half = torch.nn.functional.normalize(direction + view, dim=-1)
        lobe = (normal * half).sum(-1, keepdim=True).clamp(0, 1) ** 50
        shine = shine + arriving * lobe * gloss * (1 + 4 * fresnel) * 3
    radiance = albedo * (light + row[..., mat.GLOW, None]) + shine
    return radiance.transpose(1, 2).unflatten(-1, (h, w))
