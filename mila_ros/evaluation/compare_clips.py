"""`mila compare --task clips`: alignment and LAPS at video classification, against the same backbone without them.

Rendered clips that are told apart by motion alone (worlds/motion_clips.py); the features are those of a model's slow
backbone, frozen, so that all ways start alike; each is trained from several seeds.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from typing import Any

from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.models.checkpoint import load_model
from mila_ros.models.flops import counted
from mila_ros.models.video import TEMPORAL
from mila_ros.training.clips import accuracy, clip_features, train_classifier
from mila_ros.worlds.motion_clips import MOTIONS, motion_clips

_LEVEL = 1
"""Of the slow backbone: stride 8."""
_SEED = 20
"""Of the clips that are learned from; the ones that are judged have the next."""


def compare_clips(
    model_file: str, seeds: int, clips: int, judged: int, epochs: int, size: tuple[int, int] = (96, 128)
) -> dict[str, dict[str, Any]]:
    """Accuracy of each way, one a seed; their mean; `gflops` of a clip behind the backbone; weights.

    Args:
        model_file: whose slow backbone gives the features.
        seeds: how many trainings a way.
        clips: to learn from.
        judged: other clips, to be judged by.
        epochs: of each training.
        size: (h, w) of the clips.

    Raises:
        UserError: too few of anything.
    """
    if min(seeds, epochs) < 1 or min(clips, judged) < len(MOTIONS) or clips < 16:
        raise UserError(f"clips need a seed, an epoch, 16 clips to learn from and {len(MOTIONS)} to judge by")
    backbone = load_model(model_file).slow.backbone
    learned, held_out = (
        clip_features(backbone, _LEVEL, made.rgb, made.labels)
        for made in (motion_clips(clips, _SEED, *size), motion_clips(judged, _SEED + 1, *size))
    )
    results: dict[str, dict[str, Any]] = {}
    with tqdm(total=seeds * len(TEMPORAL), desc="train", unit="run", file=sys.stderr) as bar:
        for temporal in TEMPORAL:
            found = []
            for seed in range(seeds):
                model = train_classifier(learned, len(MOTIONS), temporal, seed, epochs)
                found.append(accuracy(model, held_out))
                bar.update()
            results[temporal] = {
                "accuracy": statistics.mean(found),
                "by_seed": found,
                "gflops": counted(partial(model, held_out.features[:1].float()))[1] / 1e9,
                "parameters": sum(p.numel() for p in model.parameters()),
            }
    return results


def format_clips(results: dict[str, dict[str, Any]]) -> str:
    """The table, and in words whether a way is better than the plain one by more than seeds differ."""
    lines = [f"{'way':<12}{'accuracy %':>12}{'of seeds':>22}{'GFLOPs':>9}{'weights':>10}"]
    for name, result in results.items():
        spread = f"{100 * min(result['by_seed']):.1f} to {100 * max(result['by_seed']):.1f}"
        cost = f"{result['gflops']:9.3f}{result['parameters']:10d}"
        lines.append(f"{name:<12}{100 * result['accuracy']:12.1f}{spread:>22}{cost}")
    best = max(results["plain"]["by_seed"])
    for name, result in results.items():
        if name != "plain":
            clear = min(result["by_seed"]) > best
            lines.append(f"{name}: {'each seed above every seed of plain' if clear else 'not clearly above plain'}")
    return "\n".join(lines)
