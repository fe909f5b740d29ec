"""Pictures of what a network in training makes of validation frames, to look at while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mila_ros.evaluation.metrics import frame_tensors
from mila_ros.evaluation.pictures import (
    class_colours,
    depth_range,
    fitted,
    jpeg,
    task_picture,
)
from mila_ros.models.mila import Mila
from mila_ros.worlds.frames import Frame


@torch.inference_mode()
def write_gallery(model: Mila, frames: Sequence[Frame], device: torch.device, path: Path, fast: bool) -> None:
    """Write a JPEG: a row a frame, the picture, then answer above ground truth for each task.

    Args:
        model: in evaluation mode, on `device`.
        frames: a few.
        path: of the file.
        fast: show the fast path, with the picture itself as its keyframe, instead of the slow network.
    """
    table = class_colours(model.config.palette, len(model.config.classes))
    rows = []
    for frame in frames:
        image, intrinsics, _ = frame_tensors(frame, device)
        size = (image.shape[-2] // 2, image.shape[-1] // 2)
        features = model.features(image)
        if fast:
            glance = model.glance(image)
            features = model.propagate(glance, model.remember(features, glance))
        answers = model.answer(features, model.config.tasks, intrinsics[:, 0], size, confidence=False)
        said = {task: value[0].cpu().numpy() for task, value in answers.items()}
        known = {"segmentation": frame.labels, "depth": frame.depth, "normals": frame.normals}
        truth = {task: None if value is None else _halved(value, size) for task, value in known.items()}
        rgb = _halved(frame.rgb, size)
        depths = [maps["depth"] for maps in (said, truth) if maps.get("depth") is not None]
        farthest = depth_range(depths)
        columns = [np.concatenate([rgb, np.zeros_like(rgb)])]
        for task in model.config.tasks:
            halves = []
            for value in (said[task], truth[task]):
                if value is None:
                    halves.append(np.zeros_like(rgb))
                else:
                    halves.append(task_picture(task, value, rgb, table, farthest))
            columns.append(np.concatenate(halves))
        row = np.concatenate(columns, axis=1)
        rows.append(
            row if not rows else fitted(row, (row.shape[0] * rows[0].shape[1] // row.shape[1], rows[0].shape[1]))
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(np.concatenate(rows)))


def _halved(value: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.ascontiguousarray(value[::2, ::2][: size[0], : size[1]])
