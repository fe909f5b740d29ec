"""Correcting the scale of depth: which frames are one place, what they ask for, and what the network says then."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.models.checkpoint import load_model, read_header, save_model
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.training.depth_scale import Sample, fast_scale, fit_scale, judge, main, places_of, rescale


def sample(said: float, truth: float, pixels: int = 5) -> Sample:
    return Sample("", np.full(pixels, said, np.float32), np.full(pixels, truth, np.float32))


def test_consecutive_numbers_are_a_place_and_one_recording_is_cut_into_parts():
    assert places_of(["a_01", "a_02", "a_06", "a_17", "a_18", "b_19", "b_20"]) == [0, 0, 0, 1, 1, 2, 2]
    dropped = [f"{i:04d}" for i in range(300) if i not in (100, 200)]
    assert len(set(places_of(dropped))) == 10  # one recording all the same
    assert places_of([f"{i:04d}" for i in range(20)]) == [i // 2 for i in range(20)]
    assert len(set(places_of([str(1000 + 33 * i) for i in range(100)]))) == 10  # stamps, say
    assert places_of(["left", "right", "up"]) == [0, 1, 2]
    assert places_of([]) == []


def test_every_place_has_one_vote_and_is_judged_by_the_others():
    places = [0, 0, 0, 0, 1, 2, 3, 3]
    asked = [2.0, 2.0, 2.0, 2.0, 1.1, 1.2, 1.3, 1.3]
    samples = [sample(2.0, 2.0 * factor) for factor in asked]
    scale = fit_scale(samples, places)
    assert scale.factor == pytest.approx((1.2 * 1.3) ** 0.5)  # geometric mean of the middle two of 1.1, 1.2, 1.3, 2.0
    assert scale.asked[0] == pytest.approx(2.0) and scale.asked[3] == pytest.approx(1.3)
    assert scale.without == pytest.approx({0: 1.2, 1: 1.3, 2: 1.3, 3: 1.2})
    right = judge(samples, asked)
    assert right["rmse"] == pytest.approx(0, abs=1e-6) and right["delta1"] == 1
    assert judge(samples, [1.0] * 8)["delta1"] == pytest.approx(2 / 8)  # 1.1 and 1.2; 1.3 is beyond 1.25


def test_the_fast_heads_scale_is_the_median_over_frames():
    samples = [sample(2.0, 2.0)._replace(fast=np.full(5, 2.0 / factor, np.float32)) for factor in (1.0, 1.1, 3.0)]
    assert fast_scale([*samples, sample(1.0, 1.0)]) == pytest.approx(1.1)
    assert fast_scale([sample(1.0, 1.0)]) == 1.0


def test_too_few_places_are_refused():
    with pytest.raises(UserError, match="at 2 places; a scale needs at least 3"):
        fit_scale([sample(1, 1), sample(1, 2), sample(1, 2, pixels=0)], [0, 1, 2])


@torch.no_grad()
def test_both_heads_are_rescaled_and_the_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.manual_seed(0)
    model = Mila(ModelConfig.tiny(("depth",))).eval()
    for heads in (model.slow_heads, model.fast_heads):
        torch.nn.init.zeros_(heads.tasks["depth"].out.weight)
        heads.tasks["depth"].out.bias.data.fill_(0.0)  # 2.5 m for the canonical focal length
    file, out = tmp_path / "before.safetensors", tmp_path / "after" / "model.safetensors"
    save_model(model, file, {"stages": ["slow"]})
    folder = tmp_path / "rooms"
    for part in ("rgb", "depth"):
        (folder / part).mkdir(parents=True)
    for number in (1, 2, 50, 51, 80, 81):
        cv2.imwrite(str(folder / "rgb" / f"{number:04d}.png"), np.full((48, 64, 3), 99, np.uint8))
        metres = 3.0 if number < 50 else 4.0
        cv2.imwrite(str(folder / "depth" / f"{number:04d}.png"), np.full((48, 64), 1000 * metres, np.uint16))
    camera = "fx: 51.9\nfy: 51.9\ncx: 32.0\ncy: 24.0\nwidth: 64\nheight: 48\n"
    (folder / "camera.yaml").write_text(camera)
    assert main(["--data", f"rgbd:{folder}", "--model", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    factor = 4.0 / 2.5  # of three places two are 4 m away
    with pytest.raises(UserError, match="a .safetensors file"):
        main(["--data", f"rgbd:{folder}", "--model", str(file), "--out", str(tmp_path)])
    assert f"multiplied by {factor:.3f}" in said and "6 frames of 3 places" in said and str(out) in said
    after = load_model(out)
    for part in (after.features, after.glance):
        depth = after.answer(part(torch.zeros(1, 3, 48, 64)), ("depth",), torch.tensor([51.9]), (48, 64))["depth"]
        torch.testing.assert_close(depth, torch.full_like(depth, 4.0), rtol=2e-3, atol=0)
    card = read_header(out)[1]
    assert card["stages"] == ["slow"]
    assert card["depth_scale"] == [{"data": "rgbd", "split": "all", "factor": pytest.approx(factor, abs=1e-3)}]
    # Fast heads that were trained are brought to what the slow network says.
    model.fast_heads.tasks["depth"].out.bias.data.fill_(0.5)
    save_model(model, file, {"stages": ["slow", "fast"]})
    assert main(["--data", f"rgbd:{folder}", "--model", str(file), "--out", str(out)]) == 0
    assert f"that of the fast heads by {np.exp(-0.5):.3f} besides" in capsys.readouterr().out
    again = load_model(out)
    for part in (again.features, again.glance):
        depth = again.answer(part(torch.zeros(1, 3, 48, 64)), ("depth",), torch.tensor([51.9]), (48, 64))["depth"]
        torch.testing.assert_close(depth, torch.full_like(depth, 4.0), rtol=2e-3, atol=0)
    assert read_header(out)[1]["depth_scale"][0]["fast"] == pytest.approx(np.exp(-0.5), abs=1e-3)
    for picture in (folder / "depth").iterdir():  # in centimetres
        cv2.imwrite(str(picture), cv2.imread(str(picture), cv2.IMREAD_UNCHANGED) // 10)
    other = tmp_path / "other.safetensors"
    with pytest.raises(UserError, match="is depth in metres"):
        main(["--data", f"rgbd:{folder}", "--model", str(file), "--out", str(other)])
    assert not other.exists()
    with pytest.raises(UserError, match="depth"):
        only = tmp_path / "only.safetensors"
        save_model(Mila(ModelConfig.tiny(("normals",))), only)
        main(["--data", f"rgbd:{folder}", "--model", str(only), "--out", str(out)])


@torch.no_grad()
def test_answers_that_are_joined_are_rescaled_as_they_come_out() -> None:
    torch.manual_seed(0)
    values = ModelConfig.tiny(("depth",)).to_dict() | {"propagation": "accel", "working_pixels": 64 * 96}
    model = Mila(ModelConfig.from_dict(values)).eval()
    fusion = model.propagation.fusion.tasks["depth"]
    fusion.weight.copy_(torch.tensor([-0.2, 0.1]).view(1, 2, 1, 1))
    memory, seen, focal = (
        model.keyframe(torch.rand(1, 3, 64, 96)),
        model.glance(torch.rand(1, 3, 64, 96)),
        torch.ones(1),
    )

    def depths() -> list[torch.Tensor]:
        every = (memory.features, seen, model.propagate(seen, memory))
        return [model.predict(features, ("depth",), focal, (32, 48))["depth"] for features in every]

    before = depths()
    rescale(model, 1.3, 1.1)
    for ours, theirs, factor in zip(depths(), before, (1.3, 1.3, 1.3 * 1.1), strict=True):
        torch.testing.assert_close(ours, factor * theirs)


def test_rescaling_leaves_everything_else_alone():
    torch.manual_seed(0)
    model = Mila(ModelConfig.tiny()).eval()
    image, focal = torch.rand(1, 3, 64, 96), torch.tensor([500.0])
    tasks = ("segmentation", "depth", "normals")
    with torch.no_grad():
        before = model.predict(model.features(image), tasks, focal, (32, 48))
        rescale(model, 1.25)
        after = model.predict(model.features(image), tasks, focal, (32, 48))
    torch.testing.assert_close(after.pop("depth"), 1.25 * before.pop("depth"))
    torch.testing.assert_close(after, before, rtol=0, atol=0)
