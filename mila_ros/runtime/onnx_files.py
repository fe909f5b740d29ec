"""Networks as ONNX files, by PyTorch's exporter."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

OPSET = 18


def write_onnx(
    graph: nn.Module, given: tuple[Tensor, ...], path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Trace a module with these inputs, whose sizes become fixed, into one file."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter speaks of itself
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            given,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
