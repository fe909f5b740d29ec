"""Mixing in weight space: both ends are what they should be, and between them lies what lies between."""

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.training.blend import blend_share, blended, blended_slow, slow_weights
from mila_ros.training.settings import TrainSettings

WAYS = [
    {},
    {"warp": True},
    {"attention": "task"},
    {"propagation": "attention+alignment"},
    {"propagation": "laps"},
    {"propagation": "learned-flow"},
    {"propagation": "accel"},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_nothing_learned_is_the_slow_heads_on_what_was_carried(way: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | way)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    whole, half, none = (blended(model, share) for share in (1.0, 0.5, 0.0))
    torch.testing.assert_close(whole.state_dict(), model.state_dict())
    torch.testing.assert_close(none.fast_heads.tasks.state_dict(), model.slow_heads.tasks.state_dict())
    adding = (".fuse.1.", ".propagation.fusion.")
    last = [name for name in model.state_dict() if any(part in f".{name}" for part in adding)]
    assert last and all(not none.state_dict()[name].any() for name in last)
    for name, value in half.state_dict().items():
        if value.is_floating_point():
            between = (whole.state_dict()[name] + none.state_dict()[name]) / 2
            torch.testing.assert_close(value, between, msg=name)
    untouched = [name for name in model.state_dict() if name.startswith(("slow", "fast."))]
    for name in untouched:
        torch.testing.assert_close(half.state_dict()[name], model.state_dict()[name])
    with pytest.raises(ValueError, match="0 to 1"):
        blended(model, 1.5)


def test_a_slow_stage_goes_back_to_the_slow_network_it_was_given() -> None:
    torch.manual_seed(0)
    model = Mila(ModelConfig.tiny()).eval()
    start = slow_weights(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    whole, half, none = (blended_slow(model, start, share).state_dict() for share in (1.0, 0.5, 0.0))
    torch.testing.assert_close(whole, model.state_dict())
    assert start and all(name.startswith(("slow.", "slow_heads.")) for name in start)
    for name, value in model.state_dict().items():
        back = start.get(name, value)
        torch.testing.assert_close(none[name], back)
        if value.is_floating_point():
            torch.testing.assert_close(half[name], (value + back) / 2, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="0 to 1"):
        blended_slow(model, start, -0.1)
    with pytest.raises(UserError, match="blend below 1 goes back"):
        TrainSettings(rendered_clips=1, blend=0.5)


def test_what_is_usual_depends_on_what_there_is_to_go_back_to() -> None:
    wide = ModelConfig.tiny()
    narrow = ModelConfig.from_dict(wide.to_dict() | {"fast_head_channels": 4})
    slow = TrainSettings(data="nyuv2:unused")
    fast = TrainSettings(stage="fast", start="x", data="nyuv2:unused")
    assert [blend_share(s, c) for s, c in ((slow, wide), (fast, wide), (fast, narrow))] == [1.0, 0.5, 1.0]
    assert blend_share(TrainSettings(stage="fast", start="x", data="nyuv2:unused", blend=0.0), wide) == 0.0
