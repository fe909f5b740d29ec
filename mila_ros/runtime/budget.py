"""The price of a window: what ran, times what it costs, against the slow network on every frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mila_ros.models.flops import Flops
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.meter import Window

GIGA = 1e9


@dataclass(frozen=True)
class Price:
    """In 10^9 floating-point operations; NaN where nothing is known yet."""

    slow: float
    fast: float
    ila: float
    heads: float
    per_frame: float  # everything that ran, divided by the frames answered
    saved: float  # 1 - per_frame / (slow network and its heads on every frame)


NO_PRICE = Price(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)


def price(window: Window, engine: Engine) -> Price:
    """What the work of a window cost. The parts are those of the size and tasks most often answered in it."""
    frames = {work[1:]: times for work, times in window.ran.items() if work[0] == "frame"}
    if not frames:
        return NO_PRICE
    costs: dict[tuple, Flops] = {}
    for size, tasks in frames:
        known = engine.known_flops(size, tasks)
        if known is None:
            return NO_PRICE  # still being counted
        costs[size, tasks] = known
    by_size = {size: known for (size, _), known in costs.items()}  # of the heads alone, or of little more
    spent = 0.0
    for (kind, size, tasks), times in window.ran.items():
        known = costs.get((size, tasks)) or by_size.get(size)
        if known is None:  # a keyframe of a size that had no frame in this window
            continue
        each = {
            "slow": known.slow,
            "fast": known.fast,
            "ila": known.propagate,
            "heads": known.heads,
            "heads_alone": known.heads_alone,
            "heads_slow": known.heads_slow,
            "frame": 0,
        }[kind]
        spent += each * times
    answered = sum(frames.values())
    reference = sum(costs[key].slow_frame * times for key, times in frames.items())
    usual = costs[max(frames, key=lambda key: frames[key])]
    return Price(
        usual.slow / GIGA,
        usual.fast / GIGA,
        usual.propagate / GIGA,
        usual.heads / GIGA,
        spent / answered / GIGA,
        1.0 - spent / reference,
    )
