"""Rendered clips to learn from, made once: a run that is resumed, and runs beside it, find them on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.paths import PACKAGE, config_path
from mila_ros.training.data import Pool, pool_of_rendered

_TENSORS = ("rgb", "depth", "labels", "normals", "intrinsics")


def kept_rooms(
    folder: str | None,
    clips: int,
    frames: int,
    interval: int,
    height: int,
    width: int,
    seed: int,
    device: torch.device,
    flow: bool = False,
) -> Pool:
    """Clips as `pool_of_rendered` makes them, from the folder if they were made there before, else made and kept.

    A file is named after what decides what is in it: the settings, and the sources of the renderer and of this. So one
    folder may serve many runs. It takes 9 bytes a pixel, with optical flow 13. A damaged file is made anew; one that
    cannot be written for want of room is done without. Without a folder nothing is kept.

    Raises:
        UserError: the folder cannot be read or written to.
    """
    if folder is None:
        return pool_of_rendered(clips, frames, interval, height, width, seed, device, flow)
    made_by: dict[str, Any] = {"clips": clips, "frames": frames, "interval": interval, "seed": seed}
    made_by |= {"height": height, "width": width, "device": device.type, "renderer": _renderer()}
    made_by |= {"flow": True} if flow else {}
    name = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(folder) / f"rooms-{name}.safetensors"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # what is wrong with a folder is told of before time is spent on rendering
        known = load_file(path, device=str(device)) if path.is_file() else None
    except SafetensorError as error:
        known = None
        tqdm.write(f"{path} is damaged and rendered again: {error}", file=sys.stderr)
    except OSError as error:
        raise UserError(f"rendered_folder {folder} cannot be used: {error}; name another one or none") from error
    try:
        if known is not None:
            return Pool(**known, interval=interval)
        pool = pool_of_rendered(clips, frames, interval, height, width, seed, device, flow)
        try:
            names = (*_TENSORS, "flow") if flow else _TENSORS
            save_file({name: getattr(pool, name).contiguous() for name in names}, partial)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            tqdm.write(f"rendered rooms are not kept, {path} cannot be written: {error}", file=sys.stderr)
        return pool
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _renderer() -> str:
    digest = hashlib.sha256()
    here = [PACKAGE / "training" / "data.py", config_path("labels/nyu40.yaml")]
    for source in [*sorted((PACKAGE / "worlds").glob("rendered*.py")), *here]:
        digest.update(source.read_bytes())
    return digest.hexdigest()
