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


def outputs_of(path: Path) -> list[str]:
    """Names of what a file's graph gives."""
    import onnx

    return [output.name for output in onnx.load(path, load_external_data=False).graph.output]


def with_outputs(path: Path, wanted: Sequence[str]) -> bytes:
    """A file's graph with these outputs, in this order, and what they need: ONNX Runtime computes all it is given.

    Raises:
        ValueError: it has no such output.
    """
    import onnx

    model = onnx.load(path)
    graph = model.graph
    outputs = {output.name: output for output in graph.output}
    if missing := [name for name in wanted if name not in outputs]:
        raise ValueError(f"{path.name} has no outputs {missing}; it has {list(outputs)}")
    needed, kept = set(wanted), []
    for node in reversed(graph.node):  # in the order of computation
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    kept.reverse()
    for field, values in (
        (graph.node, kept),
        (graph.output, [outputs[name] for name in wanted]),
        (graph.input, [each for each in graph.input if each.name in needed]),
        (graph.initializer, [each for each in graph.initializer if each.name in needed]),
    ):
        values = list(values)
        del field[:]
        field.extend(values)
    found: bytes = model.SerializeToString()
    return found
