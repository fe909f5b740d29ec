"""ONNX files answer as PyTorch does, their memory goes from one to the other, and a wrong file is not left behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.models.checkpoint import save_model
from mila_ros.models.config import ModelConfig
from mila_ros.models.fuse import fuse_for_inference
from mila_ros.models.mila import Mila
from mila_ros.runtime import export as module
from mila_ros.runtime.export import export, main

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SIZE = (64, 96)


def tiny(**changes) -> Mila:
    torch.manual_seed(0)
    values = ModelConfig.tiny().to_dict() | {"working_pixels": SIZE[0] * SIZE[1]} | changes
    model = Mila(ModelConfig.from_dict(values))
    for parameter in model.propagation.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("changes", [{}, {"warp": True, "reach": 4}])
def test_a_keyframe_and_a_frame_through_the_files(tmp_path: Path, changes: dict[str, object]) -> None:
    checkpoint = tmp_path / "tiny.safetensors"
    save_model(tiny(**changes), checkpoint)
    out = tmp_path / "out"
    assert main(["--model", str(checkpoint), "--out", str(out), "--size", "96x64"]) == 0
    facts = json.loads((out / "model.json").read_text())
    assert facts["image"] == {"height": 64, "width": 96} and facts["output"] == {"height": 32, "width": 48}
    slow, fast = (onnxruntime.InferenceSession(str(out / f"{name}.onnx")) for name in ("slow", "fast"))
    keyframe, frame = torch.rand(1, 3, *SIZE), torch.rand(1, 3, *SIZE)
    focal = np.array([100.0], np.float32)
    names = [entry.name for entry in slow.get_outputs()]
    first = dict(zip(names, slow.run(None, {"image": keyframe.numpy(), "focal": focal}), strict=True))
    memory = {name: first[name] for name in facts["memory"]}
    answers = fast.run(facts["tasks"], {"image": frame.numpy(), "focal": focal} | memory)
    from mila_ros.models.checkpoint import load_model

    model = fuse_for_inference(load_model(checkpoint))
    with torch.inference_mode():
        features = model.propagate(model.glance(frame), model.keyframe(keyframe))
        right = model.answer(features, model.config.tasks, torch.from_numpy(focal), (32, 48), confidence=False)
    for task, answer in zip(facts["tasks"], answers, strict=True):
        assert answer.shape == right[task].shape and answer.dtype == right[task].numpy().dtype
        if task == "segmentation":
            assert (answer != right[task].numpy()).mean() < 0.02  # ours counts near ties as equal
        else:
            np.testing.assert_allclose(answer, right[task].numpy(), rtol=1e-3, atol=1e-4)


def test_task_specific_attention_over_two_keyframes(tmp_path: Path) -> None:
    facts = export(tiny(attention="task", frames=2), tmp_path, SIZE)
    assert set(facts["memory"]) == {f"{k}_{t}" for k in ("keys", "values") for t in facts["tasks"]}
    for name, shape in facts["memory"].items():
        newest = facts["newest"][name]
        assert shape[2] == 2 * newest[2] and shape[:2] + shape[3:] == newest[:2] + newest[3:]


def test_an_export_that_answers_differently_is_not_left_behind(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_DEPTH_APART", -1.0)
    with pytest.raises(UserError, match="depth differently"):
        export(tiny(), tmp_path / "out", SIZE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--size", "large"], ["--size", "16x16"], ["--output-scale", "3"]])
def test_impossible_sizes_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UserError, match="--size"):
        main(arguments)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_NEEDED", ("onnx", "onnx_of_nobody"))
    with pytest.raises(UserError, match="needs onnx_of_nobody: pip install"):
        export(tiny(), tmp_path, SIZE)
