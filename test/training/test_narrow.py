"""A narrower fast network begins with what counted most in the wider one; what did not count is not missed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mila_ros.errors import UserError
from mila_ros.models.checkpoint import save_model
from mila_ros.models.config import ModelConfig
from mila_ros.models.heads import Heads
from mila_ros.models.layers import ConvBlock
from mila_ros.models.mila import Mila
from mila_ros.models.propagation import Joining
from mila_ros.training.narrow import _rectified
from mila_ros.training.settings import TrainSettings
from mila_ros.training.start import build_model, carried_otherwise

NARROW = {"fast_head_channels": 4, "fast_hidden": 4}
DROPPED = torch.tensor([0, 2, 5, 7])


def trained(**changes: object) -> Mila:
    """As if it had been: no weight is zero, statistics are somewhere."""
    torch.manual_seed(0)
    model = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | changes)).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point() and value.ndim:
                value.add_(0.2 * torch.randn_like(value))
    return model


def answers(model: Mila) -> dict[str, torch.Tensor]:
    pictures = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        memory = model.keyframe(pictures[:1])
        seen = model.propagate(model.glance(pictures[1:]), memory)
        return model.predict(seen, model.config.tasks, torch.tensor([100.0]), (64, 96))


def quiet(block: ConvBlock, how: str) -> None:
    """What the block says in some channels is nothing, or always the same."""
    block.norm.weight[DROPPED] = 0.0
    if how == "silent":
        block.norm.bias[DROPPED] = -0.3  # cut off by ReLU, and where there is none it is a constant, too


def quieted(how: str, **changes: object) -> Mila:
    model = trained(**changes)
    with torch.no_grad():
        for part in (model.fast.merge8[0][1], *(p[0] for p in model.propagation.modules() if isinstance(p, Joining))):
            quiet(part, how)
        for head in model.fast_heads.tasks.values():
            for block in head.fine:
                quiet(block, how)
    return model


@pytest.mark.parametrize("how", ["silent", "constant"])
@pytest.mark.parametrize("way", [{"warp": True}, {"attention": "task"}, {"propagation": "laps"}], ids=str)
def test_channels_that_say_nothing_are_not_missed(how: str, way: dict[str, object]) -> None:
    wide = quieted(how, **way)
    narrow = carried_otherwise(wide, NARROW).eval()
    assert sum(p.numel() for p in narrow.fast_heads.parameters()) < sum(p.numel() for p in wide.fast_heads.parameters())
    for task, right in answers(wide).items():
        torch.testing.assert_close(answers(narrow)[task], right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"warp": False},
        {"attention": "task"},
        {"propagation": "attention+alignment"},
        {"propagation": "laps"},
        {"propagation": "learned-flow"},
    ],
    ids=str,
)
def test_narrower_and_carried_otherwise_at_once(change: dict[str, object]) -> None:
    """What joins begins as what was learned, or by adding nothing; never by what happens to be there."""
    wide = trained(warp=True)
    narrow = carried_otherwise(wide, NARROW | change).eval()
    answers(narrow)
    learned = wide.propagation.fuse[1].weight
    parts = [part for part in narrow.propagation.modules() if isinstance(part, Joining)]
    assert parts
    for part in parts:
        columns = {tuple(column) for column in learned.flatten(1).T.tolist()}
        assert not part[1].weight.any() or {tuple(c) for c in part[1].weight.flatten(1).T.tolist()} <= columns
        assert part[1].weight.any() == ("attention" in change.get("propagation", "attention") and "warp" not in change)
    carried = narrow.fast_heads.carried_in
    own = narrow.fast_heads.detail.conv.weight[:, : narrow.fast_heads.detail_in]
    assert own.any() and (not carried or narrow.fast_heads.detail.conv.weight[:, -carried:].any())


def test_the_slow_network_keeps_its_width() -> None:
    wide, narrow = trained(), carried_otherwise(trained(), NARROW | {"fast_trim": 1})
    for name, value in wide.state_dict().items():
        if name.startswith("slow"):
            torch.testing.assert_close(narrow.state_dict()[name], value)
    blocks = narrow.fast.backbone.net.blocks
    assert len(blocks[-1]) == len(wide.fast.backbone.net.blocks[-1]) - 1
    torch.testing.assert_close(narrow.fast.backbone.net.conv_stem.weight, wide.fast.backbone.net.conv_stem.weight)


def test_narrow_heads_can_begin_as_most_of_the_slow_ones(tmp_path: Path) -> None:
    wide = trained()
    with torch.no_grad():
        for head in wide.slow_heads.tasks.values():
            for block in head.fine:
                quiet(block, "constant")
    save_model(wide, tmp_path / "slow.safetensors", {"stages": ["slow"]})
    values = {"stage": "fast", "start": str(tmp_path / "slow.safetensors"), "rendered_clips": 1, "model": NARROW}
    model = build_model(TrainSettings(**values), ["slow"]).eval()  # type: ignore[arg-type]
    begun = Heads(model.config, model.fast.detail_channels, 8)
    begun.start_from(model.slow_heads)
    coarse, detail = torch.randn(1, 8, 8, 12), torch.randn(1, model.fast.detail_channels, 16, 24)
    with torch.no_grad():
        found = model.fast_heads(dict.fromkeys(model.config.tasks, coarse), detail)
        for task, right in begun.eval()(dict.fromkeys(model.config.tasks, coarse), detail).items():
            torch.testing.assert_close(found[task], right, rtol=1e-2, atol=1e-3)  # checkpoints are in half precision
    with pytest.raises(UserError, match="wider than fast heads of fast_head_channels: 4: leave it out"):
        build_model(TrainSettings(**values | {"blend": 0.5}), ["slow"])  # type: ignore[arg-type]


def test_what_was_made_narrow_stays_so() -> None:
    narrow = carried_otherwise(trained(), NARROW | {"fast_trim": 1})
    for change in ({"fast_head_channels": 6}, {"fast_hidden": 0}):
        with pytest.raises(UserError, match="smaller, not larger"):
            carried_otherwise(narrow, change)
    with pytest.raises(UserError, match="cannot be put back; it has 1"):
        carried_otherwise(narrow, {"fast_trim": 0})
    with pytest.raises(UserError, match="not more than 9 blocks"):
        carried_otherwise(narrow, {"fast_trim": 9})
    for wrong in ({"fast_head_channels": 9}, {"fast_hidden": -1}, {"fast_trim": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            ModelConfig.from_dict(ModelConfig.tiny().to_dict() | wrong)


def test_mean_and_spread_behind_a_rectifier() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.5, -2.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
        drawn = torch.randn(400_000, 3, generator=torch.Generator().manual_seed(0)) * norm.weight + norm.bias
        mean, variance = _rectified(norm)
    torch.testing.assert_close(mean, drawn.clamp(min=0).mean(0), rtol=0.01, atol=0.005)
    torch.testing.assert_close(variance, drawn.clamp(min=0).var(0), rtol=0.02, atol=0.005)
