"""ONNX Runtime: on a GPU by TensorRT where that can be loaded, else by its own CUDA kernels; on a CPU by its own.

Tensors stay where they are: it reads and writes PyTorch's memory. On a GPU it works in the stream of the thread that
asks. TensorRT compiles for the GPU that it finds, for minutes, and keeps what it made beside the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mila_ros.errors import UserError
from mila_ros.runtime.devices import DTYPES
from mila_ros.runtime.onnx_files import outputs_of, with_outputs, write_onnx
from mila_ros.runtime.parts import Graph
from mila_ros.runtime.runtimes import Request, Runtime, output_type

# Of ONNX's TensorProto.DataType, as bindings want them.
_ELEMENT_TYPES = {torch.float32: 1, torch.float16: 10}
_TORCH_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
_TENSORRT, _CUDA, _CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
_Providers = list[tuple[str, dict[str, Any]]]


class OnnxRuntime(Runtime):
    """See the module's docstring; fp32 on a CPU, fp32 or fp16 on a GPU."""

    name, packages, suffix = "onnxruntime", ("onnxruntime", "onnxscript"), ".onnx"

    def __init__(self, device: torch.device, precision: str) -> None:
        super().__init__(device, precision)
        import onnxruntime

        self._onnxruntime = onnxruntime
        self._without_tensorrt = False
        if device.type == "cuda" and _CUDA not in onnxruntime.get_available_providers():
            raise UserError("the onnxruntime that is installed is for CPUs: pip install onnxruntime-gpu in its place")

    @staticmethod
    def traced_in(precision: str) -> str:
        return precision

    @staticmethod
    def write(graph: Graph, path: Path) -> None:
        write_onnx(graph.module, tuple(graph.inputs.values()), path, list(graph.inputs), graph.outputs)

    def open(self, path: Path, wanted: Sequence[str]) -> Request:
        return _Request(self._session(path, wanted), self.device, DTYPES[self.precision], wanted)

    def warm(self, path: Path) -> None:
        if self.device.type == "cuda":  # TensorRT and cuDNN try what is fastest, for long
            wanted = outputs_of(path)
            request = _Request(self._session(path, wanted), self.device, DTYPES[self.precision], wanted)
            request(request.zeros())

    def _session(self, path: Path, wanted: Sequence[str]) -> Any:
        options = self._onnxruntime.SessionOptions()
        # On a GPU what threads of the CPU would do is nothing, and each session would bring its own.
        options.intra_op_num_threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores
        graph = with_outputs(path, wanted)
        ways = self._ways(path)
        while True:
            providers = ways.pop(0)
            try:
                # Without its own fallback, which would forget the options: device, stream.
                return self._onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
            except Exception as error:
                if not ways:
                    if self.device.type == "cuda":
                        raise UserError(f"ONNX Runtime cannot use the GPU: {error}") from error
                    raise
                self._without_tensorrt = True  # not tried for every part

    def _ways(self, path: Path) -> list[_Providers]:
        """Lists of providers to try, the best first; what one provider of a list cannot run goes to the next."""
        if self.device.type != "cuda":
            return [[(_CPU, {})]]
        index = self.device.index or 0
        stream = {"user_compute_stream": str(torch.cuda.current_stream(self.device).cuda_stream)}
        arena = {"arena_extend_strategy": "kSameAsRequested"}  # PyTorch's memory lies on the same GPU
        plain: _Providers = [
            (_CUDA, {"device_id": index, "cudnn_conv_algo_search": "EXHAUSTIVE", **arena, **stream}),
            (_CPU, {}),
        ]
        tensorrt = {
            "device_id": index,
            "trt_fp16_enable": self.precision == "fp16",
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(path.parent),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(path.parent),
            **stream,
        }
        # Listed by every build for GPUs, whether TensorRT's libraries are there or not.
        there = _TENSORRT in self._onnxruntime.get_available_providers() and not self._without_tensorrt
        return [[(_TENSORRT, tensorrt), *plain], plain] if there else [plain]


class _Request:
    """One part, for one thread and for the outputs that are wanted."""

    def __init__(self, session: Any, device: torch.device, dtype: torch.dtype, wanted: Sequence[str]) -> None:
        self.session, self._device = session, device
        self._binding = session.io_binding()
        self._inputs = {port.name: (port.shape, _TORCH_TYPES[port.type]) for port in session.get_inputs()}
        ports = {port.name: port for port in session.get_outputs()}
        self._outputs = [(name, ports[name].shape, _TORCH_TYPES[ports[name].type]) for name in wanted]
        self._types = [output_type(name, dtype) for name in wanted]

    def zeros(self) -> dict[str, Tensor]:
        """Inputs of the right sizes."""
        return {name: torch.zeros(size, dtype=kind, device=self._device) for name, (size, kind) in self._inputs.items()}

    def __call__(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        binding = self._binding
        binding.clear_binding_inputs()
        kept = {name: given[name].to(kind).contiguous() for name, (_, kind) in self._inputs.items()}  # until it is done
        for name, value in kept.items():
            binding.bind_input(name, **self._where(value))
        found = [torch.empty(shape, dtype=kind, device=self._device) for _, shape, kind in self._outputs]
        for (name, _, _), value in zip(self._outputs, found, strict=True):
            binding.bind_output(name, **self._where(value))
        if self._device.type == "cuda":
            # Providers differ in whether they wait for what was queued in the stream that they were given.
            torch.cuda.current_stream(self._device).synchronize()
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:
            if "allocate memory" in str(error) or "out of memory" in str(error).lower():
                raise torch.OutOfMemoryError(f"ONNX Runtime: {error}") from error
            raise
        return [value.to(kind) for value, kind in zip(found, self._types, strict=True)]

    def _where(self, x: Tensor) -> dict[str, Any]:
        return {
            "device_type": self._device.type,
            "device_id": self._device.index or 0,
            "element_type": _ELEMENT_TYPES[x.dtype],
            "shape": tuple(x.shape),
            "buffer_ptr": x.data_ptr(),
        }
