"""Mixing in weight space: both ends are what they should be, and between them lies what lies between."""

import pytest
import torch

from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.training.blend import blended

WAYS = [{}, {"warp": True}, {"attention": "task"}, {"propagation": "attention+alignment"}, {"propagation": "laps"}]


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
    last = [name for name in model.state_dict() if ".fuse.1." in f".{name}"]
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
