"""A look at the data before hours are spent on it: what it holds, and mistakes that would else show in bad results."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mila_ros.errors import UserError
from mila_ros.training.data import Pool, label_counts
from mila_ros.worlds.geometry import pixel_rays

_FARTHEST = 200.0
"""Metres: no usual depth camera or room goes beyond."""
_LOOKED_AT = 64


def check_pool(name: str, pool: Pool, classes: Sequence[str]) -> str:
    """One line about what a pool holds.

    Args:
        name: of the data, for messages.
        pool: in memory.
        classes: names of the labels.

    Raises:
        UserError: nothing can be learned from it, or a unit or an axis is wrong.
    """
    some = torch.linspace(0, len(pool) - 1, min(len(pool), _LOOKED_AT)).round().long().to(pool.rgb.device)
    height, width = pool.rgb.shape[-2:]
    said = [f"{name}: {len(pool)} {'frames' if pool.still else 'clips'} of {width}x{height}"]
    pictures = pool.rgb[some].float()
    if float(pictures.std(dim=(1, 2, 3, 4)).max()) < 1:
        raise UserError(f"{name}: every picture is of one colour; is the folder the right one?")
    if "segmentation" in pool.tasks:
        counts = label_counts([pool], len(classes))
        if float(counts.sum()) == 0:
            raise UserError(f"{name}: no pixel is labelled; 255 is unlabelled, classes are 0..{len(classes) - 1}")
        share = float(counts.sum()) / pool.labels.numel()
        said.append(f"{share:.0%} labelled, {int((counts > 0).sum())} of {len(classes)} classes")
    if "depth" in pool.tasks:
        depth = pool.depth[some].float()
        known = depth[depth > 0]
        if not len(known):
            raise UserError(f"{name}: no depth is known; 0 and NaN are unknown")
        middle = float(known.median())
        if middle > _FARTHEST or middle < 0.05:
            raise UserError(
                f"{name}: the median depth is {middle:.3g}; depth is in metres (REP 118), is this another unit?"
            )
        said.append(f"depth known in {len(known) / depth.numel():.0%}, median {middle:.2f} m")
    if "normals" in pool.tasks:
        normals = pool.normals[some, 0].float()
        facing = (normals * pixel_rays(pool.intrinsics[some], height, width)).sum(dim=1)
        given = normals.abs().sum(dim=1) > 0
        away = float((facing[given] > 0).float().mean()) if bool(given.any()) else 0.0
        if away > 0.5:
            raise UserError(
                f"{name}: {away:.0%} of the normals point away from the camera; axes are x right, y down, z forward "
                "(REP 103) and normals face the camera"
            )
        said.append(f"normals known in {float(given.float().mean()):.0%}")
    fx = pool.intrinsics[:, 0]
    angle = float(torch.rad2deg(2 * torch.atan(width / 2 / fx.median())))
    if not 5 < angle < 150:
        raise UserError(f"{name}: a focal length of {float(fx.median()):.4g} pixels is {angle:.0f} degrees of view")
    said.append(f"{angle:.0f} degrees of view")
    return ", ".join(said)
