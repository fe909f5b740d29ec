"""How much arithmetic a frame costs, counted by running the network under PyTorch's own counter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mila_ros.models.config import task_sets
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
    """For the tasks that were asked for, behind propagation: the fast network's, with Accel the slow one's, too."""
    heads_alone: int
    """The fast network's, without a keyframe."""
    heads_slow: int

    @property
    def slow_frame(self) -> int:
        """A frame answered by the slow network, with nothing remembered: what MILA is compared with."""
        return self.slow - self.remember + self.heads_slow

    @property
    def fast_frame(self) -> int:
        """A frame answered by the fast network and propagation."""
        return self.fast + self.propagate + self.heads

    @property
    def alone_frame(self) -> int:
        """A frame answered by the fast network alone."""
        return self.fast + self.heads_alone

    def amortised(self, interval: int) -> float:
        """Mean cost a frame when every `interval`-th frame is a keyframe answered by the slow network."""
        keyframe = self.slow + self.heads_slow
        return (keyframe + (interval - 1) * self.fast_frame) / interval

    def saved(self, interval: int) -> float:
        """Share of the slow-on-every-frame cost that is not spent (0..1)."""
        return 1.0 - self.amortised(interval) / self.slow_frame


def count_flops(model: Mila, height: int, width: int, tasks: Sequence[str] | None = None) -> Flops:
    """FLOPs of each part for one picture of height x width pixels; tasks: those of the model when None."""
    wanted = tuple(model.config.tasks if tasks is None else tasks)
    return count_flops_by_tasks(model, height, width, [wanted])[wanted]


def count_flops_by_tasks(
    model: Mila, height: int, width: int, sets: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], Flops]:
    """As `count_flops`, for several sets of tasks; the networks, which are the same for all, run once."""
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)
    focal = torch.full((1,), model.config.canonical_focal, device=parameter.device)
    size = (height // 2, width // 2)
    was_training = model.training
    model.eval()
    found: dict[tuple[str, ...], Flops] = {}
    with torch.no_grad():
        memory, slow = counted(lambda: model.keyframe(image))
        _, bare = counted(lambda: model.features(image))
        glance, fast = counted(lambda: model.glance(image))
        for _ in range(model.config.frames - 1):  # after so many keyframes, there are as many to look up as ever
            memory = model.keyframe(image, memory)
        for tasks in sets:
            features, propagate = counted(partial(model.propagate, glance, memory, tasks))
            _, heads = counted(partial(model.predict, features, tasks, focal, size))
            _, alone = counted(partial(model.predict, glance, tasks, focal, size))
            _, heads_slow = counted(partial(model.predict, memory.features, tasks, focal, size))
            found[tasks] = Flops(slow, slow - bare, fast, propagate, heads, alone, heads_slow)
    model.train(was_training)
    return found


class FlopCounts:
    """What was counted of a network, by size of the picture and tasks. Any thread may ask."""

    def __init__(self, model: Mila) -> None:
        self._model = model
        self._counts: dict[tuple[int, int], dict[tuple[str, ...], Flops]] = {}
        self._lock = threading.Lock()

    def count(self, size: tuple[int, int], tasks: Sequence[str]) -> Flops:
        """For a picture of (h, w), counted at the first time: for every set of tasks at once, since whoever wants
        others may come, and counting keeps keyframes waiting."""
        of_all = self._model.config.tasks
        with self._lock:
            if size not in self._counts:
                self._counts[size] = count_flops_by_tasks(self._model, *size, task_sets(of_all))
        return self._counts[size][self._in_order(tasks)]

    def known(self, size: tuple[int, int], tasks: Sequence[str]) -> Flops | None:
        """As `count`; None where that has not been done yet."""
        return self._counts.get(size, {}).get(self._in_order(tasks))

    def _in_order(self, tasks: Sequence[str]) -> tuple[str, ...]:
        return tuple(task for task in self._model.config.tasks if task in tasks)


def counted(call: Callable[[], T]) -> tuple[T, int]:
    """What a call returns, and its floating-point operations."""
    with FlopCounterMode(display=False, custom_mapping=_FUSED_ON_CPU) as counter:
        result = call()
    return result, counter.get_total_flops()
