"""`mila ablate`: train one stage in several ways from one start, and lay them side by side.

What a way is worth shows when nothing else differs: the same trained slow network, in the fast stage a fast network and
a propagation that begin anew, the same data, order of data (seed), schedule and budget for each. A way that is done is
not trained again; one that was interrupted goes on.
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

FAST_WAYS: dict[str, tuple[str, ...]] = {
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
    "learned-flow": ("model={propagation: learned-flow}",),
    "exact-flow": ("model={propagation: learned-flow}",),
    "accel": ("model={propagation: accel}",),
    # Without keyframes: judged by the rows that are called fast.
    "fast-alone": ("alone=1",),
    "temporal-consistency": ("alone=1", "temporal_weight=1"),
}
"""Settings that make each way of the fast stage what it is, beside those of the stage."""

AFTER_FLOW = ("exact-flow", "accel")
"""Ways of the fast stage that begin with a fast network and a flow which have been through the stage flow, for as many
steps (or minutes) as the fast stage takes; the other ways have no such beginning."""

_OF_FLOW = ("blend=1.0", "adversary_weight=0", "glance_weight=0", "temporal_weight=0")
"""What the stage flow has not, whatever the other stage is asked for."""

SLOW_WAYS: dict[str, tuple[str, ...]] = {
    "trained-on": (),
    "cross-attention": ("model={cross_attention: true}",),
}
"""The same for the slow stage, which goes on from a trained network: `trained-on` is what more training alone gives."""

_DISTANCES = (5, 10)
WAYS = {"fast": FAST_WAYS, "slow": SLOW_WAYS}


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
        model.fast = FastNetwork.of(model.config, pretrained=True)
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
    parser.add_argument("--start", default="indoor", help="network whose slow part all begin with (indoor)")
    parser.add_argument("--stage", choices=WAYS, default="fast", help="which is trained (fast)")
    known = "; ".join(f"{stage}: {', '.join(ways)}" for stage, ways in WAYS.items())
    parser.add_argument("--ways", nargs="+", metavar="WAY", help=f"some of them. {known}")
    far = "frames from the keyframe to judge at, stage fast (5 10)"
    parser.add_argument("--distances", type=int, nargs="+", metavar="D", help=far)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--processes", type=int, default=1, help="of each training; one a core on a CPU")
    options = parser.parse_intermixed_args(argv)
    ways = WAYS[options.stage]
    if options.stage == "slow" and options.distances:
        raise UserError("--distances are of the stage fast: the slow network looks at every frame itself")
    strange = sorted(set(options.ways or ()) - set(ways))
    if strange:
        raise UserError(f"--ways: the stage {options.stage} knows {', '.join(ways)}; not {', '.join(strange)}")
    source = resolve(options.start)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    start = source if options.stage == "slow" else _fast_start(source, digest, options.out)
    models = []
    for way in options.ways or ways:
        begun = start
        if options.stage == "fast" and way in AFTER_FLOW:
            begun = _trained("flow", "flow", _OF_FLOW, start, digest, options)
        models.append(_trained(way, options.stage, ways[way], begun, digest, options))
    device = "cpu" if options.device == "cpu" or not torch.cuda.is_available() else "cuda"
    arguments = ["--data", options.data, "--split", "validation", "--device", device]
    if options.stage == "slow":
        arguments += ["--methods"]  # none: the fast stage has not seen these slow networks yet
    else:
        arguments += ["--distances", *map(str, options.distances or _DISTANCES)]
    arguments += ["--json", str(options.out / "ablation.json")]
    return compare([*arguments, "--model", *map(str, models)])


def _fast_start(source: Path, digest: str, folder: Path) -> Path:
    """`begun_anew`, once: another file each time would be another start to what is resumed."""
    start = folder / "start.safetensors"
    noted = start.with_suffix(".json")
    if not start.is_file() or not noted.is_file() or noted.read_text(encoding="utf-8") != digest:
        begun_anew(str(source), start)
        noted.write_text(digest, encoding="utf-8")
    return start


def _trained(
    name: str, stage: str, own: tuple[str, ...], start: Path, source: str, options: argparse.Namespace
) -> Path:
    """The network that a stage leads to from `start`.

    Args:
        name: of its files.
        own: its settings beside those that all share; they win.
        source: digest of what `start` was made from.

    Raises:
        UserError: the training failed, or one with other settings stands in its place.
    """
    model: Path = options.out / f"{name}.safetensors"
    copied = ["copy_heads=true"] if stage == "fast" else []
    settings = [f"data={options.data}", *copied, *options.overrides, *own]
    made = {"start": source, "settings": settings}
    note = model.with_suffix(".json")
    if model.is_file():
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != made:
            raise UserError(f"{model} was made from another start or with other settings: use another --out folder")
        print(f"{name}: done before", file=sys.stderr)
        return model
    print(f"{name}: {' '.join(own) or f'the settings of config/train/{stage}.yaml'}", file=sys.stderr)
    run = options.out / name
    command = [sys.executable, "-m", "mila_ros.cli", "train", stage, "--out", str(run), "--device", options.device]
    command += ["--processes", str(options.processes), f"start={start}"]
    # Judged once, in the end, all in one table; rooms are rendered once, for all of a stage.
    command += ["validate_every=0", f"rendered_folder={options.out / 'rooms'}"]
    # A process of its own: where there are several, Fabric starts them by running this command again. What is a way's
    # own comes last and wins.
    ended = subprocess.run([*command, *settings], check=False)
    if ended.returncode:
        raise UserError(f"the training of {name} ended with status {ended.returncode}; the reason stands above")
    note.write_text(json.dumps(made), encoding="utf-8")
    partial = model.with_suffix(".partial")
    shutil.copyfile(run / "model.safetensors", partial)
    partial.replace(model)
    return model
