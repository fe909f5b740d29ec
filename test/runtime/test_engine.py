"""The engine on the CPU with the real network, tiny and with random weights: shapes, units, precision, refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.models.config import ModelConfig
from mila_ros.models.flops import count_flops
from mila_ros.models.mila import Mila
from mila_ros.runtime.devices import available_devices, fast_bf16, pick_device, pick_precision
from mila_ros.runtime.engine import Engine

RNG = np.random.default_rng(0)


def tiny() -> Mila:
    torch.manual_seed(0)
    return Mila(ModelConfig.tiny()).eval()


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny(), "cpu", "fp32", output_scale=0.5)


@pytest.mark.parametrize("size", [(96, 128), (97, 131)])
def test_answers_have_the_promised_types_and_shapes(engine, size):
    with engine.fast_thread():
        seen = engine.upload(picture(*size))
        memory, slow_ms = engine.keyframe(seen)
        answer = engine.answer(seen, memory, engine.tasks, focal=100.0, confidence=True)
    h, w = engine.output_size(*size)
    assert abs(h - size[0] / 2) <= 0.5 and answer.size == (h, w) and slow_ms > 0
    assert answer.segmentation.shape == (h, w) and answer.segmentation.dtype == np.uint8
    assert answer.segmentation.max() < len(engine.classes)
    assert answer.confidence.shape == (h, w) and 0 < answer.confidence.min() and answer.confidence.max() <= 1.0001
    assert answer.depth.shape == (h, w) and answer.depth.dtype == np.float32 and answer.depth.min() > 0
    assert answer.normals.shape == (h, w, 3) and answer.normals.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(np.linalg.norm(answer.normals, axis=2), 1, atol=1e-4)
    assert set(answer.milliseconds) == {"upload", "fast", "ila", "heads", "download"}


def test_only_wanted_tasks_are_computed(engine):
    with engine.fast_thread():
        answer = engine.answer(engine.upload(picture(64, 64)), None, ("depth",), focal=100.0)
    assert answer.depth is not None
    assert answer.segmentation is None and answer.confidence is None and answer.normals is None
    assert "ila" not in answer.milliseconds  # no memory, so nothing to look at


def test_answers_are_those_of_the_model():
    plain, engine = tiny(), Engine(tiny(), "cpu", "fp32", output_scale=1.0)
    rgb = picture(64, 96)
    image = torch.tensor(rgb).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        memory = plain.keyframe(image)
        expected = plain.answer(
            plain.propagate(plain.glance(image), memory), ("depth", "normals"), torch.tensor([80.0]), (64, 96)
        )
    with engine.fast_thread():
        seen = engine.upload(rgb)
        answer = engine.answer(seen, engine.keyframe(seen)[0], ("depth", "normals"), focal=80.0)
    np.testing.assert_allclose(answer.depth, expected["depth"][0].numpy(), rtol=1e-3)
    np.testing.assert_allclose(answer.normals, expected["normals"][0].numpy(), atol=1e-3)


def test_depth_follows_the_focal_length(engine):
    with engine.fast_thread():
        seen = engine.upload(picture(64, 96))
        near = engine.answer(seen, None, ("depth",), focal=100.0).depth
        far = engine.answer(seen, None, ("depth",), focal=200.0).depth
    np.testing.assert_allclose(far, 2 * near, rtol=1e-5)


def test_large_pictures_are_shrunk_and_the_focal_length_with_them():
    engine = Engine(tiny(), "cpu", "fp32", output_scale=0.5, max_pixels=96 * 128)
    rgb = np.repeat(np.repeat(picture(96, 128), 4, axis=0), 4, axis=1)
    with engine.fast_thread():
        small = engine.upload(np.ascontiguousarray(rgb[::4, ::4]))
        large = engine.upload(rgb)
        assert large.size == small.size == (96, 128) and large.original == (384, 512)
        a = engine.answer(small, None, ("depth",), focal=100.0)
        b = engine.answer(large, None, ("depth",), focal=400.0)
    assert a.size == b.size == (48, 64)
    np.testing.assert_allclose(a.depth, b.depth, rtol=1e-4)


def test_the_keyframe_answers_for_itself(engine):
    with engine.fast_thread():
        seen = engine.upload(picture(64, 64))
        answer = engine.answer_keyframe(seen, engine.keyframe(seen)[0], engine.tasks, focal=100.0)
    assert answer.depth.shape == (32, 32) and "fast" not in answer.milliseconds


def test_bf16_is_close_to_fp32(engine):
    coarse = Engine(tiny(), "cpu", "bf16", output_scale=0.5)
    rgb = picture(64, 96)
    with engine.fast_thread():
        exact = engine.answer(engine.upload(rgb), None, ("depth", "normals"), focal=100.0)
    with coarse.fast_thread():
        rough = coarse.answer(coarse.upload(rgb), None, ("depth", "normals"), focal=100.0)
    assert rough.depth.dtype == np.float32
    assert np.median(np.abs(rough.depth / exact.depth - 1)) < 0.05


def test_read_only_pictures_are_taken_without_a_warning(engine):
    rgb = picture(64, 64)
    rgb.flags.writeable = False
    with warnings.catch_warnings(), engine.fast_thread():
        warnings.simplefilter("error")
        engine.upload(rgb)


@pytest.mark.parametrize("shape, dtype", [((64, 64), np.uint8), ((64, 64, 4), np.uint8), ((64, 64, 3), np.float32)])
def test_what_is_no_rgb_picture_is_refused(engine, shape, dtype):
    with pytest.raises(ValueError, match="uint8"):
        engine.upload(np.zeros(shape, dtype))


def test_a_picture_too_small_for_the_networks_is_refused(engine):
    with pytest.raises(ValueError, match="too small"):
        engine.upload(np.zeros((8, 200, 3), np.uint8))


def test_flops_are_counted_once(engine):
    assert engine.known_flops((64, 96), ("depth",)) is None
    flops = engine.flops((64, 96), ("depth",))
    assert flops.slow > flops.fast > 0 and engine.known_flops((64, 96), ("depth",)) is flops
    # At once for whatever else somebody may come to want, in any order.
    both = engine.known_flops((64, 96), ("normals", "depth"))
    assert both is not None and both.heads > flops.heads and both.slow == flops.slow
    assert both == count_flops(engine.model, 64, 96, ("depth", "normals"))


def test_unknown_devices_are_refused_and_the_existing_ones_named():
    for name in ("tpu", "cuda:99", "cpu:1"):
        with pytest.raises(UserError, match="cpu") as caught:
            pick_device(name)
        assert name in str(caught.value)
    assert pick_device("cpu").type == "cpu"
    assert str(pick_device("auto")) in available_devices()


def test_precision_is_chosen_and_refused():
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) == ("bf16" if fast_bf16(cpu) else "fp32")
    with pytest.raises(UserError, match="GPU"):
        pick_precision("fp16", cpu)
    with pytest.raises(UserError, match="fp32"):
        pick_precision("int8", cpu)
