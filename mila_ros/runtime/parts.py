"""A network's parts as graphs of plain tensors, for a runtime that is not PyTorch.

The parts are those whose time is told apart (fast, attention, heads, slow), so that a runtime may take over each where
it stands. Maps go in and come out with channels last, (1, h, w, C), as convolutions on a CPU have them; so nothing is
reordered between one part and the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mila_ros.models.attention import AttentionPropagation, Remembered
from mila_ros.models.heads import Heads
from mila_ros.models.mila import STRIDE, Mila
from mila_ros.models.propagation import Carried, Keyframe, Propagation

FAST, SLOW, PROPAGATION, FAST_HEADS, SLOW_HEADS = "fast", "slow", "propagation", "fast_heads", "slow_heads"


class Graph(NamedTuple):
    """One part for one size of picture."""

    module: nn.Module
    """Takes the inputs in their order, gives the outputs in theirs."""
    inputs: Mapping[str, Tensor]
    """Examples, by name."""
    outputs: tuple[str, ...]


def graphs(model: Mila, height: int, width: int) -> dict[str, Graph]:
    """The parts that can leave PyTorch, by name.

    Args:
        model: in evaluation mode; graphs have its precision, and their tensors its device.
        height, width: of the picture behind `pad_to_stride`, so multiples of 32.
    """
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"{width}x{height}: a padded picture's sides are multiples of {STRIDE}")
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    like = next(model.parameters())
    image = image.to(like).contiguous(memory_format=torch.channels_last)
    tasks = model.config.tasks
    with torch.no_grad():
        fast, slow = model.fast(image), model.slow(image)
        keyframe = Keyframe(fast[0] if model.config.keys == "fast" else slow[0], *slow)
        remembered = model.propagation.remember(keyframe)
        carried = model.propagation(fast[0], remembered, tasks)
    made = {
        FAST: Graph(_NetworkGraph(model.fast), {"image": last(image)}, ("coarse", "detail")),
        SLOW: Graph(_NetworkGraph(model.slow), {"image": last(image)}, ("coarse", "detail")),
        FAST_HEADS: _heads(model.fast_heads, looked_up(model.propagation, tasks), carried, fast[1]),
        SLOW_HEADS: _heads(model.slow_heads, dict.fromkeys(tasks, "all"), {tasks[0]: Carried(*slow)}, slow[1]),
    }
    if isinstance(model.propagation, AttentionPropagation) and can_leave(model.propagation):
        part = _PropagationGraph(model.propagation, remembered)
        given = {"current": last(fast[0]), **propagation_inputs(remembered)}
        made[PROPAGATION] = Graph(part, given, part.outputs)
    return made


def last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), contiguous: no copy where channels lie last in memory already."""
    return x.permute(0, 2, 3, 1).contiguous()


def first(x: Tensor) -> Tensor:
    """The reverse: (B, H, W, C) -> (B, C, H, W), channels last in memory."""
    return x.permute(0, 3, 1, 2)


def looked_up(propagation: Propagation, tasks: Sequence[str]) -> dict[str, str]:
    """Task -> name of the look-up that its head reads; tasks of one name read the very same maps."""
    names = propagation.look_ups()
    return {task: task if task in names else "all" for task in tasks}


def can_leave(propagation: Propagation) -> bool:
    """Whether this way to carry features has a graph: local attention to one keyframe."""
    if not isinstance(propagation, AttentionPropagation):
        return False
    return all(part.attention.frames == 1 for part in propagation.look_ups().values())


def propagation_inputs(remembered: Remembered) -> dict[str, Tensor]:
    """What a keyframe brings to the graph of `PROPAGATION`, by name."""
    given = look_up_tensors(remembered.together)
    if remembered.maps is not None:
        # These are sampled, which is done map by map: the one place where channels come first.
        given |= {f"keyframe_{part}": value.contiguous() for part, value in remembered.maps._asdict().items()}
    return given


def look_up_tensors(look_ups: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of what look-ups remember, by field and look-up: keys_all, values_all, ..."""
    return {
        f"{field}_{name}": value
        for name, look_up in look_ups.items()
        for field, value in look_up._asdict().items()
        if isinstance(value, Tensor)
    }


def look_ups_with(look_ups: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same with other tensors, by the names that `look_up_tensors` gives."""
    return {
        name: look_up._replace(
            **{field: tensors[f"{field}_{name}"] for field, x in look_up._asdict().items() if isinstance(x, Tensor)}
        )
        for name, look_up in look_ups.items()
    }


class _NetworkGraph(nn.Module):
    """The slow or the fast network: (1, H, W, 3) -> coarse and detail."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(last(x) for x in self.network(first(image)))


class _PropagationGraph(nn.Module):
    """Attention: the current features and what is remembered -> what is known, by look-up."""

    def __init__(self, propagation: AttentionPropagation, like: Remembered) -> None:
        super().__init__()
        self.propagation, self._like = propagation, like
        self._names = tuple(propagation_inputs(like))
        self._tasks = tuple(propagation.look_ups())  # one for each look-up: what all share, any name asks for
        warped = like.maps is not None
        kinds = ("coarse", "carried") if warped else ("coarse",)
        self.outputs = (*(f"{kind}_{name}" for name in self._tasks for kind in kinds), *(("match",) if warped else ()))

    def forward(self, current: Tensor, *remembered: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self._names, remembered, strict=True))
        together = look_ups_with(self._like.together, given)
        maps = self._like.maps
        if maps is not None:
            maps = Keyframe(*(given[f"keyframe_{part}"] for part in maps._fields))
        memory = Remembered(together, (), together, maps)
        tasks = self._tasks
        found: list[Tensor] = []
        brought = self.propagation(first(current), memory, tasks, match=maps is not None)
        for task in tasks:
            found.append(last(brought[task].coarse))
            if brought[task].detail is not None:
                found.append(last(brought[task].detail))
        if maps is not None:
            found.append(brought[tasks[0]].match)
        return tuple(found)


class _HeadsGraph(nn.Module):
    """Heads: coarse maps by look-up, details, and the keyframe's details by look-up -> raw answers by task."""

    def __init__(self, heads: Heads, names: Mapping[str, str]) -> None:
        super().__init__()
        self.heads, self._names = heads, dict(names)
        self._groups = tuple(dict.fromkeys(names.values()))

    def forward(self, detail: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        count = len(self._groups)
        coarse = dict(zip(self._groups, map(first, maps[:count]), strict=True))
        carried = dict(zip(self._groups, map(first, maps[count:]), strict=True)) if maps[count:] else None
        answers = self.heads(
            {task: coarse[name] for task, name in self._names.items()},
            first(detail),
            None if carried is None else {task: carried[name] for task, name in self._names.items()},
        )
        return tuple(last(answers[task]) for task in self._names)


def _heads(heads: Heads, names: Mapping[str, str], carried: Mapping[str, Carried], detail: Tensor) -> Graph:
    groups = {names[task]: brought for task, brought in carried.items()}
    given = {"detail": last(detail)} | {f"coarse_{name}": last(brought.coarse) for name, brought in groups.items()}
    if heads.carried_in:
        given |= {f"carried_{name}": last(x) for name, brought in groups.items() if (x := brought.detail) is not None}
    return Graph(_HeadsGraph(heads, names), given, tuple(names))
