"""Rivals of attention: warping by no flow changes nothing, warping finds what moved, reuse is the keyframe's answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.evaluation.carriers import CARRIERS, Seen, make_carrier, warped
from mila_ros.evaluation.compare import compare_frames
from mila_ros.models.flops import count_flops
from mila_ros.models.networks import Features
from mila_ros.worlds.frames import Frame

from .small_bag import CAMERA, H, W, tiny_model


def random_features(height: int, width: int) -> Features:
    torch.manual_seed(1)
    padded = (height + 31) // 32 * 32
    coarse, detail = torch.randn(1, 4, padded // 8, width // 8), torch.randn(1, 3, padded // 4, width // 4)
    return Features(coarse, detail, height, width, 1.0, slow=True)


@pytest.mark.parametrize("height", [64, 48])  # the second is padded
def test_no_flow_is_the_identity(height: int) -> None:
    features = random_features(height, 96)
    same = warped(features, torch.zeros(1, 2, height, 96))
    torch.testing.assert_close(same.coarse, features.coarse)
    torch.testing.assert_close(same.detail, features.detail)


def test_warping_brings_what_was_elsewhere() -> None:
    features = random_features(64, 96)
    flow = torch.zeros(1, 2, 64, 96)
    flow[:, 0] = 16.0  # it was 16 pixels to the right: two cells of stride 8, four of stride 4
    moved = warped(features, flow)
    torch.testing.assert_close(moved.coarse[..., :-2], features.coarse[..., 2:])
    torch.testing.assert_close(moved.detail[..., :-4], features.detail[..., 4:])


def test_flow_finds_a_shifted_picture_again() -> None:
    model = tiny_model()
    noise = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 40), (H, 160), mode="bicubic").clamp(0, 1)
    before, now = noise[..., 16 : 16 + W], noise[..., 24 : 24 + W]
    with torch.inference_mode():
        seen = Seen(before, model.features(before), model.glance(before))
        frame = Seen(now, None, model.glance(now))
        truth = torch.roll(seen.slow.coarse, -1, dims=-1)[..., 1:-2]  # type: ignore[union-attr]
        errors = {}
        for name in ("reuse", "flow"):
            carrier = make_carrier(name, model)
            coarse = carrier.carry(frame, carrier.remember(seen, None)).coarse[..., 1:-2]
            errors[name] = float((coarse - truth).abs().mean())
    assert errors["flow"] < 0.3 * errors["reuse"]


def test_reuse_is_the_keyframes_own_answer_and_mila_is_not() -> None:
    model = tiny_model()
    image = torch.rand(1, 3, H, W)
    with torch.inference_mode():
        seen = Seen(image, model.features(image), model.glance(image))
        reuse, mila = make_carrier("reuse", model), make_carrier("mila", model)
        other = Seen(torch.rand(1, 3, H, W), None, model.glance(torch.rand(1, 3, H, W)))
        assert reuse.carry(other, reuse.remember(seen, None)) is seen.slow
        assert not mila.carry(other, mila.remember(seen, None)).slow
    flops = count_flops(model, H, W)
    assert reuse.frame_flops(flops) == flops.heads_slow < mila.frame_flops(flops) == flops.fast_frame


def test_all_methods_are_judged_on_the_same_frames() -> None:
    rng = np.random.default_rng(0)
    frame = Frame(
        rng.integers(0, 255, (H, W, 3), dtype=np.uint8),
        CAMERA,
        depth=np.full((H, W), 2.0, np.float32),
        labels=np.ones((H, W), np.uint8),
    )
    results = compare_frames(tiny_model(), [frame], torch.device("cpu"), (1, 5), CARRIERS)
    assert list(results) == ["slow", "fast", *(f"{name}@{d}" for name in CARRIERS for d in (1, 5))]
    assert "gflops_amortised" in results["mila@5"] and "gflops_amortised" not in results["flow@5"]
    alone = compare_frames(tiny_model(), [frame], torch.device("cpu"), (1, 5))
    assert alone["mila@5"] == results["mila@5"]


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(UserError, match='"wrap"; there are mila, reuse, flow'):
        make_carrier("wrap", tiny_model())
