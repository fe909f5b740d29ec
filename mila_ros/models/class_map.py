"""From coarse class scores to a map of class ids: enlarge, and take the best."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from mila_ros.models.layers import resize

_ABOVE = 64.0
"""Added to scores, so that the greatest is positive, and bits are worth alike in all that come near it."""

_STRIP = 16
"""Rows that a CPU enlarges and judges at a time: of 39 classes and 320 columns they take 0.8 MB, which caches hold."""


def best_class(scores: Tensor) -> Tensor:
    """Id of the greatest score: (B, K, h, w) float32 -> (B, h, w) uint8, K at most 255.

    PyTorch finds a maximum's place several times slower than its value. So the id is written over the score's last
    bits, which makes the value tell the place: positive floats have the order of their bits. Scores that differ by
    less than 0.002 count as equal.
    """
    classes = scores.shape[1]
    ids = torch.arange(classes, dtype=torch.int32, device=scores.device).view(1, -1, 1, 1)
    keys = (scores.float() + _ABOVE).view(torch.int32)
    return keys.bitwise_and_(~_id_bits(classes)).bitwise_or_(ids).amax(1).bitwise_and_(_id_bits(classes)).byte()


@torch.no_grad()
def class_map(
    scores: Tensor, full: tuple[int, int], size: tuple[int, int], confidence: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The best class at every place, of scores that are enlarged first (bilinear).

    On a CPU this goes in strips of rows: the enlarged scores are by far the largest thing that a frame makes, and to
    pass them through memory once an operator takes longer than to compute them.

    Args:
        scores: (B, K, h', w'), K at most 255.
        full: (H, W) to which they are enlarged.
        size: (h, w) of the upper left part that is wanted.
        confidence: also tell the probability of the best class.

    Returns:
        ids uint8 (B, h, w), and probabilities float32 (B, h, w) or None.
    """
    height, width = size
    if scores.device.type != "cpu":
        large = resize(scores.float(), full)[..., :height, :width]
        return best_class(large), _probability(large, 1) if confidence else None
    classes, rows = scores.shape[1:3]
    wide = resize(scores.float(), (rows, full[1]))[..., :width]
    lines = wide.permute(0, 2, 3, 1).reshape(-1, rows, width * classes)  # classes last
    ids = torch.arange(classes, dtype=torch.int32).repeat(width)
    bits = _id_bits(classes)
    best = torch.empty(len(scores), height, width, dtype=torch.uint8)
    sure = torch.empty(len(scores), height, width) if confidence else None
    for b, picture in enumerate(lines):
        for begin, end, first, last, weights in _strips(rows, full[0], height):
            strip = weights @ picture[first:last]
            if sure is not None:
                sure[b, begin:end] = _probability(strip.view(-1, width, classes), 2)
            # As in best_class, but over whole lines of memory: with the few classes innermost, loops would be short.
            keys = strip.add_(_ABOVE).view(torch.int32).bitwise_and_(~bits).bitwise_or_(ids)
            best[b, begin:end] = keys.view(-1, width, classes).amax(2).bitwise_and_(bits)
    return best, sure


def _id_bits(classes: int) -> int:
    return (1 << (classes - 1).bit_length()) - 1


def _probability(scores: Tensor, dim: int) -> Tensor:
    return (scores.amax(dim) - scores.logsumexp(dim)).exp()


@functools.lru_cache(maxsize=16)
def _strips(rows: int, full: int, height: int) -> tuple[tuple[int, int, int, int, Tensor], ...]:
    """How to enlarge columns of `rows` to `full`, of which the first `height` are wanted, strip by strip.

    Each: the strip's first and last (exclusive) row, those of the rows that it is made of, and their weights.
    """
    with torch.inference_mode(False):  # kept for others, too, who may not take tensors of inference
        return tuple(_made_strips(rows, full, height))


def _made_strips(rows: int, full: int, height: int) -> Iterator[tuple[int, int, int, int, Tensor]]:
    matrix = resize(torch.eye(rows).view(rows, 1, rows, 1), (full, 1)).view(rows, full).t().contiguous()
    for begin in range(0, height, _STRIP):
        end = min(height, begin + _STRIP)
        used = matrix[begin:end].any(0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        yield begin, end, first, last, matrix[begin:end, first:last].contiguous()
