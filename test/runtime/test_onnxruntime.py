"""ONNX Runtime answers as PyTorch does; on a GPU it asks for the providers and the stream that it should."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.runtime.devices import pick_backend, pick_precision
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.graph_backend import GraphBackend
from mila_ros.runtime.onnx_runtime import OnnxRuntime

from .tiny_engine import SEARCHED, SIZE, TASKS, answers, assert_alike, engine, pictures, tiny

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A folder of our own for graphs, kept from one test to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_it_answers_as_pytorch_does_whatever_is_wanted() -> None:
    made, plain = engine(tiny(**SEARCHED), "onnxruntime", "auto"), engine(tiny(**SEARCHED), "eager")
    for tasks, confidence in ((TASKS, False), (("segmentation",), True), (("normals",), False)):
        for ours, theirs in zip(answers(made, tasks, confidence), answers(plain, tasks, confidence), strict=True):
            assert_alike(ours, theirs, rtol=1e-4, apart=0.001)
    assert (made.backend, made.precision) == ("onnxruntime", "fp32")


def test_nothing_is_left_to_pytorch_and_threads_are_those_of_the_thread() -> None:
    made = engine(tiny(**SEARCHED), "onnxruntime")
    with made.fast_thread():
        made.warm_up(*SIZE)
        backend = made._compiled
        assert backend is not None
        requests = backend._own.requests
        assert {part for part, *_ in requests} == {"fast", "slow", "propagation", "fast_heads", "slow_heads"}
        for request in requests.values():
            options = request.session.get_session_options()
            assert options.intra_op_num_threads == torch.get_num_threads() == 1
            assert request.session.get_providers() == ["CPUExecutionProvider"]


def test_half_precision_is_in_the_graph_itself() -> None:
    model = tiny(**SEARCHED)
    half = tiny(**SEARCHED).half()
    backend = GraphBackend(model, "onnxruntime", torch.device("cpu"), "fp16")
    backend.prepare(*SIZE)
    running = backend.over(half)
    image, later = (torch.from_numpy(p).permute(2, 0, 1)[None].half() / 255 for p in pictures())
    with torch.inference_mode():
        found = running.propagate(running.glance(later), running.keyframe(image))
        answer = running.answer(found, TASKS, torch.tensor([100.0]), SIZE)
        right = model.propagate(model.glance(later.float()), model.keyframe(image.float()))
        expected = model.answer(right, TASKS, torch.tensor([100.0]), SIZE)
    assert found.by_task is not None and found.by_task["depth"].dtype == torch.float16
    for request in backend._own.requests.values():
        assert {port.type for port in request.session.get_inputs()} == {"tensor(float16)"}
    torch.testing.assert_close(answer["depth"], expected["depth"], rtol=0.05, atol=0.05)
    assert (answer["segmentation"] != expected["segmentation"]).float().mean() < 0.05


def test_what_is_asked_for_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = torch.device("cuda:1")
    with pytest.raises(UserError, match="pip install onnxruntime-gpu"):
        OnnxRuntime(gpu, "fp16")
    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=4711))
    asked = dict(OnnxRuntime(gpu, "fp16")._providers(tmp_path / "fast.onnx"))
    assert list(asked) == there
    assert asked["TensorrtExecutionProvider"]["trt_fp16_enable"] is True
    assert asked["TensorrtExecutionProvider"]["trt_engine_cache_path"] == str(tmp_path)
    for name in there[:2]:
        assert asked[name]["device_id"] == 1 and asked[name]["user_compute_stream"] == "4711"
    there.remove("TensorrtExecutionProvider")
    assert list(dict(OnnxRuntime(gpu, "fp32")._providers(tmp_path / "fast.onnx"))) == there


def test_a_gpu_whose_libraries_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=1))
    only_cpu = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: only_cpu)
    with pytest.raises(UserError, match="no CUDA libraries"):
        OnnxRuntime(torch.device("cuda:0"), "fp16").open(tmp_path / "fast.onnx", ("coarse",))


def test_precisions_and_names() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    assert pick_backend("onnxruntime", cpu) == pick_backend("onnxruntime", gpu) == "onnxruntime"
    assert pick_precision("auto", gpu, "onnxruntime") == "fp16" and pick_precision("auto", cpu, "onnxruntime") == "fp32"
    with pytest.raises(UserError, match="onnxruntime does not compute in bf16"):
        Engine(tiny(), "cpu", "bf16", backend="onnxruntime")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match="pip install onnxscript; or use eager"):
        pick_backend("onnxruntime", torch.device("cpu"))
