"""From coarse class scores to a map of class ids: enlarge, and take the best."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mila_ros.models.layers import resize

_ABOVE = 64.0
"""Added to scores, so that the greatest is positive, and bits are worth alike in all that come near it."""


def best_class(scores: Tensor) -> Tensor:
    """Id of the greatest score: (B, K, h, w) float32 -> (B, h, w) uint8, K at most 255.

    PyTorch finds a maximum's place several times slower than its value. So the id is written over the score's last
    bits, which makes the value tell the place: positive floats have the order of their bits. Scores that differ by
    less than 0.002 count as equal.
    """
    classes = scores.shape[1]
    ids = torch.arange(classes, dtype=torch.int32, device=scores.device).view(1, -1, 1, 1)
    bits = (1 << (classes - 1).bit_length()) - 1
    keys = (scores.float() + _ABOVE).view(torch.int32)
    return keys.bitwise_and_(~bits).bitwise_or_(ids).amax(1).bitwise_and_(bits).byte()


@torch.no_grad()
def class_map(
    scores: Tensor, full: tuple[int, int], size: tuple[int, int], confidence: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The best class at every place, of scores that are enlarged first (bilinear).

    On a CPU this goes class by class: all enlarged scores together are by far the largest thing that a frame makes, and
    to pass them through memory takes longer than to compute them. And it goes only through classes that are the best
    somewhere before they are enlarged, which is less than half of them in most pictures. (A class that is second at all
    four places around another can be first between them; in real pictures that was so in 2 of 100 000 places.)

    Args:
        scores: (B, K, h', w'), K at most 255.
        full: (H, W) to which they are enlarged.
        size: (h, w) of the upper left part that is wanted.
        confidence: also tell the probability of the best class.

    Returns:
        ids uint8 (B, h, w), and probabilities float32 (B, h, w) or None.

    Raises:
        ValueError: on a CPU, scores that are NaN or infinite.
    """
    height, width = size
    if scores.device.type != "cpu":
        large = resize(scores.float(), full)[..., :height, :width]
        sure = (large.amax(1) - large.logsumexp(1)).exp() if confidence else None
        return best_class(large), sure
    scores = scores.float()
    ids = np.zeros((len(scores), *size), np.uint8)
    probabilities = np.zeros((len(scores), *size), np.float32) if confidence else None
    room = np.empty(full, np.float32)  # for one class at a time, so that it stays in the cache
    for b, picture in enumerate(scores.numpy()):
        best = _best(picture, _somewhere_best(scores[b : b + 1]), room, ids[b])
        if probabilities is not None:
            _sum_of_odds(picture, best, room, probabilities[b])
    if probabilities is None:
        return torch.from_numpy(ids), None
    return torch.from_numpy(ids), torch.from_numpy(np.reciprocal(probabilities, out=probabilities))


def _somewhere_best(scores: Tensor) -> list[int]:
    """Classes, ascending."""
    found: list[int] = best_class(scores).flatten().bincount().nonzero().flatten().tolist()
    return found


def _best(
    picture: npt.NDArray[np.float32], classes: list[int], room: npt.NDArray[np.float32], ids: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Write the best class's id; returns its score."""
    if not np.isfinite(picture).all():
        raise ValueError("class scores are not finite: the picture or the weights hold what is no number")
    best = np.full(ids.shape, -np.inf, np.float32)
    higher, mark = np.empty(ids.shape, bool), np.empty(ids.shape, np.uint8)
    for k in classes:
        score = _enlarged(picture[k], room, best.shape)
        np.greater(score, best, out=higher)
        np.maximum(best, score, out=best)
        # Classes come in ascending order, so the greatest id that was ever the best is the last that was.
        np.maximum(ids, np.multiply(higher.view(np.uint8), np.uint8(k), out=mark), out=ids)
    return best


def _sum_of_odds(
    picture: npt.NDArray[np.float32],
    best: npt.NDArray[np.float32],
    room: npt.NDArray[np.float32],
    total: npt.NDArray[np.float32],
) -> None:
    """Add up exp(score - best) over all classes: one over the best one's probability."""
    for plane in picture:
        score = _enlarged(plane, room, best.shape)
        np.add(total, np.exp(np.subtract(score, best, out=score), out=score), out=total)


def _enlarged(
    plane: npt.NDArray[np.float32], room: npt.NDArray[np.float32], size: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    cv2.resize(plane, room.shape[::-1], dst=room, interpolation=cv2.INTER_LINEAR)
    return room[: size[0], : size[1]]
