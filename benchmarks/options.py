"""What benchmarks of an engine ask for alike, and say of where they ran."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.rows import OUT, Row
from mila_ros.evaluation import machine
from mila_ros.models.checkpoint import load_model
from mila_ros.runtime.engine import Engine


def engine_parser(name: str, doc: str, bag: bool = True) -> argparse.ArgumentParser:
    """The command line of benchmark `name`: frames (bag: from a recording), network, and what runs it."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc.split("\n\n")[0])
    if bag:
        parser.add_argument("--bag", type=Path, help="recording with the frames (default: the bundled clip)")
    parser.add_argument("--model", default="indoor", help="name of a shipped model or a checkpoint file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--backend", default="auto", help="eager, openvino, onnxruntime, compile or auto, as the node (default)"
    )
    parser.add_argument("--out", type=Path, default=OUT / f"{name}.json")
    return parser


def engine_of(options: argparse.Namespace) -> Engine:
    """The engine that was asked for, with the node's usual bound on pictures."""
    return Engine(
        load_model(options.model), options.device, options.precision, max_pixels=307_200, backend=options.backend
    )


def on_what(engine: Engine, load: float) -> Row:
    """The machine, and how busy it was before."""
    where = f"{machine.processor()}, {machine.cores()} cores, {engine.device}, {engine.precision}, {engine.backend}"
    return Row(question="on what", method=where, setting="", metric="load before the start", value=load, unit="")
