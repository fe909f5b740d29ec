"""Several cameras' frames as one batch: what each brings, laid one behind the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def stacked(values: Sequence[T]) -> T:
    """Alike things, each of one picture, as one of all of them: tensors (1, ...) become (B, ...), in order.

    Mappings and tuples (named ones, too) are taken apart; what is no tensor must be the same in all. A tensor that
    stands in two places is stacked once.

    Raises:
        ValueError: they are not alike.
    """
    if len(values) == 1:
        return values[0]
    made: dict[tuple[int, ...], Tensor] = {}

    def stack(parts: tuple[Any, ...]) -> Any:
        first = parts[0]
        if any(type(part) is not type(first) for part in parts):
            raise ValueError(f"frames cannot be answered together: {', '.join(type(p).__name__ for p in parts)}")
        if isinstance(first, Tensor):
            key = tuple(id(part) for part in parts)
            if key not in made:
                made[key] = torch.cat(parts)
            return made[key]
        if isinstance(first, Mapping):
            return {name: stack(tuple(part[name] for part in parts)) for name in first}
        if isinstance(first, tuple):
            if any(len(part) != len(first) for part in parts):
                raise ValueError("frames cannot be answered together: different numbers of keyframes")
            items = [stack(each) for each in zip(*parts, strict=True)]
            return type(first)(*items) if hasattr(first, "_fields") else tuple(items)
        if any(part != first for part in parts):
            raise ValueError(f"frames cannot be answered together: {parts}")
        return first

    result: T = stack(tuple(values))
    return result
