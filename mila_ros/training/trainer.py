"""The training loop: Lightning Fabric for devices and precision, exact resume, running mean of weights, a CSV log."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.evaluation.compare import compare_frames
from mila_ros.evaluation.comparison_table import format_table
from mila_ros.models.checkpoint import resolve, save_model
from mila_ros.models.mila import Mila
from mila_ros.training.augmentation import Augmentation
from mila_ros.training.blend import blend_share, blended, blended_slow, slow_weights
from mila_ros.training.data import Batches, Pool, label_counts
from mila_ros.training.depthwise import DepthwiseGradients
from mila_ros.training.gallery import write_gallery
from mila_ros.training.losses import class_weights
from mila_ros.training.run_log import RunLog
from mila_ros.training.settings import TrainSettings
from mila_ros.training.start import build_model, stages_before
from mila_ros.training.steps import STAGES, working_zoom
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.labels import load_labels

_SHOWN = 4
"""Validation frames in a picture."""


_FREE = ("rendered_folder", "validate_every", "save_every")
"""Settings that may be others when a run is resumed: what is learned does not depend on them."""


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings for a card, without folders of this machine."""
    kind, _, folder = str(settings["data"] or "").partition(":")
    if Path(folder).is_absolute():
        settings["data"] = f"{kind}:{Path(folder).name}"
    if settings["start"] and Path(settings["start"]).is_absolute():
        settings["start"] = "/".join(Path(settings["start"]).parts[-3:])
    settings["rendered_folder"] = None  # the same clips without it
    return settings


def learns_from(settings: TrainSettings, pools: Sequence[tuple[Pool, float]]) -> dict[str, Any]:
    """What settings name and do not hold: the start checkpoint's digest, and how many clips there are of each data."""
    digest = None if settings.start is None else hashlib.sha256(resolve(settings.start).read_bytes()).hexdigest()
    return {"start": digest, "clips": [len(pool) for pool, _ in pools]}


class Trainer:
    """One run in one folder.

    Args:
        settings: of the stage.
        pools: training frames, with their shares of a batch, on the training device.
        validation: frames to judge by; may be empty.
        folder: for state.ckpt (to resume), model.safetensors (running mean), log.csv, validation.jsonl, pictures/.
        fabric: launched; decides device and precision.
    """

    def __init__(
        self,
        settings: TrainSettings,
        pools: Sequence[tuple[Pool, float]],
        validation: Sequence[Frame],
        folder: Path,
        fabric: Fabric,
    ) -> None:
        self.settings, self.validation, self.folder, self.fabric = settings, validation, folder, fabric
        self.learns_from = learns_from(settings, pools)
        folder.mkdir(parents=True, exist_ok=True)
        self.log = RunLog(folder)
        fabric.seed_everything(settings.seed, verbose=False)
        self.stages_before = stages_before(settings)
        self.model = build_model(settings, self.stages_before)
        self.blend = blend_share(settings, self.model.config)
        self.start = slow_weights(self.model) if settings.stage == "slow" and self.blend < 1 else {}
        torch.manual_seed(settings.seed + fabric.global_rank)  # weights alike, what is dropped not
        named = load_labels(settings.labels).classes
        if "segmentation" in self.model.config.tasks and self.model.config.classes != named:
            raise UserError(
                f"the start checkpoint knows {len(self.model.config.classes)} classes, not those of "
                f"labels: {settings.labels} ({len(named)}): set `labels` to its own, or relabel=true to learn these"
            )
        lacking = [t for t in self.model.config.tasks if not any(t in pool.tasks for pool, _ in pools)]
        if lacking and settings.stage != "flow":
            raise UserError(
                f"no training data has ground truth for {lacking}: choose the tasks with 'model={{tasks: [...]}}', "
                "or add data that has it"
            )
        counts = label_counts([pool for pool, _ in pools], len(self.model.config.classes))
        weights = class_weights(counts, settings.balance)
        self.step_module = STAGES[settings.stage](self.model, settings, weights)
        self.model.requires_grad_(False)
        for part in self.step_module.trained():
            part.requires_grad_(True)
            for frozen in part.backbone.first_stages(settings.frozen_stages) if hasattr(part, "backbone") else ():
                frozen.requires_grad_(False)
        optimizer = torch.optim.AdamW(self._groups(), weight_decay=settings.weight_decay)
        self.module, self.optimizer = fabric.setup(self.step_module.to(memory_format=torch.channels_last), optimizer)
        self.mean = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)
        self.generator = torch.Generator(device=fabric.device).manual_seed(settings.seed + fabric.global_rank)
        s = settings
        parts = fabric.world_size * s.accumulate
        if s.batch % parts:
            raise UserError(
                f"a batch of {s.batch} cannot be shared by {fabric.world_size} processes in {s.accumulate} parts each: "
                f"use a multiple of {parts}"
            )
        # The attention's window is in cells of the network: a smaller picture must move more to fill it alike.
        distance = max(1, round(s.max_distance * working_zoom(self.model, s.height, s.width)))
        self.varied = Augmentation(s.height, s.width, s.zoom, s.turn, s.moved, s.colour, distance, s.truth_stride)
        keyframes = {"slow": 0, "fast": self.model.config.frames, "flow": 1}[settings.stage]
        flow = settings.stage == "flow"
        self.batches = Batches(pools, s.batch // parts, self.varied, keyframes, self.generator, flow)
        self.motion = pools[0][0].motion
        self.step = 0
        self.seconds = 0.0

    def _groups(self) -> list[dict[str, Any]]:
        """Pretrained backbones learn more slowly; biases and normalisation are not decayed."""
        rates: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.step_module.named_parameters():
            if parameter.requires_grad:
                slower = self.settings.backbone_rate if "backbone" in name else 1.0
                rates.setdefault((slower, parameter.ndim > 1), []).append(parameter)
        groups: list[dict[str, Any]] = []
        for (factor, decayed), parameters in rates.items():
            group: dict[str, Any] = {"params": parameters, "factor": factor, "lr": self.settings.learning_rate}
            groups.append(group if decayed else group | {"weight_decay": 0.0})
        return groups

    def _progress(self) -> float:
        """Share of the run that is done, 0..1."""
        s = self.settings
        done = self.step / s.steps if s.minutes is None else self.seconds / (60 * s.minutes)
        return min(1.0, done)

    def _variation(self) -> Augmentation:
        """How pictures are varied now: at the end of the run hardly at all."""
        as_they_are = self._progress() >= 1 - self.settings.whole
        return replace(self.varied, zoom=1.0, turn=0.0, moved=0.0) if as_they_are else self.varied

    def _rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine to 1 % of the peak."""
        s = self.settings
        if step < s.warmup:
            return (step + 1) / s.warmup
        progress = self._progress()
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    def _train_mode(self) -> None:
        """Frozen parts keep their normalisation statistics."""
        self.model.eval()
        for part in self.step_module.trained():
            part.train()
            for module in part.modules():
                own = list(module.parameters(recurse=False))
                if own and not any(parameter.requires_grad for parameter in own):
                    module.eval()

    def run(self) -> dict[str, dict[str, Any]]:
        """Train to the last step; the last validation's results."""
        s = self.settings
        results: dict[str, dict[str, Any]] = {}
        bar = tqdm(
            total=1000, initial=round(1000 * self._progress()), desc=f"train {s.stage}", unit="‰", file=sys.stderr
        )
        self._train_mode()
        while self._progress() < 1:
            started = time.monotonic()
            for group in self.optimizer.param_groups:
                group["lr"] = s.learning_rate * group["factor"] * self._rate(self.step)
            self.step_module.step = self.step
            self.batches.options = self._variation()
            for part in range(s.accumulate):
                with self.fabric.no_backward_sync(self.module, enabled=part < s.accumulate - 1):
                    with DepthwiseGradients():
                        losses = self.module(self.batches.next())
                    self.fabric.backward(torch.stack(list(losses.values())).sum() / s.accumulate)
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=5.0, error_if_nonfinite=False)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.mean.update_parameters(self.model)
            self.step += 1
            self.seconds += time.monotonic() - started
            if s.minutes is not None and self.fabric.world_size > 1:
                self.seconds = self.fabric.broadcast(self.seconds)  # all must stop at the same step
            last = self._progress() >= 1
            bar.n = round(1000 * self._progress())
            bar.refresh()
            if self.step % 50 == 0 or last:
                values = {name: float(loss.detach()) for name, loss in losses.items()}
                if not all(math.isfinite(v) for v in values.values()):
                    raise UserError(
                        f"training diverged at step {self.step} ({values}): "
                        "lower learning_rate, in another --out folder"
                    )
                bar.set_postfix({k: f"{v:.3f}" for k, v in values.items()})
                if self.fabric.is_global_zero:
                    self.log.add_losses({"step": self.step, "seconds_a_step": time.monotonic() - started} | values)
            if self.step % s.save_every == 0 or last:
                self.save_state()
            if s.validate_every and (self.step % s.validate_every == 0 or last):
                results = self.validate()
        bar.close()
        results = results or self.validate()  # a run that was over before it was resumed
        self.save_model(results)
        return results

    def validate(self) -> dict[str, dict[str, Any]]:
        """Judge the running mean of weights on the validation frames."""
        if not len(self.validation) or not self.settings.validate_every or not self.fabric.is_global_zero:
            return {}
        model = self._result()
        distances = () if self.settings.stage == "slow" else (1, 5, 10)
        results = compare_frames(model, self.validation, self.fabric.device, distances, motion=self.motion)
        if self.settings.stage == "slow":
            results.pop("fast")
        tqdm.write(f"step {self.step}\n{format_table(results)}", file=sys.stderr)
        shown = [self.validation[i] for i in range(0, len(self.validation), max(1, len(self.validation) // _SHOWN))]
        picture = self.folder / "pictures" / f"{self.step:06d}.jpg"
        write_gallery(model, shown[:_SHOWN], self.fabric.device, picture, fast=self.settings.stage == "fast")
        self.log.add_validation(self.step, results)
        self._train_mode()
        return results

    def _result(self) -> Mila:
        """What the run leaves behind: the running mean of weights, blended with what it began from where asked for."""
        model: Mila = self.mean.module
        model.eval()
        if self.blend == 1:
            return model
        if self.settings.stage == "fast":
            return blended(model, self.blend)
        return blended_slow(model, self.start, self.blend)

    def save_model(self, results: dict[str, dict[str, Any]]) -> Path:
        """Write model.safetensors: the running mean of weights, with settings and validation in its card."""
        path = self.folder / "model.safetensors"
        if self.fabric.is_global_zero:
            card = {
                "stages": [*self.stages_before, self.settings.stage],
                "settings": _portable(self.settings.to_dict()),
                "step": self.step,
                "validation": results,
            }
            save_model(self._result(), path, card)
        return path

    def _chance(self) -> dict[str, Any]:
        """What this process will draw next."""
        cuda = self.fabric.device.type == "cuda"
        return {
            "generator": self.generator.get_state().cpu(),
            "orders": [order.cpu() for order in self.batches.orders],
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.fabric.device) if cuda else None,
        }

    def _gathered(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        """One entry a process, in the order of their ranks."""
        every = [mine] * self.fabric.world_size
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(every, mine)
        return every

    def save_state(self) -> None:
        """Everything that the next step depends on, written beside the old state and then swapped in."""
        state = {
            "step_module": self.step_module.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "settings": self.settings.to_dict() | {"blend": self.blend},
            "learns_from": self.learns_from,
            "ranks": self._gathered(self._chance()),
        }
        partial = self.folder / "state.ckpt.partial"
        if self.fabric.is_global_zero:
            torch.save(state, partial)
            partial.replace(self.folder / "state.ckpt")

    def resume(self) -> bool:
        """Go on from state.ckpt if there is one.

        Raises:
            UserError: it belongs to other settings.
        """
        path = self.folder / "state.ckpt"
        if not path.is_file():
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)
        usual = {f.name: f.default for f in fields(TrainSettings) if f.default is not MISSING}
        wanted = self.settings.to_dict() | {"blend": self.blend}
        known = usual | state["settings"] | {name: wanted[name] for name in _FREE}
        if known["blend"] is None:  # of a version that did not know it
            known["blend"] = 1.0
        if known != wanted or "step_module" not in state:
            raise UserError(
                f"{path} was made with other settings: use another --out folder, or remove it to start anew"
            )
        if state.get("learns_from", self.learns_from) != self.learns_from:
            raise UserError(
                f"{path} was made from another start checkpoint of the same name, or from more or fewer frames: use "
                "--fresh or another --out folder"
            )
        if len(state["ranks"]) != self.fabric.world_size:
            raise UserError(
                f"{path} was made by {len(state['ranks'])} processes: use --processes {len(state['ranks'])}, or "
                "another --out folder"
            )
        try:
            self.step_module.load_state_dict(state["step_module"])
            self.mean.load_state_dict(state["mean"])
        except RuntimeError as error:
            raise UserError(f"{path} was made by another version: use --fresh or another --out folder") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        own = state["ranks"][self.fabric.global_rank]
        self.generator.set_state(own["generator"])
        self.batches.orders = own["orders"]
        torch.set_rng_state(own["cpu_rng"])
        if own["cuda_rng"] is not None and self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda_rng"], self.fabric.device)
        return True
