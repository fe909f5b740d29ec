"""OpenVINO answers as PyTorch does, in the precision that was asked for; what it cannot take, PyTorch answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.runtime import graph_cache, openvino_runtime
from mila_ros.runtime.devices import pick_backend
from mila_ros.runtime.graph_cache import GraphCache
from mila_ros.runtime.parts import FAST, PROPAGATION, graphs

from .tiny_engine import SEARCHED, SIZE, TASKS, answers, assert_alike, engine, pictures, tiny

pytest.importorskip("openvino")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A folder of our own for graphs, kept from one test to the next."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "mila_ros" / "openvino"


@pytest.mark.parametrize(
    "changes",
    [
        SEARCHED | {"slow_zoom": 1.4},
        {"attention": "task", "keys": "slow"},
        {"propagation": "alignment"},
        {"propagation": "accel"},
    ],
    ids=["searched", "task-specific", "alignment", "accel"],
)
def test_single_precision_gives_the_same_answers(changes: dict[str, object]) -> None:
    made = engine(tiny(**changes), "openvino")
    for ours, theirs in zip(answers(made), answers(engine(tiny(**changes), "eager")), strict=True):
        assert_alike(ours, theirs, rtol=1e-4, apart=0.001)
    assert made.backend == "openvino"


def test_only_wanted_tasks_and_confidence() -> None:
    made, plain = engine(tiny(**SEARCHED), "openvino"), engine(tiny(**SEARCHED), "eager")
    for tasks, confidence in ((("segmentation",), True), (("depth", "normals"), False)):
        for ours, theirs in zip(answers(made, tasks, confidence), answers(plain, tasks, confidence), strict=True):
            assert_alike(ours, theirs, rtol=1e-4, apart=0.001)


def test_a_warm_thread_compiles_nothing_more_whatever_tasks_are_wanted() -> None:
    made = engine(tiny(**SEARCHED), "openvino")
    with made.fast_thread():
        made.warm_up(*SIZE)
        backend = made._compiled
        assert backend is not None
        warm = set(backend._own.requests)
        memory, _ = made.keyframe(made.upload(pictures()[0]))
        for tasks in (("depth",), ("normals", "segmentation"), ("depth", "normals"), TASKS):
            for known in (None, memory):
                made.answer(made.upload(pictures()[1]), known, tasks, 100.0)
        assert set(backend._own.requests) == warm


@pytest.mark.parametrize("changes", [SEARCHED, {"propagation": "accel"}], ids=["searched", "accel"])
def test_bfloat16_is_really_bfloat16(changes: dict[str, object]) -> None:
    made = engine(tiny(**changes), "openvino", "bf16")
    for ours, theirs in zip(answers(made), answers(engine(tiny(**changes), "eager")), strict=True):
        assert_alike(ours, theirs, rtol=0.1, apart=0.1)
    with made.fast_thread():
        made.warm_up(*SIZE)
        picture = made.upload(pictures()[0])
        memory, _ = made.keyframe(picture)
        assert memory.features.coarse.dtype == memory.features.detail.dtype == torch.bfloat16
        backend = made._compiled
        assert backend is not None
        requests = backend._own.requests
        assert requests
        for request in requests.values():
            compiled = request._request.get_compiled_model()
            assert str(compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'bfloat16'>"
            assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_pytorch_answers_until_another_size_is_compiled() -> None:
    said: list[str] = []
    made = engine(tiny(**SEARCHED), "openvino", said=said)
    plain = engine(tiny(**SEARCHED), "eager")
    wide = np.concatenate(pictures(), axis=1)
    with made.fast_thread(), plain.fast_thread():
        made.warm_up(*SIZE)
        backend = made._compiled
        assert backend is not None
        before = set(backend._graphs)
        picture = made.upload(wide)
        memory, _ = made.keyframe(picture)  # by PyTorch: its graph is asked for here
        slow = plain.keyframe(plain.upload(wide))[0]
        assert torch.equal(memory.features.coarse, slow.features.coarse)
        limit = time.monotonic() + 120
        while set(backend._graphs) == before and time.monotonic() < limit:
            time.sleep(0.1)
        assert len(backend._graphs) == len(before) + 1
        # A memory of before and a graph of now go together.
        ours = made.answer(picture, memory, TASKS, 100.0)
        assert_alike(ours, plain.answer(plain.upload(wide), slow, TASKS, 100.0), rtol=1e-4, apart=0.001)
        assert any(key[0] == PROPAGATION for key in backend._own.requests)
    assert len([sentence for sentence in said if "compiling" in sentence]) >= 1


def test_several_pictures_at_once_are_left_to_pytorch() -> None:
    made = engine(tiny(**SEARCHED), "openvino")
    with made.fast_thread():
        made.warm_up(*SIZE)
        coarse, _ = made._running.fast(torch.rand(2, 3, *SIZE))
    assert coarse.shape[0] == 2


def test_graphs_are_kept_and_made_anew_when_damaged(cache: Path) -> None:
    kept = GraphCache(tiny(**SEARCHED), "openvino")
    found = kept.make(*SIZE)
    assert FAST in found and kept.folder.parent == cache
    times = {path: path.stat().st_mtime_ns for path in found.values()}
    assert GraphCache(tiny(**SEARCHED), "openvino").make(*SIZE) == found
    assert times == {path: path.stat().st_mtime_ns for path in found.values()}
    found[FAST].with_suffix(".bin").write_bytes(b"rubbish")
    assert kept.find(*SIZE) is None
    assert kept.make(*SIZE) == found
    assert times != {path: path.stat().st_mtime_ns for path in found.values()}
    made = json.loads((found[FAST].parent / "made.json").read_text())
    assert set(made["parts"]) == set(found)


def test_other_weights_have_other_graphs() -> None:
    one, other = tiny(), tiny()
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    assert GraphCache(one, "openvino").folder != GraphCache(other, "openvino").folder
    assert GraphCache(one, "openvino").folder == GraphCache(tiny(), "openvino").folder


def test_graphs_that_nobody_uses_any_more_are_removed(tmp_path: Path) -> None:
    old, new = (
        GraphCache(tiny(), "openvino", folder=tmp_path),
        GraphCache(tiny(head_channels=16), "openvino", folder=tmp_path),
    )
    long_ago = time.time() - 40 * 24 * 3600
    os.utime(old.folder / "weights.safetensors", (long_ago, long_ago))
    GraphCache(tiny(head_channels=24), "openvino", folder=tmp_path)
    assert not old.folder.exists() and new.folder.is_dir()


def test_an_installation_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "import_openvino", lambda: 1 / 0)
    said: list[str] = []
    if pick_backend("auto", torch.device("cpu")) == "openvino":
        assert engine(tiny(), "auto", said=said).backend == "eager"
        assert "division by zero; PyTorch answers instead" in said[0]
    with pytest.raises(UserError, match="backend openvino cannot be used"):
        engine(tiny(), "openvino")


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    kept = GraphCache(tiny(), "openvino", folder=tmp_path / "file")
    assert kept.folder.is_dir() and tmp_path not in kept.folder.parents


def test_what_cannot_be_compiled_is_answered_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: no rule for this operation")

    monkeypatch.setattr(graph_cache.subprocess, "run", failing)
    said: list[str] = []
    made = engine(tiny(head_channels=16), "auto", said=said)
    if made.backend == "eager":
        pytest.skip("auto is eager on this processor")
    one, *_ = answers(made)
    assert one.depth is not None and made.backend == "eager"
    assert "no rule for this operation; PyTorch answers instead" in said[-1]
    with pytest.raises(UserError, match="no rule for this operation"):
        answers(engine(tiny(head_channels=16), "openvino"))


def test_names_of_backends() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    assert pick_backend("eager", gpu) == "eager" and pick_backend("auto", gpu) == "eager"
    assert pick_backend("openvino", cpu) == "openvino"
    with pytest.raises(UserError, match="openvino is for the CPU, not for cuda:0"):
        pick_backend("openvino", gpu)
    with pytest.raises(UserError, match='unknown backend "tensorrt"'):
        pick_backend("tensorrt", cpu)


def test_importing_openvino_reports_nothing() -> None:
    code = (
        "import sys; from mila_ros.runtime.openvino_runtime import import_openvino; import_openvino();"
        "print([name for name, module in sys.modules.items() if 'openvino_telemetry' in name and module is not None])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_graphs_are_for_padded_pictures() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        graphs(tiny(), 60, 96)
