"""Periodic shift and leap attention: no parameters, only the past, who attends to whom."""

import pytest
import torch

from mila_ros.models.config import ModelConfig
from mila_ros.models.laps import LapsPropagation, LeapAttention, leap_pairs, periodic_shift, shift_clip
from mila_ros.models.propagation import Keyframe
from mila_ros.models.propagations import make_propagation


def test_every_fourth_channel_comes_from_the_past() -> None:
    now, past = torch.zeros(1, 8, 2, 3), torch.ones(1, 8, 2, 3)
    assert periodic_shift(now, past).mean(dim=(0, 2, 3)).tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert periodic_shift(now, past, period=2).mean() == 0.5


def test_a_shifted_clip_knows_only_the_past() -> None:
    clip = torch.randn(2, 5, 8, 3, 4, requires_grad=True)
    shifted = shift_clip(clip)
    torch.testing.assert_close(shifted[:, 0], clip[:, 0])
    (gradient,) = torch.autograd.grad(shifted[:, 2].sum(), clip)
    used = gradient.abs().sum(dim=(0, 2, 3, 4)) > 0
    assert used.tolist() == [False, True, True, False, False]


def test_frames_are_paired_a_leap_apart_each_once() -> None:
    assert leap_pairs(8, 4) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert leap_pairs(8, 2) == [(0, 2), (1, 3), (4, 6), (5, 7)]
    assert sorted(frame for pair in leap_pairs(16, 1) for frame in pair) == list(range(16))
    for frames, leap in ((6, 4), (8, 0), (5, 1)):
        with pytest.raises(ValueError, match="cannot be paired"):
            leap_pairs(frames, leap)


def test_leap_attention_sees_both_frames_everywhere() -> None:
    torch.manual_seed(0)
    now, past, known = (torch.randn(1, 32, 3, 4, requires_grad=True) for _ in range(3))
    found = LeapAttention(32)(now, past, known)[0, :, 1, 1].sum()
    for source in torch.autograd.grad(found, (now, past, known)):
        assert source[0].abs().amax(dim=0).min() > 0
    assert LeapAttention(32)(now, past).shape == now.shape


def test_before_training_the_keyframe_is_carried_as_it_is() -> None:
    torch.manual_seed(0)
    carry = make_propagation(ModelConfig(classes=("a", "b"), channels=32, query_channels=32, propagation="laps")).eval()
    assert isinstance(carry, LapsPropagation) and not carry.look_ups()
    keyframe = Keyframe(torch.randn(1, 32, 7, 9), torch.randn(1, 32, 7, 9), torch.zeros(1, 3, 14, 18))
    found = carry(torch.randn(1, 32, 7, 9), carry.remember(keyframe), ["depth", "segmentation"])
    torch.testing.assert_close(found["depth"].coarse, keyframe.carried)
    with pytest.raises(ValueError, match="make a new keyframe"):
        carry(torch.zeros(1, 32, 7, 8), carry.remember(keyframe), ["depth"])
