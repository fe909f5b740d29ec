"""Several cameras' frames as one batch: which go together, how many at once, and what they bring as one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mila_ros.runtime.shortage import Shortage

T = TypeVar("T")
LARGEST_BATCH = 8
"""Of frames that are answered at once: more gains little, and all of them are late."""


def shape_of(value: Any) -> Hashable:
    """What two things must have in common to be `stacked`: structure, sizes and types of tensors, and all else."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, Mapping):
        return tuple((name, shape_of(part)) for name, part in value.items())
    if isinstance(value, tuple):
        return type(value), tuple(shape_of(part) for part in value)
    known: Hashable = value
    return known


def stacked(values: Sequence[T]) -> T:
    """Alike things, each of one picture, as one of all of them: tensors (1, ...) become (B, ...), in order.

    Mappings and tuples (named ones, too) are taken apart. A tensor that stands in two places is stacked once.

    Raises:
        ValueError: they are not alike (`shape_of`).
    """
    if len(values) == 1:
        return values[0]
    if len({shape_of(value) for value in values}) > 1:
        raise ValueError("what is of different structure or size cannot go through a network together")
    made: dict[tuple[int, ...], Tensor] = {}

    def stack(parts: tuple[Any, ...]) -> Any:
        first = parts[0]
        if isinstance(first, Tensor):
            key = tuple(id(part) for part in parts)
            if key not in made:
                made[key] = torch.cat(parts)
            return made[key]
        if isinstance(first, Mapping):
            return {name: stack(tuple(part[name] for part in parts)) for name in first}
        if isinstance(first, tuple):
            items = [stack(each) for each in zip(*parts, strict=True)]
            return type(first)(*items) if hasattr(first, "_fields") else tuple(items)
        return first

    result: T = stack(tuple(values))
    return result


class BatchSizes:
    """How many frames go at once: powers of two, since each size is tuned for when it first comes; as many as fit.

    A batch that did not fit is not tried again for a while, each time for longer.
    """

    def __init__(self) -> None:
        self._fits = LARGEST_BATCH
        self._shortage = Shortage()

    def split(self, count: int, now: float) -> list[int]:
        """Sizes that add up to `count`, the largest first."""
        largest = self._fits
        if largest < LARGEST_BATCH and self._shortage.allows(now):
            largest *= 2
        sizes = []
        while count:
            size = min(largest, 1 << (count.bit_length() - 1))
            sizes.append(size)
            count -= size
        return sizes

    def fitted(self, size: int) -> None:
        """So many went through at once."""
        if size > self._fits:
            self._fits = size
            if size == LARGEST_BATCH:
                self._shortage.over()

    def lacked(self, size: int, now: float) -> None:
        """There was no memory for so many at once."""
        self._fits = max(1, size // 2)
        self._shortage.lacked(now)
