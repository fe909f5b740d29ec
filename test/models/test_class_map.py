"""Class ids from scores: the place of the greatest, found by its bits and class by class, against PyTorch's search."""

import pytest
import torch
import torch.nn.functional as F

from mila_ros.models.class_map import best_class, class_map


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


@pytest.mark.parametrize("classes", [1, 2, 11, 39])
@pytest.mark.parametrize(("full", "size"), [((88, 112), (88, 112)), ((251, 320), (240, 320)), ((31, 50), (30, 41))])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_map_made_class_by_class_is_that_of_the_enlarged_scores(
    classes: int, full: tuple[int, int], size: tuple[int, int], layout: torch.memory_format
) -> None:
    torch.manual_seed(1)
    scores = 4 * torch.randn(2, classes, 88, 112).contiguous(memory_format=layout)
    ids, sure = class_map(scores, full, size, confidence=True)
    large = F.interpolate(scores, size=full, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
    assert ids.dtype == torch.uint8 and ids.shape == (2, *size)
    lost = large.amax(1) - large.gather(1, ids.long()[:, None])[:, 0]
    assert lost.max() < 0.002
    assert sure is not None
    torch.testing.assert_close(sure, large.softmax(1).amax(1), atol=1e-5, rtol=1e-4)
    again, nothing = class_map(scores, full, size)
    assert nothing is None and torch.equal(again, ids)


def test_classes_that_are_nowhere_the_best_are_left_out() -> None:
    scores = torch.zeros(1, 3, 2, 2)
    scores[0, 0, :, 0], scores[0, 1, :, 1], scores[0, 2] = 4.0, 4.0, 3.0  # between the columns the third would win
    ids, _ = class_map(scores, (2, 8), (2, 8))
    assert ids[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_an_error(wrong: float) -> None:
    scores = torch.zeros(1, 3, 4, 4)
    scores[0, 1, 2, 2] = wrong
    with pytest.raises(ValueError, match="not finite"):
        class_map(scores, (8, 8), (8, 8))


def test_scores_of_inference_and_of_training_give_the_same() -> None:
    scores = torch.randn(1, 3, 17, 19)
    with torch.inference_mode():
        first, _ = class_map(scores, (33, 38), (33, 38))
    again, sure = class_map(scores.requires_grad_(), (33, 38), (33, 38), confidence=True)
    assert torch.equal(first, again) and sure is not None
