"""`mila train CONFIG`: train one stage; interrupted, the same command goes on where it was."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.models.checkpoint import resolve
from mila_ros.models.config import TASKS
from mila_ros.paths import config_dir
from mila_ros.training.data import Pool, decoded, pool_of_frames
from mila_ros.training.rooms import kept_rooms
from mila_ros.training.sanity import check_pool
from mila_ros.training.settings import TrainSettings, load_settings
from mila_ros.training.trainer import Trainer
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.world import NoFramesError, open_world_for

_LONGEST_WAIT = timedelta(days=1)


def load_pools(
    settings: TrainSettings, device: torch.device, rank: int = 0
) -> tuple[list[tuple[Pool, float]], Sequence[Frame]]:
    """Training pools with their shares, and the frames to validate on; each process (rank) renders rooms of its own."""
    pools: list[tuple[Pool, float]] = []
    validation: Sequence[Frame] = []
    classes = load_labels(settings.labels).classes
    if settings.data is not None:
        # Opened first: what is wrong with a folder is said before minutes are spent on decoding.
        train = open_world_for(settings.data, "train", classes, TASKS)
        try:
            held_out = open_world_for(settings.data, "validation", classes, TASKS).with_truth()
            if rank == 0 and settings.validate_every:  # which alone validates
                validation = list(decoded(held_out, "load validation"))
        except NoFramesError as error:
            tqdm.write(f"nothing is held out to judge by: {error}", file=sys.stderr)
        frames = decoded(train.with_truth(), "load training")
        pools.append((pool_of_frames(frames, device, settings.keep_scale, train.motion), settings.data_share))
    if settings.rendered_clips:
        s, seed = settings, settings.seed + 100_000 * rank
        pool = kept_rooms(
            s.rendered_folder,
            s.rendered_clips,
            s.rendered_frames,
            s.rendered_interval,
            s.height,
            s.width,
            seed,
            device,
            s.stage == "flow",
        )
        pools.append((pool, s.rendered_share))
    return pools, validation


def main(argv: list[str]) -> int:
    """Entry of `mila train`."""
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="mila train", description=__doc__)
    shipped = "a YAML file, or the name of one in config/train (slow, fast, flow, driving_slow, driving_fast)"
    parser.add_argument("config", help=shipped)
    overrides = "settings to change, for example steps=200; mila_ros/training/settings.py explains all"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=overrides)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--processes", type=int, default=1, help="data-parallel processes; one a core on a CPU")
    parser.add_argument("--fresh", action="store_true", help="ignore a state to resume from")
    options = parser.parse_intermixed_args(argv)  # settings may stand before and after options
    path = Path(options.config)
    if not path.suffix:
        known = {file.stem: file for file in sorted((config_dir() / "train").glob("*.yaml"))}
        if options.config not in known:
            raise UserError(
                f'no training configuration "{options.config}": give a YAML file, or one of {", ".join(known)}'
            )
        path = known[options.config]
    settings = load_settings(path, options.overrides)
    if options.device not in ("auto", "cpu", "cuda"):
        raise UserError(f'--device "{options.device}": expected cpu, cuda or auto')
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no usable CUDA device here; use --device cpu")
    if options.processes < 1:
        raise UserError(f"--processes {options.processes}: at least one")
    if settings.start is not None:
        resolve(settings.start)  # what is missing is said before frames are decoded and rooms rendered
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {options.out} cannot be a folder: {error.strerror}") from error
    # While one process validates the others wait, for as long as it takes.
    strategy = DDPStrategy(timeout=_LONGEST_WAIT) if options.processes > 1 else "auto"
    try:
        fabric = Fabric(
            accelerator=options.device, strategy=strategy, devices=options.processes, precision=settings.precision
        )
    except ValueError as error:
        raise UserError(f"precision={settings.precision} or --device {options.device} cannot be: {error}") from error
    fabric.launch()
    if fabric.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    pools, validation = load_pools(settings, fabric.device, fabric.global_rank)
    names = [name for name in (settings.data, "rendered rooms" if settings.rendered_clips else None) if name]
    for name, (pool, _) in zip(names, pools, strict=True):
        said = check_pool(name, pool, load_labels(settings.labels).classes)
        if fabric.is_global_zero:
            tqdm.write(said, file=sys.stderr)
    trainer = Trainer(settings, pools, validation, options.out, fabric)
    if not options.fresh and trainer.resume():
        print(f"resumed at step {trainer.step}", file=sys.stderr)
    if fabric.is_global_zero:
        trainer.log.forget_after(trainer.step)
    trainer.run()
    print(trainer.folder / "model.safetensors")
    return 0
