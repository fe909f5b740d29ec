"""The network that a stage starts from: new, a checkpoint's, or a checkpoint's with something changed on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mila_ros.errors import UserError
from mila_ros.models.accel import AccelPropagation
from mila_ros.models.checkpoint import load_model, read_header, resolve
from mila_ros.models.config import FLOWS, ModelConfig, model_changes
from mila_ros.models.heads import Heads
from mila_ros.models.mila import Mila
from mila_ros.models.networks import SlowNetwork
from mila_ros.training.depth_scale import rescale
from mila_ros.training.narrow import narrow, narrow_heads, narrow_joining
from mila_ros.training.settings import TrainSettings
from mila_ros.worlds.labels import load_labels

NARROWER = ("fast_head_channels", "fast_hidden", "fast_trim")
"""Model settings of the fast network's size; it may be made smaller on the way (narrow.py)."""
CARRYING = ("attention", "frames", "window", "reach", "keys", "tile", "warp", "propagation", *NARROWER)
"""Model settings that may be changed on the way: they are about how features are carried, not about what they are."""


_ANSWERS = ("tasks", "slow_backbone")
"""Settings after a change of which fast heads have to begin anew."""


def build_model(settings: TrainSettings, stages: Sequence[str]) -> Mila:
    """The network that a stage starts from, which went through `stages` before.

    Raises:
        UserError: the start checkpoint is missing, or the configuration is wrong.
    """
    if settings.start is not None:
        trained, changes = load_model(settings.start), dict(settings.model)
        if settings.stage == "slow":
            if "slow_backbone" in changes:
                trained = with_backbone(trained, changes.pop("slow_backbone"))
            answers = {key: changes.pop(key) for key in ("tasks", "working_pixels", "slow_zoom") if key in changes}
            if settings.relabel:
                labels = load_labels(settings.labels)
                answers |= {"classes": labels.classes, "palette": labels.palette}
            trained = with_answers(trained, answers)
        more = ("cross_attention",) if settings.stage == "slow" else ()
        model = carried_otherwise(trained, changes, (*CARRYING, *more))
        anew = "fast" not in stages if settings.copy_heads is None else settings.copy_heads
        narrower = model.config.fast_head_width < model.config.head_channels
        if settings.stage == "fast" and narrower and settings.blend is not None and settings.blend < 1:
            raise UserError(
                "blend below 1 goes back to the slow network's heads, which are wider than fast heads of "
                f"fast_head_channels: {model.config.fast_head_channels}: leave it out"
            )
        if settings.stage == "flow" and model.config.propagation not in FLOWS:
            raise UserError(
                f"the stage flow is for a propagation that finds optical flow ({', '.join(FLOWS)}); this network's is "
                f"{model.config.propagation}: set 'model={{propagation: learned-flow}}'"
            )
        if settings.stage == "fast" and anew:
            heads_from_slow(model)
        return model
    labels = load_labels(settings.labels)
    values: dict[str, Any] = {"pretrained": True, "classes": labels.classes, "palette": labels.palette}
    return Mila(ModelConfig.from_dict(values | settings.model))


def heads_from_slow(model: Mila) -> None:
    """Let the fast heads begin as copies of the slow ones, where they are narrower as the most of them."""
    heads = model.fast_heads
    if isinstance(model.propagation, AccelPropagation):
        model.propagation.fusion.scale(0.0)  # it has learned to correct by others
    if model.config.fast_head_width == model.config.head_channels:
        heads.start_from(model.slow_heads)
        return
    wide = Heads(model.config, heads.detail_in, model.config.head_channels, heads.carried_in)
    wide.start_from(model.slow_heads)
    narrow_heads(wide, heads)


def carried_otherwise(trained: Mila, changes: dict[str, Any], allowed: Sequence[str] = CARRYING) -> Mila:
    """A trained network with another way to carry features, which starts from what the old way knew.

    allowed: settings that may be changed.

    Raises:
        UserError: a change of something else.
    """
    own = trained.config.to_dict()
    changes = {key: value for key, value in changes.items() if _plain(own.get(key)) != _plain(value)}
    if not changes:
        return trained
    fixed = sorted(set(changes) - set(allowed))
    if fixed:
        raise UserError(
            f"model settings {fixed} cannot be changed when training starts from a checkpoint, which brings its own; "
            f"only {list(CARRYING)} can, in the stage slow also slow_backbone, slow_zoom, tasks, "
            "working_pixels and cross_attention, or leave out `start`"
        )
    model = Mila(ModelConfig.from_dict(model_changes(own, changes)))
    weights = {k: v for k, v in trained.state_dict().items() if not k.startswith("propagation.")}
    model.load_state_dict(_fitted(weights, model))
    ways = {model.config.propagation, trained.config.propagation}
    if len(ways) == 1 or ways <= set(FLOWS):  # else names may be alike and mean something else
        model.propagation.load_state_dict(_fitted(trained.propagation.state_dict(), model.propagation))
    before, now = trained.config, model.config
    if now.fast_head_width > before.fast_head_width or now.fast_hidden_width > before.fast_hidden_width:
        raise UserError("fast_head_channels, fast_hidden: a trained network's can be made smaller, not larger")
    if now.fast_trim < before.fast_trim:
        raise UserError(
            f"fast_trim: blocks that a trained network has not cannot be put back; it has {before.fast_trim}"
        )
    known = trained.propagation.look_ups()
    for name, part in model.propagation.look_ups().items() if known else ():
        source = known.get(name) or known.get("all") or next(iter(known.values()))
        part.load_state_dict(_fitted(source.state_dict(), part))
        narrow_joining(source, part)
    if not (known and model.propagation.look_ups()):
        same = model.config.propagation == trained.config.propagation
        narrow_joining(trained.propagation if same else None, model.propagation)
    narrow(trained, model)
    return model


def _fitted(weights: dict[str, torch.Tensor], module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's weights, from another's where they fit; inputs that the other had not begin by adding nothing."""
    fitted = module.state_dict()
    for name, value in weights.items():
        own = fitted.get(name)
        if own is None:
            continue
        if own.shape == value.shape:
            fitted[name] = value
        elif name.endswith("position_bias"):
            fitted[name] = _of_window(value, own)
        elif own.ndim == value.ndim == 4 and own.shape[::3] == value.shape[::3]:
            shared = min(own.shape[1], value.shape[1])
            fitted[name] = torch.zeros_like(own)
            fitted[name][:, :shared] = value[:, :shared]
    return fitted


def _of_window(bias: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A window's position bias for a smaller window, its middle, or a larger one, its border repeated: (P * P,)."""
    side, wanted = (round(len(x) ** 0.5) for x in (bias, like))
    more = (wanted - side) // 2
    return F.pad(bias.view(1, 1, side, side), 4 * [more], mode="replicate" if more > 0 else "constant").flatten()


def with_backbone(trained: Mila, name: str) -> Mila:
    """A trained network with another slow backbone, from ImageNet weights, under as much of its decoder as fits.

    What the decoder made of the old backbone's features is to be learned again; what it does with that is kept.
    """
    if name == trained.config.slow_backbone:
        return trained
    config = ModelConfig.from_dict(trained.config.to_dict() | {"slow_backbone": name})
    model = Mila(config)
    tasks = len(config.tasks) if config.cross_attention else 0
    model.slow = SlowNetwork(name, config.slow_channels, config.channels, True, tasks, config.slow_zoom)
    own = model.state_dict()
    kept = {
        key: value
        for key, value in trained.state_dict().items()
        if not key.startswith("slow.backbone.") and key in own and own[key].shape == value.shape
    }
    model.load_state_dict(own | kept)
    return model


def with_answers(trained: Mila, changes: dict[str, Any]) -> Mila:
    """A trained network that answers otherwise: other tasks, other classes, pictures seen at another size.

    Heads keep what they know of tasks and of classes (by name) that remain; the rest starts untrained.

    Raises:
        UserError: a value that a network cannot have.
    """
    config = ModelConfig.from_dict(trained.config.to_dict() | changes)
    if config == trained.config:
        return trained
    if config.cross_attention and config.tasks != trained.config.tasks:
        raise UserError("with cross_attention tasks know of each other: they cannot be changed on a trained network")
    model = Mila(config)
    model.load_state_dict(_fitted(trained.state_dict(), model))
    if "depth" in config.tasks and "depth" in trained.config.tasks:
        # Things that are seen larger look nearer, by as much, and so do they in what is carried from there.
        rescale(model, config.slow_zoom / trained.config.slow_zoom)
    if "segmentation" in trained.config.tasks and "segmentation" in config.tasks:
        before = {name: row for row, name in enumerate(trained.config.classes)}
        if isinstance(model.propagation, AccelPropagation) and config.classes != trained.config.classes:
            model.propagation.fusion.scale(0.0, ("segmentation",))
        kept = [(row, before[name]) for row, name in enumerate(config.classes) if name in before]
        with torch.no_grad():
            for heads, old in ((model.slow_heads, trained.slow_heads), (model.fast_heads, trained.fast_heads)):
                out, source = heads.tasks["segmentation"].out, old.tasks["segmentation"].out
                nn.init.normal_(out.weight, std=0.01)
                nn.init.zeros_(out.bias)
                for row, other in kept:
                    out.weight[row] = source.weight[other]
                    out.bias[row] = source.bias[other]
    return model


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def stages_before(settings: TrainSettings) -> list[str]:
    """The stages that the start checkpoint went through, in order; without fast ones where this run asks for other
    answers, looks with another backbone, or makes the fast network find flow: that fast heads have not learned."""
    if settings.start is None:
        return []
    config, card = read_header(resolve(settings.start))
    other = any(
        key in settings.model and _plain(settings.model[key]) != _plain(getattr(config, key)) for key in _ANSWERS
    )
    anew = settings.stage == "flow" or (settings.stage == "slow" and (settings.relabel or other))
    return [stage for stage in card.get("stages", []) if not (anew and stage == "fast")]
