"""A network's parts run by something else than PyTorch's operators, the same answers: openvino_runtime.py,
onnx_runtime.py, inductor_runtime.py.

Parts are taken over where their graph for this size of picture is there (graph_cache.py). Where it is not, and where
something cannot leave PyTorch (parts.py says what), PyTorch answers; graphs for another size than the one that was
prepared are made beside it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mila_ros.errors import UserError
from mila_ros.models.heads import Heads
from mila_ros.models.layers import check_same_size
from mila_ros.models.mila import Mila
from mila_ros.models.propagation import Carried, Keyframe, Propagation
from mila_ros.runtime.graph_cache import RUNTIMES, GraphCache
from mila_ros.runtime.parts import (
    FAST,
    FAST_HEADS,
    PROPAGATION,
    SLOW,
    SLOW_HEADS,
    can_leave,
    first,
    last,
    looked_up,
    propagation_inputs,
)
from mila_ros.runtime.runtimes import Request

_Size = tuple[int, int]
_COARSE, _FINE = 8, 4
"""Strides of coarse and of detail maps."""
_KEPT = 32
"""Parts, sizes and sets of outputs that a thread keeps compiled."""


class GraphBackend:
    """The parts of one network. Safe for several threads: each that runs a part has it compiled for itself.

    Args:
        model: as it was loaded (not fused), in evaluation mode.
        runtime: "openvino", "onnxruntime" or "compile".
        device: of the tensors.
        precision: of the network.
        say: takes a sentence when graphs have to be made, and when they cannot be.
        cache: folder of graphs; None: the user's (graph_cache.py).

    Raises:
        Exception: the runtime cannot be loaded.
    """

    def __init__(
        self,
        model: Mila,
        runtime: str,
        device: torch.device,
        precision: str,
        say: Callable[[str], None] | None = None,
        cache: Path | None = None,
    ) -> None:
        self._runtime = RUNTIMES[runtime](device, precision)
        self._say = say or (lambda _: None)
        self._cache = GraphCache(model, runtime, precision, cache, device)
        self._graphs: dict[_Size, Mapping[str, Path]] = {}
        """By size; empty where they cannot be made."""
        self._making: set[_Size] = set()
        self._lock = threading.Lock()
        self._own = threading.local()
        self.failure: UserError | None = None
        """Why a graph that is there could not be run; PyTorch answers since then."""

    def over(self, model: Mila) -> Mila:
        """The same network, its parts run here wherever they can be; the given one stays as it is."""
        running = copy.copy(model)
        groups = looked_up(model.propagation, model.config.tasks)
        slow = dict.fromkeys(model.config.tasks, "all")
        parts: dict[str, nn.Module] = {
            "fast": _Network(self, FAST, model.fast),
            "slow": _Network(self, SLOW, model.slow),
            "fast_heads": _Heads(self, FAST_HEADS, model.fast_heads, groups),
            "slow_heads": _Heads(self, SLOW_HEADS, model.slow_heads, slow),
        }
        if can_leave(model.propagation):
            parts["propagation"] = _Propagation(self, model.propagation)
        running._modules = {**model._modules, **parts}
        return running

    def prepare(self, height: int, width: int) -> None:
        """Make the graphs for pictures of this size (padded) if they are not there yet; takes up to a minute then.

        Raises:
            UserError: they cannot be made. PyTorch answers, then.
        """
        size = (height, width)
        if self._graphs.get(size):
            return
        found: Mapping[str, Path] = {}
        try:
            known = self._cache.find(height, width)
            if known is None:
                self._say(
                    f"compiling the network for pictures of {width}x{height}: once, {self._runtime.takes} "
                    f"(kept in {self._cache.folder})"
                )
            made = known or self._cache.make(height, width)
            for path in made.values():
                self._runtime.warm(path)
            found = made
        finally:
            self._graphs[size] = found

    def release(self) -> None:
        """Let go of what was compiled for the calling thread."""
        self._own.requests = {}

    def run(self, part: str, size: _Size, given: Mapping[str, Tensor], wanted: Sequence[str]) -> list[Tensor] | None:
        """Run a part.

        Args:
            size: (h, w) of the padded picture.
            given: what its graph takes, by name, as there (parts.py).
            wanted: which of its outputs.

        Returns:
            them, or None where there is no graph, or more than one picture.
        """
        graphs = self._graphs.get(size)
        if graphs is None:
            self._prepare_beside(size)
            return None
        if part not in graphs or len(next(iter(given.values()))) != 1:
            return None
        requests: dict[Any, Request] = getattr(self._own, "requests", {})
        key = (part, size, tuple(wanted), torch.get_num_threads())
        if key not in requests:
            try:
                made = self._runtime.open(graphs[part], wanted)
            except Exception as error:
                self._graphs[size] = {}
                self.failure = UserError(f"{self._runtime.name} cannot run the network at {size[1]}x{size[0]}: {error}")
                self._say(f"{self.failure}; PyTorch answers instead")
                return None
            while len(requests) >= _KEPT:  # the oldest: sizes and sets of tasks come and go
                requests.pop(next(iter(requests)))
            requests[key] = made
            self._own.requests = requests
        return requests[key](given)

    def _prepare_beside(self, size: _Size) -> None:
        with self._lock:
            if size in self._making:
                return
            self._making.add(size)

        def work() -> None:
            try:
                self.prepare(*size)
            except UserError as error:
                self._say(f"{error}; PyTorch answers instead")

        threading.Thread(target=work, name="mila-compile", daemon=True).start()


class _Network(nn.Module):
    """In place of the slow or the fast network."""

    def __init__(self, backend: GraphBackend, part: str, eager: Any) -> None:
        super().__init__()
        self._backend, self._part = backend, part
        self.eager = eager
        self.detail_channels: int = eager.detail_channels

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        size = (image.shape[-2], image.shape[-1])
        found = self._backend.run(self._part, size, {"image": last(image)}, ("coarse", "detail"))
        if found is None:
            coarse, detail = self.eager(image)
            return coarse, detail
        return first(found[0]), first(found[1])


class _Propagation(Propagation):
    """In place of local attention; a keyframe is still prepared by PyTorch."""

    def __init__(self, backend: GraphBackend, eager: Propagation) -> None:
        super().__init__()
        self._backend = backend
        self.eager = eager

    def look_ups(self) -> Mapping[str, Any]:
        return self.eager.look_ups()

    def remember(self, keyframe: Keyframe, before: Any = None) -> Any:
        remembered = self.eager.remember(keyframe, before)
        if remembered.maps is None:
            return remembered
        return remembered._replace(maps=Keyframe(*(x.contiguous() for x in remembered.maps)))  # as the graph takes them

    def forward(self, current: Tensor, memory: Any, tasks: Sequence[str], match: bool = False) -> dict[str, Carried]:
        for look_up in memory.together.values():
            check_same_size(current.shape[-2:], (look_up.height, look_up.width))
        size = (current.shape[-2] * _COARSE, current.shape[-1] * _COARSE)
        warped = memory.maps is not None
        names = looked_up(self.eager, tasks)
        groups = list(dict.fromkeys(names.values()))
        kinds = ("coarse", "carried") if warped else ("coarse",)
        # The match is asked for every time: it costs next to nothing, another set of outputs would be compiled anew.
        wanted = [f"{kind}_{name}" for name in groups for kind in kinds] + (["match"] if warped else [])
        given = {"current": last(current), **propagation_inputs(memory)}
        found = self._backend.run(PROPAGATION, size, given, wanted)
        if found is None:
            return self.eager(current, memory, tasks, match)
        by_name = dict(zip(wanted, found, strict=True))
        alike = by_name.get("match") if match else None
        brought: dict[str, Carried] = {}
        for name in groups:
            detail = first(by_name[f"carried_{name}"]) if warped else None
            brought[name] = Carried(first(by_name[f"coarse_{name}"]), detail, alike if name == groups[0] else None)
        return {task: brought[names[task]] for task in tasks}


class _Heads(nn.Module):
    """In place of a network's heads."""

    def __init__(self, backend: GraphBackend, part: str, eager: Heads, groups: Mapping[str, str]) -> None:
        super().__init__()
        self._backend, self._part, self._groups = backend, part, groups
        self.eager = eager

    def forward(
        self, coarse: Mapping[str, Tensor], detail: Tensor, carried: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        given = {"detail": last(detail)} | {f"coarse_{self._groups[t]}": last(x) for t, x in coarse.items()}
        if self.eager.carried_in:
            from_keyframe = carried
            if from_keyframe is None:
                nothing = detail.new_zeros(len(detail), self.eager.carried_in, *detail.shape[-2:])
                from_keyframe = dict.fromkeys(coarse, nothing)
            given |= {f"carried_{self._groups[t]}": last(from_keyframe[t]) for t in coarse}
        size = (detail.shape[-2] * _FINE, detail.shape[-1] * _FINE)
        wanted = [task for task in self._groups if task in coarse]  # in one order, whatever order they are asked in
        found = self._backend.run(self._part, size, given, wanted)
        if found is None:
            answers: dict[str, Tensor] = self.eager(coarse, detail, carried)
            return answers
        return {task: first(value) for task, value in zip(wanted, found, strict=True)}
