"""A small NYUv2 folder of made-up rooms, and its training frames in memory."""

from pathlib import Path

import pytest
import torch

from mila_ros.training.data import Pool, decoded, pool_of_frames
from mila_ros.worlds.nyuv2 import NyuV2

from ..worlds.nyu_tree import make_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("nyu"), ["0001", "0002", "0003", "0022", "0023"])


@pytest.fixture(scope="module")
def pool(tree: Path) -> Pool:
    return pool_of_frames(decoded(NyuV2(tree, "train"), "load"), torch.device("cpu"))
