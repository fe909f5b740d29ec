"""How fast is the rendered world? Frames a second by batch size, and where the time goes.

python benchmarks/rendered.py [--device cuda] [--height 240 --width 320] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from mila_ros.worlds.rendered import RenderedWorld


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    device: torch.device, height: int, width: int, shapes: list[tuple[int, int]], shadows: int
) -> list[dict[str, object]]:
    """Rows question, method, setting, metric, value, unit for clips of (batch, frames)."""
    world = RenderedWorld(device=device, height=height, width=width, shadows=shadows)
    rows: list[dict[str, object]] = []

    def row(setting: str, metric: str, value: float, unit: str) -> None:
        method = f"rendered world, {device.type}, {width}x{height}, {shadows} shadows"
        rows.append(
            {
                "question": "rendering",
                "method": method,
                "setting": setting,
                "metric": metric,
                "value": value,
                "unit": unit,
            }
        )

    for batch, frames in shapes:
        setting = f"{batch} clips of {frames} frames"
        start = time.perf_counter()
        clips = world.prepare(batch, frames, 2, 1)
        row(setting, "prepare", (time.perf_counter() - start) * 1e3 / batch, "ms/scene")
        world.render(clips)
        times = []
        for _ in range(1 if device.type == "cpu" else 3):
            _wait(device)
            start = time.perf_counter()
            world.render(clips)
            _wait(device)
            times.append(time.perf_counter() - start)
        row(setting, "render", batch * frames / min(times), "frames/s")
        if device.type == "cuda":
            row(setting, "memory", torch.cuda.max_memory_allocated(device) / 2**30, "GiB")
    return rows


def main(argv: list[str] | None = None) -> int:
    """Prints the table, writes JSON on request."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--shadows", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    shapes = [(2, 2)] if device.type == "cpu" else [(8, 4), (32, 4), (32, 8), (64, 8)]
    rows = measure(device, args.height, args.width, shapes, args.shadows)
    for r in rows:
        print(f"{r['method']:42} {r['setting']:24} {r['metric']:8} {r['value']:10.2f} {r['unit']}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
