"""How training pictures are varied, each change with its ground truth changed to match.

The camera is varied, not only the picture: it zooms (the focal length grows), turns about its centre (depth and
normals turn along), stands somewhere else (true parallax, by the frame's own depth). Six hundred rooms can be learned
by heart; the same rooms from other places ask for the cues that hold anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mila_ros.training.losses import Truth
from mila_ros.worlds.frames import IGNORE
from mila_ros.worlds.geometry import flow_to, painted, reproject, rotation


@dataclass
class Batch:
    """Pictures to learn from; keyframes are the same place seen some frames earlier."""

    image: Tensor
    """(B, 3, H, W), RGB in 0..1."""
    keyframes: Tensor | None
    """(B, T, 3, H, W), the newest first, or None when only single pictures were asked for."""
    focal: Tensor
    """(B,), pixels."""
    truth: Truth
    flow: Tensor | None = None
    """(B, 2, H / 8, W / 8), cells to the right and down: where each cell of the picture is in its newest keyframe; NaN
    where that is unknown or outside of it. None: nobody asked."""


@dataclass(frozen=True)
class Augmentation:
    """How pictures are varied."""

    height: int = 480
    width: int = 640
    zoom: float = 1.6
    """Crops are up to this factor closer; the focal length grows with it, so depth stays metric."""
    turn: float = 0.0
    """Spread in degrees of the camera's pitch, yaw and roll."""
    moved: float = 0.0
    """Share of stills that are seen from another place."""
    colour: float = 0.35
    """Strength of brightness, contrast, saturation and white balance changes."""
    max_distance: int = 10
    """Frames between keyframe and frame."""
    truth_stride: int = 2
    """Answers are judged at the picture's size over this."""


CELL = 8
"""Pixels: side of the cells that features are carried by."""


class Views(NamedTuple):
    """Frames before they are cut to the size of a batch."""

    image: Tensor
    """(B, 3, H, W), RGB in 0..1."""
    keyframes: Tensor | None
    """(B, T, 3, H, W), the newest first; None where none is wanted."""
    depth: Tensor
    """(B, H, W), metres; 0 where unknown."""
    labels: Tensor
    """(B, H, W), uint8."""
    normals: Tensor
    """(B, 3, H, W), unit; zero where unknown."""
    camera: Tensor
    """(B, 4): fx, fy, cx, cy in pixels."""
    flow: Tensor | None = None
    """(B, 2, H, W), pixels: from each place to where it is in the newest keyframe; NaN where unknown."""


def random_place(depth: Tensor, g: torch.Generator) -> Tensor:
    """Transforms to a camera somewhere near, further ahead more often than behind: (B, H, W) -> (B, 4, 4)."""
    count, device = len(depth), depth.device
    scale = depth.flatten(1).median(dim=1).values
    motion = torch.eye(4, device=device).repeat(count, 1, 1)
    sideways = torch.randn(count, 2, generator=g, device=device) * torch.tensor([0.08, 0.05], device=device)
    ahead = -0.2 + 0.6 * torch.rand(count, 1, generator=g, device=device)
    # The camera goes one way, so the points come the other.
    motion[:, :3, 3] = -torch.cat([sideways, ahead], dim=1) * scale[:, None]
    return motion


def from_elsewhere(
    views: Views, whole: Tensor, before: Tensor | None, share: float, g: torch.Generator, flows: bool = False
) -> Views:
    """Stills seen by a moved camera, and where it was earlier.

    Args:
        views: of the stills.
        whole: (B, H, W), metres, depth by which cameras are moved: known everywhere, or assumed.
        before: (B, T, 4, 4), from each camera to where it was at its keyframes; None where none is wanted.
        share: of the pictures whose camera is moved; the others stay as they are.
        flows: whether optical flow to the newest keyframe is wanted; it is exact, since keyframes are made by it.
    """
    moved = torch.rand(len(views.image), generator=g, device=views.image.device) < share
    known = views.depth > 0
    place = torch.eye(4, device=views.image.device).repeat(len(views.image), 1, 1)
    image, depth, labels, normals = (x.clone() for x in (views.image, views.depth, views.labels, views.normals))
    distance, seen = whole.clone(), torch.ones_like(known)
    if bool(moved.any()):
        place[moved] = random_place(whole[moved], g)
        there = reproject(whole[moved], views.camera[moved], place[moved])
        image[moved] = painted(views.image[moved], there)
        distance[moved], seen[moved] = there.depth, there.seen
        depth[moved] = there.depth * there.carry(known[moved][:, None])[:, 0]
        labels[moved] = torch.where(there.seen, there.carry(views.labels[moved][:, None])[:, 0], IGNORE)
        normals[moved] = there.carry(views.normals[moved]) * there.seen[:, None]
    keyframes = None
    if before is not None:
        earlier = (before @ place[:, None]).unbind(dim=1)
        keyframes = torch.stack(
            [painted(views.image, reproject(whole, views.camera, motion)) for motion in earlier], dim=1
        )
    flow = None
    if flows and before is not None:
        # What was seen from elsewhere moves between two views; the still itself, from its own camera.
        flow = flow_to(torch.where(seen, distance, 0.0), views.camera, before[:, 0])
    return Views(image, keyframes, depth, labels, normals, views.camera, flow)


def cut(views: Views, o: Augmentation, g: torch.Generator) -> Batch:
    """Crop, mirror and turn to the size of a batch, ground truth to the size that answers are judged at."""
    b, _, h, w = views.image.shape
    device = views.image.device
    # Share of the height that a crop of the full width would need; above 1 the crop must be narrower.
    aspect = (w * o.height) / (h * o.width)
    zoom = max(1.0, aspect) * (1 + (o.zoom - 1) * torch.rand(b, generator=g, device=device) ** 1.5)
    flip = torch.where(torch.rand(b, generator=g, device=device) < 0.5, -1.0, 1.0)
    extent = torch.stack([1 / zoom, aspect / zoom], dim=1)
    centre = (torch.rand(b, 2, generator=g, device=device) * 2 - 1) * (1 - extent)
    theta = torch.zeros(b, 2, 3, device=device)
    theta[:, 0, 0] = flip * extent[:, 0]
    theta[:, 1, 1] = extent[:, 1]
    theta[:, :, 2] = centre
    turn = rotation(torch.deg2rad(torch.randn(b, 3, generator=g, device=device) * o.turn))

    grid, _ = _turned(F.affine_grid(theta, [b, 1, o.height, o.width], align_corners=False), views, turn)
    rows, columns = o.height // o.truth_stride, o.width // o.truth_stride
    coarse, deeper = _turned(F.affine_grid(theta, [b, 1, rows, columns], align_corners=False), views, turn)
    outside = (coarse.abs() > 1).any(dim=3)

    def sample(x: Tensor, where: Tensor, mode: str) -> Tensor:
        return F.grid_sample(x, where, mode=mode, padding_mode="border", align_corners=False)

    labels = sample(views.labels[:, None].float(), coarse, "nearest")[:, 0].round().long()
    depth = sample(views.depth[:, None], coarse, "nearest")[:, 0] / deeper
    normals = torch.einsum("bij,bihw->bjhw", turn, sample(views.normals, coarse, "nearest"))
    normals[:, 0] *= flip[:, None, None]
    truth = Truth(
        labels.masked_fill(outside, IGNORE),
        depth.masked_fill(outside, 0.0),
        normals.masked_fill(outside[:, None], 0.0),
    )
    keyframes = views.keyframes
    if keyframes is not None:
        keyframes = sample(keyframes.flatten(1, 2), grid, "bilinear").unflatten(1, keyframes.shape[1:3])
    image, focal = sample(views.image, grid, "bilinear"), views.camera[:, 0] * zoom * (o.width / w)
    flow = None if views.flow is None else _flow_in(views.flow, theta, (o.height // CELL, o.width // CELL), views, turn)
    return Batch(image, keyframes, focal, truth, flow)


def _flow_in(flow: Tensor, theta: Tensor, size: tuple[int, int], views: Views, turn: Tensor) -> Tensor:
    """Flow of whole pictures (B, 2, H, W), in pixels, as it is between their cut ones: (B, 2, *size), in cells.

    theta, turn: how they are cut and turned (`cut`).
    """
    b, _, height, width = flow.shape
    plain = F.affine_grid(theta, [b, 1, *size], align_corners=False)
    here, _ = _turned(plain, views, turn)
    # Nearest: between a thing and what is behind it nothing moves as their mean does.
    shift = F.grid_sample(flow, here, "nearest", "zeros", align_corners=False)
    there = here + shift.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height], device=flow.device)
    back, ahead = _turned(there, views, turn.transpose(1, 2))
    # Undo the crop, which only stretches and shifts.
    extent = theta[:, :, :2].diagonal(dim1=1, dim2=2)
    own = (back - theta[:, None, None, :, 2]) / extent[:, None, None]
    start = (plain - theta[:, None, None, :, 2]) / extent[:, None, None]
    found = (own - start) * torch.tensor([size[1] / 2, size[0] / 2], device=flow.device)
    inside = (own.abs() <= 1).all(dim=3) & (here.abs() <= 1).all(dim=3) & (there.abs() <= 1).all(dim=3)
    return torch.where(inside[..., None], found, torch.nan).permute(0, 3, 1, 2)


def _turned(grid: Tensor, views: Views, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Where a turned camera looks.

    Args:
        grid: (B, h, w, 2), places in the picture in grid_sample's coordinates, of a camera that was not turned.
        turn: (B, 3, 3), from the turned camera's axes to the picture's.

    Returns:
        the places (B, h, w, 2) that it sees there instead, and (B, h, w): depth in the picture over its own.
    """
    height, width = views.image.shape[-2:]
    size = torch.tensor([width, height], device=grid.device, dtype=grid.dtype)
    focal, centre = (part[:, None, None, :] for part in views.camera.to(grid).split(2, dim=1))
    pixel = ((grid + 1) * size - 1) / 2
    ray = F.pad((pixel - centre) / focal, (0, 1), value=1.0)
    ray = torch.einsum("bij,bhwj->bhwi", turn.to(grid), ray)
    ahead = ray[..., 2].clamp(min=1e-3)
    pixel = ray[..., :2] / ahead[..., None] * focal + centre
    return (2 * pixel + 1) / size - 1, ahead


def recoloured(
    image: Tensor, keyframes: Tensor | None, strength: float, g: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """One change of light for a picture and its keyframes, a small one of exposure and noise for each."""
    b, device = image.shape[0], image.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, device=device) * 2 - 1

    gain = torch.exp(strength * uniform(b, 1, 1, 1)) * torch.exp(0.3 * strength * uniform(b, 3, 1, 1))
    contrast, saturation = 1 + strength * uniform(b, 1, 1, 1), 1 + strength * uniform(b, 1, 1, 1)
    gamma = torch.exp(0.5 * strength * uniform(b, 1, 1, 1))

    def apply(x: Tensor) -> Tensor:
        x = x.clamp(min=1e-4) ** gamma * gain * torch.exp(0.05 * uniform(b, 1, 1, 1))
        grey = x.mean(dim=1, keepdim=True)
        x = grey + (x - grey) * saturation
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = mean + (x - mean) * contrast
        noise = 0.02 * torch.rand(b, 1, 1, 1, generator=g, device=device)
        return (x + noise * torch.randn(x.shape, generator=g, device=device)).clamp(0, 1)

    if keyframes is None:
        return apply(image), None
    return apply(image), torch.stack([apply(keyframe) for keyframe in keyframes.unbind(dim=1)], dim=1)
