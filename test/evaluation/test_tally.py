"""Totals, blocks and intervals against independent arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mila_ros.evaluation.metrics import DepthMetrics, TaskMetrics
from mila_ros.evaluation.tally import Blocks, Tally, digest, intervals, metrics_of

TASKS = ("segmentation", "depth", "normals")
CLASSES = 4


def random_frame(generator: torch.Generator) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    def normals() -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(1, 6, 8, 3, generator=generator), dim=-1)

    def frame() -> dict[str, torch.Tensor]:
        return {
            "segmentation": torch.randint(0, CLASSES, (1, 6, 8), generator=generator).to(torch.uint8),
            "depth": torch.rand(1, 6, 8, generator=generator) * 6 + 0.2,
            "normals": normals(),
        }

    return frame(), frame()


def test_short_vectors_give_the_metrics_of_the_long_way() -> None:
    generator = torch.Generator().manual_seed(1)
    tally = Tally(TASKS, CLASSES)
    for index in range(20):
        tally.add(*random_frame(generator), stamp_ns=index)
    exact = tally.total.compute()
    total = sum(block.digest for block in tally.blocks.blocks)
    for task, values in metrics_of(total[None], TASKS).items():
        for name, column in values.items():
            assert column[0] == pytest.approx(exact[task][name], rel=1e-9), (task, name)


def test_depth_by_range_against_plain_numpy() -> None:
    rng = np.random.default_rng(2)
    said, true = rng.uniform(0.2, 8, 5000), rng.uniform(0.2, 8, 5000)
    metrics = DepthMetrics()
    metrics.update(torch.from_numpy(said), torch.from_numpy(true))
    for name, low, high in (("0-1 m", 0, 1), ("1-2 m", 1, 2), ("2-4 m", 2, 4), ("4+ m", 4, np.inf)):
        part = (true >= low) & (true < high)
        found = metrics.by_range()[name]
        assert found["share"] == pytest.approx(part.mean())
        assert found["rmse"] == pytest.approx(np.sqrt(np.mean((said - true)[part] ** 2)), rel=1e-9)
        assert found["abs_rel"] == pytest.approx(np.mean(np.abs(said - true)[part] / true[part]), rel=1e-9)
        ratio = np.maximum(said / true, true / said)[part]
        assert found["delta1"] == pytest.approx(np.mean(ratio < 1.25), rel=1e-9)


def test_sums_of_parts_make_the_whole() -> None:
    generator = torch.Generator().manual_seed(3)
    frames = [random_frame(generator) for _ in range(6)]
    whole, parts = TaskMetrics(TASKS, CLASSES), [TaskMetrics(TASKS, CLASSES) for _ in range(2)]
    for index, frame in enumerate(frames):
        whole.update(*frame)
        parts[index % 2].update(*frame)
    joined = TaskMetrics(TASKS, CLASSES)
    for part in parts:
        joined.add(part.sums())
    exact = whole.compute()
    for task, values in joined.compute().items():
        for name in values.keys() - {"iou"}:
            assert values[name] == pytest.approx(exact[task][name], rel=1e-12), (task, name)


def test_blocks_lose_nothing_and_stay_few() -> None:
    blocks = Blocks(most=8)
    for index in range(100):
        blocks.add(index, np.array([1.0, index]))
    assert len(blocks.blocks) <= 8
    assert sum(block.frames for block in blocks.blocks) == 100
    np.testing.assert_array_equal(sum(block.digest for block in blocks.blocks), [100, 4950])
    assert [block.first_ns for block in blocks.blocks] == sorted(block.first_ns for block in blocks.blocks)
    assert {block.frames for block in blocks.blocks[:-1]} == {16}


def test_intervals_hold_the_value_shrink_with_data_and_are_not_made_up() -> None:
    rng = np.random.default_rng(4)

    def filled(count: int) -> Blocks:
        blocks = Blocks()
        for index in range(count):
            # Depth alone: pixels, squared, relative, within, within when scaled.
            blocks.add(index, np.array([100.0, rng.uniform(0, 20), 10.0, 70.0, 80.0]))
        return blocks

    few, many = filled(16), filled(400)
    (low, high), (low2, high2) = (intervals(b.blocks, ("depth",), ["depth"])["depth"]["rmse"] for b in (few, many))
    for blocks, (a, b) in ((few, (low, high)), (many, (low2, high2))):
        total = sum(block.digest for block in blocks.blocks)
        assert a < metrics_of(total[None], ("depth",))["depth"]["rmse"][0] < b
    assert high2 - low2 < (high - low) / 2
    assert intervals(filled(5).blocks, ("depth",), ["depth"]) == {}


def test_absent_classes_do_not_count() -> None:
    metrics = TaskMetrics(("segmentation",), CLASSES)
    metrics.update({"segmentation": torch.tensor([[0, 1, 1, 3]])}, {"segmentation": torch.tensor([[0, 0, 1, 1]])})
    values = metrics_of(digest(metrics.sums(), ("segmentation",))[None], ("segmentation",))["segmentation"]
    assert values["miou"][0] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert values["pixel_accuracy"][0] == pytest.approx(0.5)
