"""Where, in which arithmetic and by what a network runs, chosen by name and checked before anything is loaded."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil

import torch

from mila_ros.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BACKENDS = ("auto", "eager", "openvino", "onnxruntime", "compile")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def available_devices() -> list[str]:
    """Names that `pick_device` takes on this machine, besides auto."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0))]


def pick_device(name: str) -> torch.device:
    """The device of a name: auto (the first GPU where there is one, else the CPU), cpu, cuda or cuda:N.

    Raises:
        UserError: there is no such device; the message names those that exist.
    """
    there = available_devices()
    if name == "auto":
        return torch.device(there[1] if len(there) > 1 else "cpu")
    if name == "cuda" and len(there) > 1:
        return torch.device("cuda:0")
    if name in there:
        return torch.device(name)
    if re.fullmatch(r"cuda(:\d+)?", name):
        build = "" if torch.backends.cuda.is_built() else " (this PyTorch is built without CUDA)"
        raise UserError(f'device "{name}" does not exist on this machine{build}; there is {", ".join(there)}')
    raise UserError(f'unknown device "{name}"; use auto, cpu or cuda:N. This machine has {", ".join(there)}')


def fast_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, so that it is quicker than float32 there."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # an older PyTorch cannot tell
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16"))


def pick_precision(name: str, device: torch.device, backend: str = "eager") -> str:
    """fp32, bf16 or fp16. auto: bf16 where the hardware computes in it, else fp16 on a GPU and fp32 on a CPU.

    ONNX Runtime has no bf16: auto is fp16 on a GPU there, and fp32 on a CPU.

    Raises:
        UserError: the name is unknown, or the device, or what runs the networks, cannot compute in this precision.
    """
    if name not in PRECISIONS:
        raise UserError(f'unknown precision "{name}"; use {", ".join(PRECISIONS)}')
    without = backend == "onnxruntime"
    if name == "auto":
        bf16 = not without and fast_bf16(device)
        return "bf16" if bf16 else "fp16" if device.type == "cuda" else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU; on the CPU use bf16, fp32 or auto")
    if name == "bf16" and without:
        raise UserError("backend onnxruntime does not compute in bf16: use fp32 (on a GPU also fp16) or auto")
    return name


def give_back_memory() -> None:
    """Let other processes have what PyTorch keeps of a GPU's memory and does not use."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


_COMPILERS = (os.environ.get("CXX", "g++"), "c++", "clang++")
_NEEDED = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnxscript", "onnx")}


def pick_backend(name: str, device: torch.device) -> str:
    """eager (PyTorch), openvino, onnxruntime or compile (PyTorch's compiler).

    auto: openvino on an x86 CPU where it is installed, else eager.

    Raises:
        UserError: the name is unknown, or it cannot be had here.
    """
    if name not in BACKENDS:
        raise UserError(f'unknown backend "{name}"; use {", ".join(BACKENDS)}')
    lacking = {of: [m for m in needed if importlib.util.find_spec(m) is None] for of, needed in _NEEDED.items()}
    if name == "auto":
        fits = device.type == "cpu" and platform.machine() in ("x86_64", "AMD64")
        return "openvino" if fits and not lacking["openvino"] else "eager"
    if name == "openvino" and device.type != "cpu":
        raise UserError(f"backend openvino is for the CPU, not for {device}; use onnxruntime, eager or auto")
    if name == "compile" and device.type == "cpu" and not any(map(shutil.which, _COMPILERS)):
        raise UserError(
            f"backend compile needs a C++ compiler, one of {', '.join(_COMPILERS)}: install g++, or use eager"
        )
    if lacking.get(name):
        packages = " ".join(lacking[name])
        if device.type == "cuda":
            packages = packages.replace("onnxruntime", "onnxruntime-gpu")
        raise UserError(f"backend {name} is not installed: pip install {packages}; or use eager")
    return name
