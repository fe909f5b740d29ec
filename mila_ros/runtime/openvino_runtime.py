"""OpenVINO, on a CPU: the same answers in about half of PyTorch's time.

What it gains are not the products, which both leave to oneDNN, but everything around them: activations and additions
run inside convolutions, a part is one call instead of a hundred, and Python (with its lock, for which other threads
wait) has no share in it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mila_ros.runtime.devices import DTYPES
from mila_ros.runtime.parts import Graph
from mila_ros.runtime.runtimes import Request, Runtime, output_type


def import_openvino() -> Any:
    """OpenVINO's Python package.

    Importing it would report to its makers that it was imported. A robot reports nothing: without the package that does
    so, OpenVINO goes on by itself.
    """
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


class OpenVino(Runtime):
    """See the module's docstring; fp32 or bf16."""

    name, packages, suffix = "openvino", ("openvino",), ".xml"

    def __init__(self, device: torch.device, precision: str) -> None:
        super().__init__(device, precision)
        self._openvino = import_openvino()
        self._core = self._openvino.Core()

    @staticmethod
    def traced_in(precision: str) -> str:
        return "fp32"  # whatever is asked for: it casts weights when it compiles

    @staticmethod
    def write(graph: Graph, path: Path) -> None:
        openvino = import_openvino()
        program = _converted(openvino, graph.module, tuple(graph.inputs.values()))
        for port, given in zip(program.inputs, graph.inputs, strict=True):
            port.get_tensor().set_names({given})
        for port, answer in zip(program.outputs, graph.outputs, strict=True):
            port.get_tensor().set_names({answer})
        openvino.save_model(program, path, compress_to_fp16=False)

    def open(self, path: Path, wanted: Sequence[str]) -> Request:
        return _Request(self._openvino, self._core, path, wanted, DTYPES[self.precision])


def _converted(openvino: Any, module: torch.nn.Module, given: tuple[Tensor, ...]) -> Any:
    """What `openvino.convert_model` does, without its report."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with torch.no_grad():
        program = torch.export.export(module.eval(), given, strict=False)
    manager = FrontEndManager()
    frontend = manager.load_by_framework("pytorch")
    decoder = TorchFXPythonDecoder.from_exported_program(program)  # has to outlive what is made from it
    converted = frontend.convert(frontend.load(decoder))
    for port, example in zip(converted.inputs, given, strict=True):
        port.get_node().set_partial_shape(openvino.PartialShape(list(example.shape)))
    converted.validate_nodes_and_infer_types()
    return converted


class _Request:
    """One part, compiled for one thread and for the outputs that are wanted."""

    def __init__(self, openvino: Any, core: Any, path: Path, wanted: Sequence[str], dtype: torch.dtype) -> None:
        self._openvino, self._dtype = openvino, dtype
        whole = core.read_model(path)
        results = [whole.output(name).get_node() for name in wanted]
        graph = openvino.Model(results, whole.get_parameters(), path.stem)
        types = {torch.float32: openvino.Type.f32, torch.bfloat16: openvino.Type.bf16}
        steps = openvino.preprocess.PrePostProcessor(graph)
        for port in graph.inputs:
            steps.input(port.get_any_name()).tensor().set_element_type(types[dtype])
        self._types = [output_type(name, dtype) for name in wanted]
        for i, kind in enumerate(self._types):
            steps.output(i).tensor().set_element_type(types[kind])
        compiled = core.compile_model(
            steps.build(),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "ENABLE_CPU_PINNING": False,  # which core is for the system to say: another network runs beside it
            },
        )
        self._shapes = [list(port.get_shape()) for port in compiled.outputs]
        self._inputs = {name: i for i, port in enumerate(compiled.inputs) for name in port.get_names()}
        self._request = compiled.create_infer_request()

    def __call__(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        kept = []  # what the request reads lives until it is done
        for name, value in given.items():
            kept.append(value.to(self._dtype).contiguous())
            self._request.set_input_tensor(self._inputs[name], self._shared(kept[-1]))
        found = [torch.empty(shape, dtype=kind) for shape, kind in zip(self._shapes, self._types, strict=True)]
        for i, value in enumerate(found):
            self._request.set_output_tensor(i, self._shared(value))
        self._request.infer(share_outputs=True)  # else it would copy what it has written into `found` once more
        return found

    def _shared(self, x: Tensor) -> Any:
        """OpenVINO's view of a contiguous tensor's memory; NumPy, which lies between them, knows no bfloat16."""
        if x.dtype == torch.bfloat16:
            bits = x.view(torch.int16).numpy().view(np.uint16)
            return self._openvino.Tensor(bits, self._openvino.Shape(list(x.shape)), self._openvino.Type.bf16)
        return self._openvino.Tensor(x.numpy(), shared_memory=True)
