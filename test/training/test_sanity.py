"""Mistakes in data are said before training, not after."""

from dataclasses import replace

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.training.data import Pool
from mila_ros.training.sanity import check_pool
from mila_ros.worlds.frames import IGNORE
from mila_ros.worlds.labels import load_labels

CLASSES = load_labels("nyu40").classes


def test_what_a_pool_holds_is_said(pool: Pool) -> None:
    said = check_pool("rooms", pool, CLASSES)
    assert said.startswith("rooms: 3 frames of 128x96, 98% labelled, 3 of 39 classes, depth known in 100%, median ")
    assert "63 degrees of view" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: {"rgb": torch.full_like(p.rgb, 7)}, "every picture is of one colour"),
        (lambda p: {"labels": torch.full_like(p.labels, IGNORE)}, "no pixel is labelled"),
        (lambda p: {"depth": p.depth * 0}, "no depth is known"),
        (lambda p: {"depth": p.depth * 1000}, "depth is in metres"),
        (lambda p: {"normals": -p.normals}, "point away from the camera"),
        (lambda p: {"intrinsics": p.intrinsics / 100}, "degrees of view"),
    ],
)
def test_mistakes_are_found(pool: Pool, change, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_pool("rooms", replace(pool, **change(pool)), CLASSES)


def test_data_of_fewer_tasks_is_no_mistake(pool: Pool) -> None:
    alone = replace(pool, depth=pool.depth * 0, normals=pool.normals * 0, tasks=("segmentation",))
    assert "depth" not in check_pool("drives", alone, CLASSES)
