"""How much arithmetic a frame costs, counted by running the network under PyTorch's own counter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mila_ros.models.mila import Mila

T = TypeVar("T")


def _fused(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# The fused CPU kernel is not in the counter's table. (Choosing another kernel for the count would choose it for every
# thread of the process, those that answer frames included.)
_FUSED_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused}


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one picture (two a multiply-add), by part."""

    slow: int
    """Slow network and what a keyframe needs beside it to be remembered."""
    remember: int
    """The share of `slow` that only a keyframe pays: keys, values, and the fast network's look at the picture."""
    fast: int
    propagate: int
    heads: int
    """The fast network's heads for the tasks that were asked for."""
    heads_slow: int

    @property
    def slow_frame(self) -> int:
        """A frame answered by the slow network, with nothing remembered: what MILA is compared with."""
        return self.slow - self.remember + self.heads_slow

    @property
    def fast_frame(self) -> int:
        """A frame answered by the fast network and propagation."""
        return self.fast + self.propagate + self.heads

    def amortised(self, interval: int) -> float:
        """Mean cost a frame when every `interval`-th frame is a keyframe answered by the slow network."""
        keyframe = self.slow + self.heads_slow
        return (keyframe + (interval - 1) * self.fast_frame) / interval

    def saved(self, interval: int) -> float:
        """Share of the slow-on-every-frame cost that is not spent (0..1)."""
        return 1.0 - self.amortised(interval) / self.slow_frame


def count_flops(model: Mila, height: int, width: int, tasks: Sequence[str] | None = None) -> Flops:
    """FLOPs of each part for one picture of height x width pixels; tasks: those of the model when None."""
    tasks = tuple(model.config.tasks if tasks is None else tasks)
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)
    focal = torch.full((1,), model.config.canonical_focal, device=parameter.device)
    size = (height // 2, width // 2)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        memory, slow = counted(lambda: model.keyframe(image))
        _, bare = counted(lambda: model.features(image))
        glance, fast = counted(lambda: model.glance(image))
        for _ in range(model.config.frames - 1):  # after so many keyframes, there are as many to look up as ever
            memory = model.keyframe(image, memory)
        features, propagate = counted(lambda: model.propagate(glance, memory, tasks))
        _, heads = counted(lambda: model.predict(features, tasks, focal, size))
        _, heads_slow = counted(lambda: model.predict(memory.features, tasks, focal, size))
    model.train(was_training)
    return Flops(slow, slow - bare, fast, propagate, heads, heads_slow)


def counted(call: Callable[[], T]) -> tuple[T, int]:
    """What a call returns, and its floating-point operations."""
    with FlopCounterMode(display=False, custom_mapping=_FUSED_ON_CPU) as counter:
        result = call()
    return result, counter.get_total_flops()
