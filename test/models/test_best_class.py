"""The place of the greatest score, found by its bits, against PyTorch's own search."""

import pytest
import torch

from mila_ros.models.heads import best_class


@pytest.mark.parametrize("classes", [2, 3, 39, 40, 64, 65, 255])
def test_the_greatest_score_wins(classes: int) -> None:
    torch.manual_seed(classes)
    scores = 8 * torch.randn(2, classes, 30, 40)
    for layout in (torch.contiguous_format, torch.channels_last):
        ids = best_class(scores.contiguous(memory_format=layout))
        assert ids.dtype == torch.uint8 and ids.shape == (2, 30, 40)
        lost = scores.amax(1) - scores.gather(1, ids.long()[:, None])[:, 0]
        assert lost.max() < 0.002
        assert (ids == scores.argmax(1)).float().mean() > 0.995


def test_scores_may_be_far_from_zero() -> None:
    scores = torch.tensor([-60.0, -50.0, -55.0]).view(1, 3, 1, 1)
    assert best_class(scores).item() == 1
    assert best_class(scores + 1000).item() == 1
    assert best_class(torch.tensor([-1000.0, 3.0]).view(1, 2, 1, 1)).item() == 1
