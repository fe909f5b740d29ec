"""PyTorch's compiler answers as PyTorch does, by what it compiled before. That it compiles for a GPU is not tested."""

from __future__ import annotations

import shutil

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.runtime import devices
from mila_ros.runtime.devices import pick_backend, pick_precision
from mila_ros.runtime.graph_cache import GraphCache

from .tiny_engine import SEARCHED, SIZE, TASKS, answers, assert_alike, engine, tiny

pytestmark = [
    pytest.mark.skipif(not any(map(shutil.which, devices._COMPILERS)), reason="no C++ compiler"),
    pytest.mark.timeout(900),  # the first to come compiles five parts: two minutes of one core
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A folder of our own for graphs, kept from one test to the next: compiling takes a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_it_answers_as_pytorch_does_whatever_is_wanted() -> None:
    made, plain = engine(tiny(**SEARCHED), "compile"), engine(tiny(**SEARCHED), "eager")
    for tasks, confidence in ((TASKS, False), (("segmentation",), True), (("normals",), False)):
        for ours, theirs in zip(answers(made, tasks, confidence), answers(plain, tasks, confidence), strict=True):
            assert_alike(ours, theirs, rtol=1e-4, apart=0.001)
    assert made.backend == "compile" and made._compiled is not None and made._compiled.failure is None


def test_every_part_is_compiled_and_none_is_left_to_pytorch() -> None:
    made = engine(tiny(**SEARCHED), "compile")
    with made.fast_thread():
        made.warm_up(*SIZE)
        assert made._compiled is not None
        requests = made._compiled._own.requests
        assert {part for part, *_ in requests} == {"fast", "slow", "propagation", "fast_heads", "slow_heads"}


def test_what_was_compiled_is_found_again_unless_it_is_damaged() -> None:
    kept = GraphCache(tiny(**SEARCHED), "compile")
    found = kept.find(*SIZE)
    assert found is not None and {path.suffix for path in found.values()} == {".pt2"}
    assert {path.suffix for path in kept.folder.rglob("*") if path.is_file()} == {".pt2", ".json", ".safetensors"}
    found["fast"].write_bytes(b"something else")
    assert kept.find(*SIZE) is None


def test_it_is_chosen_by_name_alone_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    assert pick_backend("compile", cpu) == pick_backend("compile", gpu) == "compile"
    assert pick_backend("auto", gpu) == "eager"
    assert pick_precision("fp32", cpu, "compile") == "fp32"
    monkeypatch.setattr(devices.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        pick_backend("compile", cpu)
