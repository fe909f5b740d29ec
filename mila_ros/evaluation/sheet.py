"""`mila render --sheet`: one picture of the rendered world, a row a kind of room, with all of its ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torchvision.utils import flow_to_image

from mila_ros.evaluation import pictures
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.rendered import RenderedWorld

COLUMNS = ("picture", "classes", "depth", "normals", "optical flow")
_GAP = 4


def sheet(world: RenderedWorld, kinds: Sequence[str], seed: int) -> pictures.Rgb:
    """(rows * (H + gap), columns * (W + gap), 3); the columns are COLUMNS, depth is coloured up to each row's farthest.

    Args:
        world: decides the size and the quality.
        kinds: of rooms (rendered_rooms.KINDS), one a row.
        seed: which rooms; each row has its own.
    """
    labels = load_labels("nyu40")
    table = pictures.class_colours(labels.palette, len(labels.classes))
    rows = []
    for row, kind in enumerate(kinds):
        # The second of two frames a tenth of a second apart: flow is to the frame before.
        clip = world.clips(1, 2, interval=3, seed=seed + row, kind=kind, flow=True)
        assert clip.flow is not None
        rgb = np.ascontiguousarray(clip.rgb[0, 1].permute(1, 2, 0).cpu().numpy())
        depth = clip.depth[0, 1].cpu().numpy()
        cells = [
            rgb,
            pictures.segmentation_picture(clip.labels[0, 1].cpu().numpy(), table, rgb),
            pictures.depth_picture(depth, pictures.depth_range([depth])),
            pictures.normals_picture(clip.normals[0, 1].permute(1, 2, 0).cpu().numpy()),
            flow_to_image(clip.flow[0, 1].float().cpu().nan_to_num()).permute(1, 2, 0).numpy(),
        ]
        rows.append(np.concatenate([np.pad(c, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for c in cells], 1))
    return np.concatenate(rows)
