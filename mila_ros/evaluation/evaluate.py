"""`mila evaluate`: replays recordings through a model, with and without a clock, and reports how good the answers are.

Each recording gets a folder OUT/NAME with report.html, metrics.json and predictions/; several ones also get their
totals in OUT/metrics.json. A recording that fails does not stop the others, and one that is done is not done again.
"""

from __future__ import annotations

import argparse
import glob
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mila_ros.errors import UserError
from mila_ros.evaluation import summary
from mila_ros.evaluation.many import evaluate_many
from mila_ros.evaluation.metrics import TaskMetrics
from mila_ros.evaluation.replay import (
    SCHEMA,
    USUAL_WAYS,
    WAYS,
    ReplaySettings,
    read_sums,
)
from mila_ros.models.checkpoint import read_header, resolve
from mila_ros.runtime.engine import SMALLEST_SIDE
from mila_ros.worlds.bag_storage import SUFFIXES
from mila_ros.worlds.bags import Pinhole


def main(argv: list[str]) -> int:
    """Entry of `mila evaluate`.

    Raises:
        UserError: nothing matches, a setting is impossible, or recordings failed (after all others were done).
    """
    options = _parser().parse_args(argv)
    settings = _settings(options)
    named = folders(recordings(options.bags, options.out), options.out)
    jobs = options.jobs if options.jobs is not None else (os.cpu_count() or 1) if options.ray else 1
    if (jobs > 1 or options.ray) and set(settings.ways) != {"every-frame"}:
        raise UserError(
            "with --jobs above 1, or --ray, recordings would disturb one another in real time: add --ways every-frame"
        )
    results: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    interrupted = False
    for name, outcome in evaluate_many(named, settings, jobs, options.again, options.ray):
        if isinstance(outcome, str):
            failures[name] = outcome
            if len(named) == 1:
                raise UserError(outcome)
            print(f"{name}: failed: {outcome}", file=sys.stderr, flush=True)
            continue
        results[name] = outcome
        print("\n".join([f"{name}", *(f"  {line}" for line in sentences(outcome))]))
        for note in outcome["notes"]:
            print(f"  note: {note}")
        print(f"  report  {named[name][1] / 'report.html'}", flush=True)
        if outcome["interrupted"]:
            interrupted = True
            print("interrupted: the report covers what was replayed until then", file=sys.stderr)
            break
    if len(named) > 1 and results:
        totals = {"schema": SCHEMA, "bags": sorted(results), "failed": failures, "settings": asdict(settings)}
        totals["methods"] = total_metrics([named[name][1] for name in sorted(results)], settings.model)
        (options.out / "metrics.json").write_text(json.dumps(totals, indent=1) + "\n", encoding="utf-8")
        print(f"totals of {len(results)} recordings: {options.out / 'metrics.json'}")
    if interrupted:
        return 130
    if failures:
        raise UserError(f"{len(failures)} of {len(named)} recordings failed: {', '.join(sorted(failures))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="mila evaluate", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    usual = ReplaySettings()
    add("bags", nargs="+", metavar="BAG", help="rosbag2 folder, .mcap, .db3, .bag (ROS 1), or a pattern: 'bags/**'")
    add("--model", default=usual.model, help=f"a shipped model's name or a checkpoint file ({usual.model})")
    add("--out", type=Path, default=Path("out/evaluate"), metavar="DIR", help="folder for the results (out/evaluate)")
    ways = "which replays to make (every-frame real-time); live: through the node, over DDS, as `mila demo` does"
    add("--ways", nargs="+", choices=WAYS, default=list(USUAL_WAYS), help=ways)
    add(
        "--intervals",
        type=int,
        nargs="+",
        default=list(usual.intervals),
        metavar="K",
        help="every frame: a keyframe each K frames (10)",
    )
    add("--period", type=float, default=usual.period, metavar="S", help="real time: s between keyframes (0.333)")
    add("--seconds", type=float, metavar="S", help="only the first S seconds (all; in real time 60)")
    add("--device", default=usual.device, help="auto, cpu, cuda or cuda:N (auto)")
    add("--precision", default=usual.precision, help="auto, fp32, bf16 or fp16 (auto)")
    add("--backend", default=usual.backend, help="auto, eager (PyTorch), openvino, onnxruntime or compile (auto)")
    add("--output-scale", type=float, default=usual.output_scale, metavar="X", help="size of the answers (0.5)")
    pixels = f"larger pictures count as shrunk to so many pixels, as in the node ({usual.max_pixels})"
    add("--max-pixels", type=int, default=usual.max_pixels, metavar="N", help=pixels)
    add("--label-map", metavar="FILE", help="YAML: the recording's labels to the model's classes, or null")
    for kind in ("color", "camera-info", "depth", "labels", "normals"):
        add(f"--{kind}-topic", metavar="TOPIC", help="where the one found by itself is not meant")
    add("--fov", type=float, metavar="DEG", help="horizontal field of view, where there is no calibration")
    add("--camera", type=pinhole, metavar="FX,FY,CX,CY", help="the colour camera, in place of its camera_info; pixels")
    pixels = "the depth camera: depth is registered by both, for recordings whose depth does not lie on their pictures"
    add("--depth-camera", type=pinhole, metavar="FX,FY,CX,CY", help=pixels)
    add("--tolerance", type=float, default=usual.tolerance_s, metavar="S", help="between stamps of a pair (0.01)")
    add("--no-predictions", action="store_true", help="do not record the answers")
    add("--jobs", type=int, metavar="N", help="recordings at a time, each in its own process (1)")
    cluster = "evaluate on a Ray cluster: its address, auto, or local for one of this machine (needs pip install ray)"
    add("--ray", metavar="ADDRESS", help=cluster)
    add("--again", action="store_true", help="also evaluate what is done already")
    return parser


def pinhole(text: str) -> Pinhole:
    """FX,FY,CX,CY.

    Raises:
        argparse.ArgumentTypeError: it is not four numbers, the first two above zero.
    """
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}": expected four numbers, FX,FY,CX,CY in pixels') from None
    if not (math.isfinite(fx + fy + cx + cy) and fx > 0 and fy > 0):
        raise argparse.ArgumentTypeError(f'"{text}": FX and FY must be above 0')
    return fx, fy, cx, cy


def _settings(options: argparse.Namespace) -> ReplaySettings:
    if min(options.intervals) < 1 or (options.jobs is not None and options.jobs < 1):
        raise UserError("--intervals and --jobs are counted from 1")
    for name in ("seconds", "tolerance", "period"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"--{name} {value:g}: must be a number above 0")
    if not 0.1 <= options.output_scale <= 1:
        raise UserError(f"--output-scale {options.output_scale:g}: at least 0.1, at most 1")
    if options.max_pixels < SMALLEST_SIDE**2:
        raise UserError(f"--max-pixels {options.max_pixels}: at least {SMALLEST_SIDE**2}")
    topics = {
        kind: getattr(options, f"{kind}_topic")
        for kind in ("color", "camera_info", "depth", "labels", "normals")
        if getattr(options, f"{kind}_topic")
    }
    if topics and "live" in options.ways:
        raise UserError("the way live finds its topics by itself: leave out --color-topic and its like, or live")
    if (options.camera or options.depth_camera) and "live" in options.ways:
        raise UserError(
            "the way live takes the recording's own calibration: leave out --camera, --depth-camera, or live"
        )
    return ReplaySettings(
        model=str(resolve(options.model)),
        ways=tuple(way for way in WAYS if way in options.ways),
        intervals=tuple(dict.fromkeys(options.intervals)),
        period=options.period,
        device=options.device,
        precision=options.precision,
        backend=options.backend,
        output_scale=options.output_scale,
        max_pixels=options.max_pixels,
        seconds=options.seconds,
        label_map=options.label_map,
        topics=topics,
        fov_deg=options.fov,
        camera=options.camera,
        depth_camera=options.depth_camera,
        tolerance_s=options.tolerance,
        predictions=not options.no_predictions,
    )


def recordings(patterns: Sequence[str], out: Path) -> list[Path]:
    """The recordings that paths and patterns name, each once, in order; patterns find nothing in the results' folder.

    Raises:
        UserError: a path or pattern that names none.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        if not glob.has_magic(pattern):
            found[Path(pattern)] = None  # whoever opens it says what is wrong with it
            continue
        matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
        matches = [m for m in matches if out.resolve() not in m.resolve().parents]
        bags = [m for m in matches if (m / "metadata.yaml").is_file() or m.suffix in SUFFIXES]
        # A storage file inside a rosbag2 folder is that recording.
        bags = [m for m in bags if not (m.is_file() and (m.parent / "metadata.yaml").is_file())]
        if not bags:
            raise UserError(f"no recording matches {pattern!r}: a folder with metadata.yaml, or {', '.join(SUFFIXES)}")
        found |= dict.fromkeys(bags)
    return list(found)


def folders(bags: Sequence[Path], out: Path) -> dict[str, tuple[Path, Path]]:
    """Name -> recording and its folder of results; recordings of one name get the names of their folders, too."""
    paths = [bag.resolve() for bag in bags]  # "." and ".." have no names of their own
    counts = Counter(path.stem for path in paths)
    named: dict[str, tuple[Path, Path]] = {}
    for bag, path in zip(bags, paths, strict=True):
        name = path.stem if counts[path.stem] == 1 else f"{path.parent.name}_{path.stem}"
        if name in named:
            raise UserError(f"two recordings would both be called {name}: evaluate them into different --out folders")
        named[name] = (bag, out / name)
    return named


def total_metrics(outs: Sequence[Path], model: str) -> dict[str, Any]:
    """Metrics over all recordings by method: of the added-up sums, never means of means."""
    config, _ = read_header(resolve(model))
    totals: dict[str, TaskMetrics] = {}
    for out in outs:
        if (out / "sums.npz").is_file():
            for method, sums in read_sums(out / "sums.npz").items():
                totals.setdefault(method, TaskMetrics(config.tasks, len(config.classes))).add(sums)
    return {method: metrics.compute() for method, metrics in totals.items()}


_WORDS = (
    ("segmentation", "miou", "mIoU {:.1f} %", 100.0),
    ("depth", "rmse", "depth RMSE {:.3f} m", 1.0),
    ("depth", "delta1", "{:.1f} % within 1.25", 100.0),
    ("normals", "mean_deg", "normals {:.1f} deg", 1.0),
)


def sentences(found: dict[str, Any]) -> list[str]:
    """What a metrics.json says, for the terminal."""
    lines = []
    for way in ("every_frame", "real_time"):
        for name, method in found.get(way, {}).get("methods", {}).items():
            values = [
                text.format(method["metrics"][task][key] * factor)
                for task, key, text, factor in _WORDS
                if method["metrics"].get(task, {}).get(key) is not None
            ]
            if way == "real_time" and method["age_ms"].get("p50") is not None:
                values.append(f"answers {method['age_ms']['p50']:.0f} ms old")
            elif way == "every_frame" and name != "slow":
                values.append(f"{100 * method['flops_saved']:.0f} % of the arithmetic saved")
            lines.append(f"{way.replace('_', ' ')}, {name}: {', '.join(values) or 'nothing to judge by'}")
    if "live" in found:
        lines += [f"live: {line}" for line in summary.sentences(found["live"])]
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
