"""Networks on disk: one safetensors file whose header says how to build the network (no pickle anywhere)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mila_ros.errors import UserError
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.paths import checkpoints_dir

FORMAT = "mila_ros/2"
_SUFFIX = ".safetensors"


def builtin_models() -> dict[str, Path]:
    """The networks that come with the package, by name."""
    return {path.stem: path for path in sorted(checkpoints_dir().glob("*" + _SUFFIX))}


def resolve(name_or_path: str | Path) -> Path:
    """The file of a shipped network's name or of a path.

    Raises:
        UserError: neither a shipped name nor a file.
    """
    shipped = builtin_models()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    raise UserError(
        f'no model "{name_or_path}": it is neither a file nor one of the shipped models '
        f"({', '.join(shipped) or 'none is installed'})"
    )


def save_model(model: Mila, path: Path, card: dict[str, Any] | None = None) -> None:
    """Write weights (half precision; statistics in full) and configuration.

    Args:
        model: what to save.
        path: of the file to write; written beside it first, then renamed, so a crash leaves no half file.
        card: facts for people (data, commit, metrics), JSON-able; shown by `mila info`.
    """
    config = model.config.to_dict() | {"pretrained": False}
    metadata = {"format": FORMAT, "config": json.dumps(config), "card": json.dumps(card or {})}
    tensors = {
        name: tensor.detach().cpu().contiguous()
        if "running_" in name or not tensor.is_floating_point()
        else tensor.detach().cpu().half().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(save(tensors, metadata=metadata))
    partial.replace(path)


def read_header(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Configuration and card of a checkpoint, without its weights.

    Raises:
        UserError: not a safetensors file, or not one of this package.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors checkpoint: {error}") from error
    made = metadata.get("format", "none")
    if not made.startswith("mila_ros/"):
        raise UserError(f'{path} is not a mila_ros checkpoint (format "{made}", expected "{FORMAT}")')
    if made != FORMAT:
        raise UserError(
            f'{path} was made by another version of mila_ros (format "{made}", this one reads "{FORMAT}"): '
            "train it again, or use the version that made it"
        )
    config = ModelConfig.from_dict(json.loads(metadata["config"]))
    return config, json.loads(metadata.get("card", "{}"))


def load_model(name_or_path: str | Path, tasks: tuple[str, ...] | None = None) -> Mila:
    """A network in evaluation mode, fp32, on the CPU.

    Args:
        name_or_path: a shipped network's name ("indoor") or a file.
        tasks: those that the caller needs; None: whatever the network has.

    Raises:
        UserError: no such file, a damaged one, another program's, or one without a needed task.
    """
    path = resolve(name_or_path)
    config, _ = read_header(path)
    missing = [task for task in tasks or () if task not in config.tasks]
    if missing:
        raise UserError(
            f"{path} has the tasks {', '.join(config.tasks)}; asked for {', '.join(missing)} as well: "
            "choose another model or leave these tasks out"
        )
    model = Mila(config)
    state: dict[str, torch.Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a handle, not a dict
                state[name] = file.get_tensor(name).float()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}; fetch or train it again") from error
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        model.load_state_dict(state | counters, strict=True)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit its own configuration: {error}") from error
    return model.eval()
