"""`mila ablate`: train the fast stage in several ways from one start, and lay them side by side.

What a way is worth shows when nothing else differs: the same trained slow network, a fast network and a propagation
that begin anew, the same data, order of data (seed), schedule and budget for each. A way that is done is not trained
again; one that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from mila_ros.errors import UserError
from mila_ros.evaluation.compare import main as compare
from mila_ros.models.checkpoint import load_model, resolve, save_model
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.models.networks import FastNetwork

WAYS: dict[str, tuple[str, ...]] = {
    "attention": (),
    "task-specific": ("model={attention: task}",),
    # Several keyframes are remembered only by windows that stay; so this pair differs in nothing else.
    "still-windows": ("model={warp: false, reach: 0, window: 9}",),
    "multi-frame": ("model={warp: false, reach: 0, window: 9, frames: 3}",),
    "adversary": ("adversary_weight=0.1",),
    "l2": ("glance_weight=0.5",),
    "adversary-l2": ("adversary_weight=0.1", "glance_weight=0.5"),
    "alignment": ("model={propagation: alignment}",),
    "attention-alignment": ("model={propagation: attention+alignment}",),
    "laps": ("model={propagation: laps}",),
}
"""Settings that make each way what it is, beside those of the stage."""


def begun_anew(start: str, path: Path, seed: int = 0) -> Path:
    """Write a trained network of which only the slow part is kept, as after its first stage.

    The fast backbone has ImageNet weights where their package is installed, else random ones.
    """
    trained = load_model(start)
    torch.manual_seed(seed)
    model = Mila(ModelConfig.from_dict(trained.config.to_dict()))
    model.slow.load_state_dict(trained.slow.state_dict())
    model.slow_heads.load_state_dict(trained.slow_heads.state_dict())
    try:
        model.fast = FastNetwork(model.config.fast_backbone, model.config.channels, pretrained=True)
    except UserError as error:
        print(f"the fast network begins with random weights: {error}", file=sys.stderr)
    save_model(model, path, {"stages": ["slow"]})
    return path


def main(argv: list[str]) -> int:
    """Entry of `mila ablate`."""
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="mila ablate", description=__doc__.split("\n\n")[0])
    settings = "settings of every way, for example minutes=10 batch=8 rendered_clips=60 (mila_ros/training/settings.py)"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=settings)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--data", required=True, help="KIND:FOLDER, to learn from and to judge by (its validation)")
    parser.add_argument("--start", default="indoor", help="network whose slow part all share (indoor)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--distances", type=int, nargs="+", default=[5, 10], metavar="D", help="to judge at (5 10)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--processes", type=int, default=1, help="of each training; one a core on a CPU")
    options = parser.parse_intermixed_args(argv)
    start = options.out / "start.safetensors"
    source = hashlib.sha256(resolve(options.start).read_bytes()).hexdigest()
    noted = start.with_suffix(".json")
    if not start.is_file() or not noted.is_file() or noted.read_text(encoding="utf-8") != source:
        begun_anew(options.start, start)  # another file each time, for who resumes from it
        noted.write_text(source, encoding="utf-8")
    models = [_trained(way, start, source, options) for way in options.ways]
    device = "cpu" if options.device == "cpu" or not torch.cuda.is_available() else "cuda"
    arguments = ["--data", options.data, "--split", "validation", "--device", device]
    arguments += ["--distances", *map(str, options.distances), "--json", str(options.out / "ablation.json")]
    return compare([*arguments, "--model", *map(str, models)])


def _trained(way: str, start: Path, source: str, options: argparse.Namespace) -> Path:
    """The network that a way leads to. source: digest of what `start` was made from.

    Raises:
        UserError: the training failed, or one with other settings stands in its place.
    """
    model: Path = options.out / f"{way}.safetensors"
    settings = [f"data={options.data}", "copy_heads=true", *options.overrides, *WAYS[way]]
    made = {"start": source, "settings": settings}
    note = model.with_suffix(".json")
    if model.is_file():
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != made:
            raise UserError(f"{model} was made from another start or with other settings: use another --out folder")
        print(f"{way}: done before", file=sys.stderr)
        return model
    print(f"{way}: {' '.join(WAYS[way]) or 'the settings of config/train/fast.yaml'}", file=sys.stderr)
    run = options.out / way
    command = [sys.executable, "-m", "mila_ros.cli", "train", "fast", "--out", str(run), "--device", options.device]
    command += ["--processes", str(options.processes), f"start={start}"]
    # A process of its own: where there are several, Fabric starts them by running this command again. What is a way's
    # own comes last and wins.
    ended = subprocess.run([*command, *settings], check=False)
    if ended.returncode:
        raise UserError(f"the training of {way} ended with status {ended.returncode}; the reason stands above")
    note.write_text(json.dumps(made), encoding="utf-8")
    partial = model.with_suffix(".partial")
    shutil.copyfile(run / "model.safetensors", partial)
    partial.replace(model)
    return model
