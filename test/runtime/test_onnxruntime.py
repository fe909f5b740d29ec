"""ONNX Runtime answers as PyTorch does; on a GPU it asks for the providers and the stream that it should."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.runtime import onnx_runtime
from mila_ros.runtime.devices import pick_backend, pick_precision
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.graph_backend import GraphBackend
from mila_ros.runtime.onnx_files import outputs_of, with_outputs, write_onnx
from mila_ros.runtime.onnx_runtime import OnnxRuntime
from mila_ros.runtime.parts import FAST_HEADS, graphs
from mila_ros.runtime.shortage import out_of_memory

from .tiny_engine import SEARCHED, SIZE, TASKS, answers, assert_alike, engine, pictures, tiny

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A folder of our own for graphs, kept from one test to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize(
    "changes", [SEARCHED, {"attention": "task", "keys": "slow"}], ids=["searched", "task-specific"]
)
def test_it_answers_as_pytorch_does_whatever_is_wanted(changes: dict[str, object]) -> None:
    made, plain = engine(tiny(**changes), "onnxruntime", "auto"), engine(tiny(**changes), "eager")
    for tasks, confidence in ((TASKS, False), (("segmentation",), True), (("normals",), False)):
        for ours, theirs in zip(answers(made, tasks, confidence), answers(plain, tasks, confidence), strict=True):
            assert_alike(ours, theirs, rtol=1e-4, apart=0.001)
    assert (made.backend, made.precision) == ("onnxruntime", "fp32")


def test_nothing_is_left_to_pytorch_and_only_what_is_wanted_is_computed() -> None:
    made = engine(tiny(**SEARCHED), "onnxruntime")
    with made.fast_thread():
        made.warm_up(*SIZE)
        backend = made._compiled
        assert backend is not None and backend.failure is None
        requests = backend._own.requests
        assert {part for part, *_ in requests} == {"fast", "slow", "propagation", "fast_heads", "slow_heads"}
        for (_, _, wanted, threads), request in requests.items():
            assert request.session.get_session_options().intra_op_num_threads == threads == 1
            assert request.session.get_providers() == ["CPUExecutionProvider"]
            assert [port.name for port in request.session.get_outputs()] == list(wanted)


def test_a_file_is_cut_to_what_is_wanted(tmp_path: Path) -> None:
    import onnx

    parts = graphs(tiny(attention="task"), *SIZE)
    write_onnx(
        parts[FAST_HEADS].module,
        tuple(parts[FAST_HEADS].inputs.values()),
        tmp_path / "heads.onnx",
        list(parts[FAST_HEADS].inputs),
        parts[FAST_HEADS].outputs,
    )
    assert outputs_of(tmp_path / "heads.onnx") == list(TASKS)
    whole = onnx.load(tmp_path / "heads.onnx").graph
    cut = onnx.load_from_string(with_outputs(tmp_path / "heads.onnx", ["normals"])).graph
    assert [each.name for each in cut.output] == ["normals"]
    assert {each.name for each in cut.input} == {"detail", "coarse_normals"}
    assert len(cut.node) < len(whole.node) / 2 and len(cut.initializer) < len(whole.initializer)
    with pytest.raises(ValueError, match="has no outputs"):
        with_outputs(tmp_path / "heads.onnx", ["flow"])


def test_who_asks_for_it_by_name_is_told_that_it_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: OnnxRuntime, path: Path, wanted: object) -> None:
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(OnnxRuntime, "open", failing)
    made = engine(tiny(**SEARCHED), "onnxruntime")
    with made.fast_thread(), pytest.raises(UserError, match="cannot run the network at 96x64: no kernel for this"):
        made.warm_up(*SIZE)


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


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A GPU's onnxruntime, as far as what it is asked for: what loads a session is told in `gpu.asked`."""
    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    asked: list[dict[str, dict[str, object]]] = []
    rig = SimpleNamespace(there=there, asked=asked, broken=set(), path=tmp_path / "fast.onnx")

    def session(graph: bytes, options: object, providers: list[tuple[str, dict[str, object]]], enable_fallback: int):
        assert enable_fallback == 0
        asked.append(dict(providers))
        if broken := rig.broken & set(dict(providers)):
            raise OSError(f"libraries of {broken} are missing")
        return "session"

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(there))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnx_runtime, "with_outputs", lambda path, wanted: b"graph")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=4711))
    return rig


def test_what_is_asked_for_on_a_gpu(gpu: SimpleNamespace) -> None:
    runtime = OnnxRuntime(torch.device("cuda:1"), "fp16")
    assert runtime._session(gpu.path, ["coarse"]) == "session"
    (asked,) = gpu.asked
    assert list(asked) == gpu.there
    assert asked["TensorrtExecutionProvider"]["trt_fp16_enable"] is True
    assert asked["TensorrtExecutionProvider"]["trt_engine_cache_path"] == str(gpu.path.parent)
    for name in gpu.there[:2]:
        assert asked[name]["device_id"] == 1 and asked[name]["user_compute_stream"] == "4711"


def test_without_tensorrt_s_libraries_cuda_is_asked_with_the_same_options(gpu: SimpleNamespace) -> None:
    gpu.broken = {"TensorrtExecutionProvider"}
    runtime = OnnxRuntime(torch.device("cuda:1"), "fp16")
    assert runtime._session(gpu.path, ["coarse"]) == runtime._session(gpu.path, ["detail"]) == "session"
    first, second, third = gpu.asked  # TensorRT is tried once
    assert list(first) == gpu.there and list(second) == list(third) == gpu.there[1:]
    assert second["CUDAExecutionProvider"] == first["CUDAExecutionProvider"]
    assert second["CUDAExecutionProvider"]["device_id"] == 1


def test_a_gpu_that_cannot_be_used(gpu: SimpleNamespace) -> None:
    gpu.broken = {"CUDAExecutionProvider"}
    with pytest.raises(UserError, match="cannot use the GPU: libraries of .*CUDA.* are missing"):
        OnnxRuntime(torch.device("cuda:0"), "fp16")._session(gpu.path, ["coarse"])
    gpu.there[:] = ["CPUExecutionProvider"]
    with pytest.raises(UserError, match="pip install onnxruntime-gpu"):
        OnnxRuntime(torch.device("cuda:0"), "fp16")


def test_want_of_memory_is_told_as_pytorch_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def get_inputs(self) -> list[object]:
            return []

        get_outputs = get_inputs

        def io_binding(self) -> SimpleNamespace:
            return SimpleNamespace(clear_binding_inputs=lambda: None)

        def run_with_iobinding(self, binding: object) -> None:
            raise ArithmeticError("BFCArena: Failed to allocate memory for requested buffer of size 4711")

    request = onnx_runtime._Request(Full(), torch.device("cpu"), torch.float32, [])
    with pytest.raises(torch.OutOfMemoryError) as error:
        request({})
    assert out_of_memory(error.value)


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
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnxruntime-gpu onnxscript onnx; or use eager"):
        pick_backend("onnxruntime", torch.device("cuda:0"))
