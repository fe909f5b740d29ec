"""What the node says of itself: the budget message, a diagnostic status a camera and one for the budget, and a log that
repeats nothing."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from mila_ros.msg import CameraBudget, ComputeBudget, StageTiming
from mila_ros.ros.settings import Settings
from mila_ros.runtime.budget import Price
from mila_ros.runtime.controller import Decision
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.keyframes import KeyframeState
from mila_ros.runtime.meter import CameraWindow, Timing, Window

STAGES = ("decode", "upload", "slow", "fast", "ila", "heads", "download", "publish", "total")
# Above this share of dropped frames a camera's status is a warning.
MANY_DROPPED = 0.1
_REPEAT = 10.0  # seconds after which the same complaint is logged again
_KINDS = 64


class Throttle:
    """Lets a sentence through when it is new, and again each ten seconds. Numbers in it do not make it new, but for
    those that are part of a name (cam1, /camera/1).

    Any thread may ask.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}

    def passes(self, text: str, now: float) -> bool:
        """Whether to log it now."""
        kind = re.sub(r"(?<![\w/.])\d+(\.\d+|x\d+)?", "#", text)
        with self._lock:
            last = self._last.get(kind)
            if last is not None and now - last < _REPEAT:
                return False
            self._last.pop(kind, None)
            self._last[kind] = now
            if len(self._last) > _KINDS:
                self._last.pop(next(iter(self._last)))
            return True


@dataclass
class CameraReport:
    """What is said of one camera, beside its numbers."""

    image_topic: str
    info_topic: str
    silence: str  # why nothing may be coming
    since_frame: float | None  # seconds since the last frame; None: none yet
    problem: str | None = None  # what stands in the way of an answer (no calibration)
    remark: str | None = None  # what is worth knowing of its calibration
    last_error: str | None = None  # of the last frame that failed
    window: CameraWindow | None = None
    lacking: str | None = None  # why there is no keyframe to answer from
    failed: int = 0  # frames that failed in the window
    idle: int = 0  # frames that nobody wanted
    alone: int = 0  # frames without a keyframe to answer from
    dropped: int = 0
    late: int = 0
    keyframe: KeyframeState = field(default_factory=lambda: KeyframeState(0, math.nan, 0))
    size: tuple[int, int] | None = None  # height, width of the last frame
    output_size: tuple[int, int] | None = None


def _status(level: bytes, name: str, message: str, hardware: str, values: dict[str, Any]) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
    )


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3f}"
    return "-" if value is None else str(value)


def camera_status(node: str, camera: str, report: CameraReport, stale_after: float) -> DiagnosticStatus:
    """One camera: STALE without frames, ERROR where all that are wanted fail, WARN with something else wrong, OK."""
    window = report.window
    values: dict[str, Any] = {
        "image_topic": report.image_topic,
        "camera_info_topic": report.info_topic,
        "seconds since the last frame": report.since_frame,
        "frame size": None if report.size is None else f"{report.size[1]}x{report.size[0]}",
        "output size": None if report.output_size is None else f"{report.output_size[1]}x{report.output_size[0]}",
        "keyframe": report.keyframe.number,
        "keyframe age s": report.keyframe.age,
        "keyframe distance": report.keyframe.distance,
        "keyframe match": report.keyframe.match,
    }
    if window is not None:
        values |= {
            "received rate Hz": window.received_rate,
            "answered rate Hz": window.answered_rate,
            "latency p50 ms": window.latency.p50,
            "latency p95 ms": window.latency.p95,
            "latency max ms": window.latency.longest,
            **{f"frames {name}": value for name, value in vars(window.counts).items() if name != "keyframes"},
        }
    values["calibration"] = report.remark
    values["last input error"] = report.last_error
    level, message = DiagnosticStatus.OK, "answering"
    received = 0 if window is None else round(window.received_rate)
    if report.since_frame is None or report.since_frame > stale_after:
        waited = "no frame yet" if report.since_frame is None else f"no frame for {report.since_frame:.1f} s"
        level, message = DiagnosticStatus.STALE, f"{waited}: {report.silence}"
    else:
        said = []
        if report.failed:
            said.append(f"{_frames(report.failed)} failed: {report.last_error}")
        said += [text for text in (report.problem, report.lacking) if text]
        if report.dropped > MANY_DROPPED * max(received, 1):
            said.append(f"{_frames(report.dropped)} dropped for newer ones: the networks cannot keep up")
        if report.late:
            said.append(f"{_frames(report.late)} answered after the deadline")
        if said:
            nothing = report.failed > 0 and not report.idle and (window is None or window.answered == 0)
            level = DiagnosticStatus.ERROR if nothing else DiagnosticStatus.WARN
            message = "; ".join(said)
        elif window is not None and window.answered == 0:
            message = (
                "nobody subscribes to its outputs" if report.idle else "no frame was answered since the last report"
            )
    return _status(level, f"{node}: camera {camera}", message, report.image_topic, values)


def budget_status(node: str, budget: ComputeBudget, deadline: float, degraded: bool = False) -> DiagnosticStatus:
    """The budget: WARN when the slowest twentieth of the frames misses the deadline, or answers are made poorer."""
    values: dict[str, Any] = {
        "device": budget.device,
        "precision": budget.precision,
        "backend": budget.backend,
        "mode": budget.mode,
        "model": budget.model,
        "GFLOPs a frame": float(budget.gflops_per_frame),
        "FLOPs saved": float(budget.flops_saved),
        "keyframe period s": float(budget.keyframe_period_s),
        "keyframe interval s": float(budget.keyframe_interval_s),
        "share of the device": float(budget.device_share),
        "tasks left out": ", ".join(budget.skipped_tasks) or None,
        "resident MiB": float(budget.rss_mb),
    }
    total = math.nan
    for stage in budget.stages:
        values[f"{stage.name} p95 ms"] = float(stage.p95_ms)
        if stage.name == "total":
            total = stage.p95_ms
    usual = "no frame was answered" if math.isnan(total) else "within the deadline"
    level, message = DiagnosticStatus.OK, budget.reason or usual
    if total > deadline:
        level = DiagnosticStatus.WARN
        message = f"95th percentile of {total:.0f} ms is above the deadline of {deadline:.0f} ms; {budget.reason}"
    elif degraded:
        level = DiagnosticStatus.WARN
    return _status(level, f"{node}: budget", message, budget.device, values)


def diagnostic_array(stamp: Time, statuses: Sequence[DiagnosticStatus]) -> DiagnosticArray:
    """What /diagnostics carries."""
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = stamp
    return message


def idle_status(node: str, state: str, failure: str | None) -> DiagnosticStatus:
    """The node while it is not active."""
    if failure is not None:
        return _status(DiagnosticStatus.ERROR, f"{node}: budget", failure, "", {"lifecycle state": state})
    return _status(DiagnosticStatus.OK, f"{node}: budget", f"not active ({state})", "", {"lifecycle state": state})


def _stage(name: str, timing: Timing | None) -> StageTiming:
    timing = timing or Timing(0, math.nan, math.nan, math.nan, math.nan)
    return StageTiming(
        name=name,
        count=timing.count,
        mean_ms=timing.mean,
        p50_ms=timing.p50,
        p95_ms=timing.p95,
        max_ms=timing.longest,
    )


def _camera(camera: str, window: CameraWindow, keyframe: KeyframeState) -> CameraBudget:
    counts = window.counts
    return CameraBudget(
        camera=camera,
        received=counts.received,
        answered=counts.answered,
        dropped=counts.dropped,
        late=counts.late,
        failed=counts.failed,
        idle=counts.idle,
        alone=counts.alone,
        received_rate_hz=window.received_rate,
        answered_rate_hz=window.answered_rate,
        keyframe_id=keyframe.number,
        keyframe_age_s=keyframe.age,
        keyframe_distance=keyframe.distance,
        keyframe_match=keyframe.match,
        keyframes=counts.keyframes,
        latency_p50_ms=window.latency.p50,
        latency_p95_ms=window.latency.p95,
        latency_max_ms=window.latency.longest,
    )


def budget_message(
    stamp: Time,
    engine: Engine,
    settings: Settings,
    window: Window,
    price: Price,
    keyframes: dict[str, KeyframeState],
    decision: Decision,
    problems: Sequence[str],
    rss_mb: float,
) -> ComputeBudget:
    """The window as a message; see msg/ComputeBudget.msg for every field."""
    reasons = [f"keyframes by {reason}: {times}" for reason, times in sorted(window.reasons.items())]
    message = ComputeBudget(
        device=str(engine.device),
        precision=engine.precision,
        backend=engine.backend,
        mode=settings.mode,
        model=settings.model,
        window_s=window.seconds,
        keyframe_period_s=decision.period,
        keyframe_interval_s=window.keyframe_interval,
        slow_gflops=price.slow,
        fast_gflops=price.fast,
        ila_gflops=price.ila,
        heads_gflops=price.heads,
        gflops_per_frame=price.per_frame,
        flops_saved=price.saved,
        device_share=decision.share,
        device_share_limit=settings.device_share,
        skipped_tasks=list(decision.skipped),
        rss_mb=rss_mb,
        stages=[_stage(name, window.stages.get(name)) for name in STAGES],
        cameras=[_camera(name, camera, keyframes[name]) for name, camera in window.cameras.items()],
        reason="; ".join([*reasons, *decision.reasons, *problems]),
    )
    message.header.stamp = stamp
    return message
