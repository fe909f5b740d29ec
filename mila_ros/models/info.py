"""`mila info MODEL`: what a checkpoint is made of, what it costs, and what its card says."""

from __future__ import annotations

import argparse
import json

from mila_ros.errors import UserError
from mila_ros.models.checkpoint import builtin_models, load_model, read_header, resolve
from mila_ros.models.flops import count_flops


def main(argv: list[str]) -> int:
    """Entry of `mila info`."""
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="mila info", description=__doc__)
    parser.add_argument("model", nargs="?", default="indoor", help="a shipped model's name or a checkpoint file")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="picture to count FLOPs for (640x480)")
    parser.add_argument("--settings", action="store_true", help="also print how its last stage was trained")
    options = parser.parse_args(argv)
    try:
        width, height = (int(side) for side in options.size.lower().split("x"))
    except ValueError as error:
        raise UserError(f'--size "{options.size}": expected WIDTHxHEIGHT, for example 640x480') from error
    if min(width, height) < 32:
        raise UserError(f"--size {options.size}: each side needs at least 32 pixels")
    path = resolve(options.model)
    config, card = read_header(path)
    model = load_model(path)
    flops = count_flops(model, height, width)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {sum(parts.values()) / 1e6:.2f} M parameters")
    print(f"shipped models: {', '.join(builtin_models()) or 'none'}")
    print(f"tasks: {', '.join(config.tasks)}; {len(config.classes)} classes")
    ways = [
        f"propagation: {config.propagation}",
        f"attention: {config.attention}",
        f"window: {config.window}",
        f"reach: {config.reach}",
    ]
    ways += [f"frames: {config.frames}", f"keys: {config.keys}", f"warp: {str(config.warp).lower()}"]
    crossed = f"cross_attention: {str(config.cross_attention).lower()}"
    print(f"slow network: {config.slow_backbone}; {crossed}, slow_zoom: {config.slow_zoom:g}")
    print(f"from keyframes: {', '.join(ways)}")
    seen = model.working_size(height, width)
    print(f"pictures of {width}x{height} are seen at {seen[1]}x{seen[0]}")
    print("\nGFLOPs a picture (2 per multiply-add)")
    for name, value in (
        ("slow network and keyframe", flops.slow),
        ("slow heads", flops.heads_slow),
        ("fast network", flops.fast),
        ("from the keyframe", flops.propagate),
        ("heads behind it", flops.heads),
        ("heads without a keyframe", flops.heads_alone),
    ):
        print(f"  {name:<26}{value / 1e9:8.3f}")
    print(f"  {'slow on every frame':<26}{flops.slow_frame / 1e9:8.3f}")
    for interval in (2, 5, 10):
        mean, saved = flops.amortised(interval) / 1e9, flops.saved(interval)
        print(f"  {f'a keyframe in {interval} frames':<26}{mean:8.3f}   {saved:.0%} saved")
    print("\nparameters, millions: " + ", ".join(f"{name} {count / 1e6:.2f}" for name, count in parts.items()))
    left_out = {"validation"} if options.settings else {"validation", "settings", "stages"}
    short = {key: value for key, value in card.items() if key not in left_out}
    print("\ncard (what it scored is in the model's .md file; --settings for those of its last stage)")
    print(json.dumps(short, indent=2))
    return 0
