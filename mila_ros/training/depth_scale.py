"""`mila calibrate`: correct the scale of a network's depth by places that it was not trained on.

What a single picture cannot tell is how large a room is: networks take the size from what they have seen, and come out
short or long elsewhere, all in the same direction. One factor for all answers mends the common part of it. It is the
median over places of each place's median of truth over answer, so that neither a large room nor a long recording of one
has more than one vote; and it is judged by factors found without the place that is judged.

The factor goes into the bias of both depth heads, which answer with the logarithm of depth: nothing becomes slower. The
fast heads get one more, by which they then say what the slow network says: trained after a calibration they have
learned the uncorrected scale again, and depth would jump with every keyframe.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from mila_ros.errors import UserError
from mila_ros.evaluation.metrics import DepthMetrics, frame_tensors
from mila_ros.models.accel import AccelPropagation
from mila_ros.models.checkpoint import load_model, read_header, resolve, save_model
from mila_ros.models.mila import Mila
from mila_ros.runtime.devices import pick_device
from mila_ros.worlds.frames import Frame
from mila_ros.worlds.world import open_world_for

FEWEST_PLACES = 3
_PARTS = 10  # of a recording that does not say where one place ends
_GAP = 10  # numbers, of frames of one place that were left out between two
_FRAMES = 400  # that are looked at, at most
_PIXELS = 2000  # of a frame, about
_SENSIBLE = 2.0
"""A larger factor, or one below its inverse, is no matter of unknown rooms."""


class Sample(NamedTuple):
    """Some pixels of one frame."""

    name: str
    said: npt.NDArray[np.float32]
    """(N,) metres."""
    truth: npt.NDArray[np.float32]
    """(N,) metres, all known."""
    fast: npt.NDArray[np.float32] | None = None
    """(N,) metres, what the fast heads say of the same picture, from itself as a keyframe."""


class Scale(NamedTuple):
    """By what depth is to be multiplied."""

    factor: float
    asked: dict[int, float]
    """What each place alone asks for."""
    without: dict[int, float]
    """What all other places ask for, by the place that is left out."""


def places_of(names: Sequence[str]) -> list[int]:
    """To which place each frame belongs: runs of numbers in their names with small gaps, or parts of one recording.

    Args:
        names: in order, such as "0235" or "office/0012".
    """
    found: list[int] = []
    before: tuple[str, int] | None = None
    for name in names:
        match = re.search(r"(\d+)\D*$", name)
        now = None if match is None else (name[: match.start()], int(match[1]))
        goes_on = before is not None and now is not None and now[0] == before[0]
        goes_on = goes_on and 0 < now[1] - before[1] <= _GAP
        found.append(found[-1] + (not goes_on) if found else 0)
        before = now
    if len(set(found)) >= FEWEST_PLACES and 2 * len(set(found)) <= len(names):
        return found
    parts = min(_PARTS, len(names))
    return [i * parts // len(names) for i in range(len(names))]


def fit_scale(samples: Sequence[Sample], places: Sequence[int]) -> Scale:
    """The factor, and how far it depends on a single place.

    Raises:
        UserError: depth is known at too few places.
    """
    ratios: dict[int, list[float]] = {}
    for sample, place in zip(samples, places, strict=True):
        if len(sample.truth):
            ratios.setdefault(place, []).append(float(np.median(np.log(sample.truth / sample.said))))
    if len(ratios) < FEWEST_PLACES:
        raise UserError(
            f"depth is known at {len(ratios)} places; a scale needs at least {FEWEST_PLACES}: take data of more rooms, "
            "or a longer recording"
        )
    votes = {place: float(np.median(values)) for place, values in ratios.items()}

    def factor(left_out: int | None = None) -> float:
        return float(np.exp(np.median([vote for place, vote in votes.items() if place != left_out])))

    return Scale(factor(), {p: float(np.exp(v)) for p, v in votes.items()}, {p: factor(p) for p in votes})


def judge(samples: Sequence[Sample], factors: Sequence[float]) -> dict[str, Any]:
    """Depth metrics of the samples, each multiplied by its factor."""
    metrics = DepthMetrics()
    for sample, factor in zip(samples, factors, strict=True):
        metrics.update(torch.from_numpy(sample.said * np.float32(factor)), torch.from_numpy(sample.truth))
    return metrics.compute()


def fast_scale(samples: Sequence[Sample]) -> float:
    """By what the fast heads' depth is to be multiplied to be the slow network's: median over frames."""
    ratios = [float(np.median(np.log(s.said / s.fast))) for s in samples if s.fast is not None and len(s.fast)]
    return float(np.exp(np.median(ratios))) if ratios else 1.0


@torch.no_grad()
def rescale(model: Mila, factor: float, fast: float = 1.0) -> None:
    """Make both depth heads say `factor` times as much, and what is carried to a frame `fast` times that.

    That is what the fast heads say; with Accel, where both say something, what their answers are joined to.
    """
    model.slow_heads.tasks["depth"].out.bias += math.log(factor)
    if isinstance(model.propagation, AccelPropagation):
        model.fast_heads.tasks["depth"].out.bias += math.log(factor)
        layer = model.propagation.fusion.tasks["depth"]
        already = (1 + layer.weight.sum()) * math.log(factor)  # by which its answer has moved with theirs
        layer.bias += math.log(factor * fast) - already
    else:
        model.fast_heads.tasks["depth"].out.bias += math.log(factor * fast)


@torch.inference_mode()
def look(model: Mila, frames: Sequence[Frame], device: torch.device) -> list[Sample]:
    """What the slow network and the fast heads say about the depth of frames, evenly chosen, at pixels spread over
    them."""
    samples = []
    count = min(_FRAMES, len(frames))
    chosen = (frames[i * len(frames) // count] for i in range(count))
    for frame in tqdm(chosen, "calibrate", count, unit="frame", file=sys.stderr):
        if frame.depth is None:
            continue
        image, intrinsics, _ = frame_tensors(frame, device)
        size = (image.shape[-2], image.shape[-1])
        memory = model.keyframe(image)
        carried = model.propagate(model.glance(image), memory, ("depth",))
        step = max(1, round((size[0] * size[1] / _PIXELS) ** 0.5))
        said, fast = (
            model.answer(seen, ("depth",), intrinsics[:, 0], size, False)["depth"][0, ::step, ::step].cpu().numpy()
            for seen in (memory.features, carried)
        )
        truth = frame.depth[::step, ::step]
        known = np.isfinite(truth) & (truth > 0)
        samples.append(Sample(frame.name, said[known], truth[known].astype(np.float32), fast[known]))
    return samples


def report(scale: Scale, samples: Sequence[Sample], places: Sequence[int], fast: float | None = None) -> str:
    """What was found, for people."""
    before = judge(samples, [1.0] * len(samples))
    after = judge(samples, [scale.without.get(place, 1.0) for place in places])
    asked, without = sorted(scale.asked.values()), sorted(scale.without.values())
    rows = [
        f"depth is multiplied by {scale.factor:.3f} (slow network and fast heads)"
        + ("" if fast is None else f", that of the fast heads by {fast:.3f} besides, to be the slow network's"),
        f"  {len(samples)} frames of {len(asked)} places, which alone ask for {asked[0]:.3f} to {asked[-1]:.3f}; "
        f"with any one of them left out: {without[0]:.3f} to {without[-1]:.3f}",
        "  slow network         RMSE m  abs rel     d1",
    ]
    for title, found in (("as it was", before), ("each place by others", after)):
        rows.append(f"  {title:<20} {found['rmse']:>6.3f}  {found['abs_rel']:>7.3f}  {found['delta1']:>5.3f}")
    return "\n".join(rows)


def main(argv: list[str]) -> int:
    """Entry of `mila calibrate`."""
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="mila calibrate", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add(
        "--data",
        required=True,
        help="KIND:FOLDER, as for mila compare: frames with depth, of places new to the network",
    )
    add("--split", default="all", help="a part of it: validation, held-out (nyuv2), or all (default)")
    add("--model", default="indoor", help="name of a shipped model or a checkpoint file (indoor)")
    add("--out", type=Path, required=True, metavar="FILE", help="checkpoint to write (.safetensors)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    options = parser.parse_args(argv)
    if options.out.suffix != ".safetensors":
        raise UserError(f"--out {options.out}: a checkpoint is a .safetensors file")
    source, device = resolve(options.model), pick_device(options.device)
    model = load_model(source, ("depth",)).to(device)
    samples = look(model, open_world_for(options.data, options.split, (), ("depth",)).with_truth(), device)
    places = places_of([sample.name for sample in samples])
    scale = fit_scale(samples, places)
    _, card = read_header(source)
    fast = fast_scale(samples) if "fast" in card.get("stages", ()) else None
    print(report(scale, samples, places, fast))
    if not 1 / _SENSIBLE <= scale.factor <= _SENSIBLE:
        raise UserError(
            f"a factor of {scale.factor:.3g} is no matter of unknown rooms: is depth in metres, the focal length right?"
        )
    rescale(model, scale.factor, fast or 1.0)
    card.pop("validation", None)  # of the network as it was
    found: dict[str, Any] = {
        "data": options.data.partition(":")[0],
        "split": options.split,
        "factor": round(scale.factor, 4),
    }
    if fast is not None:
        found["fast"] = round(fast, 4)
    try:
        save_model(model, options.out, card | {"depth_scale": [*card.get("depth_scale", []), found]})
    except OSError as error:
        raise UserError(f"{options.out} cannot be written: {error.strerror}") from error
    print(options.out)
    return 0
