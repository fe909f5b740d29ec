"""When each frame was published and answered, and what the node said about its budget meanwhile.

Latency of a frame: from just before the player published the picture to the arrival of the last of its outputs in the
recorder, both on the host's monotonic clock, joined by the header's stamp.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mila_ros.worlds.bag_storage import Storage

BUDGET_TYPE = "mila_ros/msg/ComputeBudget"
# Stages that a frame waits for, in their order; "slow" runs beside the frames in asynchronous mode.
FRAME_STAGES = ("decode", "upload", "fast", "ila", "heads", "download", "publish")


@dataclass(frozen=True)
class FrameTime:
    """One published frame."""

    stamp_ns: int
    published_ns: int
    arrived_ns: int | None
    """Arrival of its last output; None: not all of them came."""
    outputs: int
    """How many of its outputs came."""

    @property
    def latency_ms(self) -> float | None:
        """From publication to the last output; None where one is missing."""
        return None if self.arrived_ns is None else (self.arrived_ns - self.published_ns) * 1e-6


def nanoseconds(time: Any) -> int:
    """Of a builtin_interfaces/Time."""
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def join(published: Iterable[Mapping[str, Any]], arrivals: Mapping[str, Any], camera: str) -> list[FrameTime]:
    """Frames in the order of their publication, with the arrivals of their outputs.

    Args:
        published: lines of the player's log for the camera's topic.
        arrivals: the recorder's arrivals.json.
        camera: which.
    """
    entry = arrivals["cameras"][camera]
    outputs = entry["outputs"]
    by_stamp = {line["stamp_ns"]: line for line in entry["arrivals"]}
    frames = []
    for line in published:
        got = by_stamp.get(line["stamp_ns"], {})
        times = [got[name] for name in outputs if name in got]
        complete = len(times) == len(outputs)
        frames.append(FrameTime(line["stamp_ns"], line["published_ns"], max(times) if complete else None, len(times)))
    return frames


def percentile(values: Sequence[float], share: float) -> float | None:
    """A value that occurred (nearest rank); None of nothing. share: 0..1."""
    if not len(values):
        return None
    return float(np.percentile(np.asarray(values, dtype=np.float64), share * 100, method="inverted_cdf"))


@dataclass(frozen=True)
class Latency:
    """Statistics of the answered frames, milliseconds; None of none."""

    p50: float | None
    p95: float | None
    p99: float | None
    mean: float | None
    longest: float | None
    first_third_p50: float | None
    """Of the frames published in the first third of the time; with the last third's it shows whether latency grows."""
    last_third_p50: float | None

    @classmethod
    def of(cls, frames: Sequence[FrameTime]) -> Latency:
        """Of these frames, those that are not answered left out."""
        answered = [(f.published_ns, f.latency_ms) for f in frames if f.latency_ms is not None]
        values = [latency for _, latency in answered]
        first = last = []
        if answered:
            begin, end = answered[0][0], answered[-1][0]
            third = (end - begin) / 3
            first = [latency for at, latency in answered if at <= begin + third]
            last = [latency for at, latency in answered if at >= end - third]
        return cls(
            p50=percentile(values, 0.5),
            p95=percentile(values, 0.95),
            p99=percentile(values, 0.99),
            mean=sum(values) / len(values) if values else None,
            longest=max(values, default=None),
            first_third_p50=percentile(first, 0.5),
            last_third_p50=percentile(last, 0.5),
        )


@dataclass(frozen=True)
class BudgetSample:
    """What the node reported at one moment; times in seconds, NaN where it did not know."""

    stamp_ns: int
    device: str
    precision: str
    backend: str
    mode: str
    model: str
    keyframe_period: float
    slow_gflops: float
    gflops_per_frame: float
    flops_saved: float
    rss_mb: float
    stages: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Stage -> runs in the window and their mean milliseconds."""
    counts: dict[str, int] = field(default_factory=dict)
    """Totals of the camera: received, answered, dropped, late, failed, idle, keyframes."""
    reason: str = ""


COUNTS = ("received", "answered", "dropped", "late", "failed", "idle", "keyframes")


def budget_sample(message: Any, camera: str) -> BudgetSample:
    """A mila_ros/ComputeBudget message (or anything with its fields) as one camera sees it."""
    own = next((c for c in message.cameras if c.camera == camera), None)
    return BudgetSample(
        stamp_ns=nanoseconds(message.header.stamp),
        device=message.device,
        precision=message.precision,
        backend=message.backend,
        mode=message.mode,
        model=message.model,
        keyframe_period=float(message.keyframe_period_s),
        slow_gflops=float(message.slow_gflops),
        gflops_per_frame=float(message.gflops_per_frame),
        flops_saved=float(message.flops_saved),
        rss_mb=float(message.rss_mb),
        stages={stage.name: (int(stage.count), float(stage.mean_ms)) for stage in message.stages},
        counts={name: int(getattr(own, name)) for name in COUNTS} if own is not None else {},
        reason=message.reason,
    )


def read_budgets(storage: Storage, node: str, camera: str) -> list[BudgetSample]:
    """All budget messages of a recording."""
    topic = f"{node}/budget"
    return [budget_sample(storage.deserialize(message), camera) for message in storage.messages([topic])]


def read_failure(storage: Storage, node: str, camera: str) -> str | None:
    """Why the last frame that could not be answered was not, as the node's diagnostics have it."""
    found = None
    for message in storage.messages(["/diagnostics"]):
        for status in storage.deserialize(message).status:
            if status.name == f"{node.lstrip('/')}: camera {camera}":
                found = next((value.value for value in status.values if value.key == "last input error"), found)
    return None if found in (None, "-") else found


def answered_in(samples: Sequence[BudgetSample]) -> list[int]:
    """Frames answered in each sample's window."""
    totals = [sample.counts.get("answered", 0) for sample in samples]
    return [now - before for before, now in zip([0, *totals], totals)]


def flops_saved(samples: Sequence[BudgetSample]) -> float | None:
    """Share of the slow-on-every-frame arithmetic that was not spent, over all windows that know theirs."""
    weighed = [
        (sample.flops_saved, frames)
        for sample, frames in zip(samples, answered_in(samples))
        if frames > 0 and math.isfinite(sample.flops_saved)
    ]
    total = sum(frames for _, frames in weighed)
    return sum(saved * frames for saved, frames in weighed) / total if total else None


@dataclass(frozen=True)
class FrameAnswer:
    """What the node said of one answered frame."""

    stamp_ns: int
    keyframe_ns: int | None
    """Stamp of the keyframe that it was answered from; None: the fast network answered alone."""
    keyframe_age: float
    """Seconds."""
    stages: dict[str, float]
    """Milliseconds."""


def frame_answer(message: Any) -> FrameAnswer:
    """A mila_ros/AnswerInfo message (or anything with its fields)."""
    keyframe = None if message.keyframe_id == 0 else nanoseconds(message.keyframe_stamp)
    stages = dict(zip(message.stages, map(float, message.stage_ms), strict=True))
    return FrameAnswer(nanoseconds(message.header.stamp), keyframe, float(message.keyframe_age_s), stages)


def read_answers(storage: Storage, node: str, camera: str) -> list[FrameAnswer]:
    """What the node said of each answered frame of a recording, in its order."""
    topic = f"{node}/{camera}/answer_info"
    return [frame_answer(storage.deserialize(message)) for message in storage.messages([topic])]


def stage_shares(samples: Sequence[BudgetSample]) -> dict[str, float]:
    """Mean milliseconds of each stage for one answered frame, over the whole run ("slow" spread over all frames)."""
    answered = sum(answered_in(samples))
    spent: dict[str, float] = {}
    for sample in samples:
        for name, (runs, mean) in sample.stages.items():
            if runs:
                spent[name] = spent.get(name, 0.0) + runs * mean
    return {name: ms / answered for name, ms in spent.items()} if answered else {}
