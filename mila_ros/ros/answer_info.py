"""How a frame was answered, as a message: from which keyframe, and where the time went."""

from __future__ import annotations

import math
from collections.abc import Mapping

from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from mila_ros.msg import AnswerInfo
from mila_ros.runtime.passing import Answer, Origin

_NANOSECONDS = 1_000_000_000


def answer_info(header: Header, answer: Answer, stages: Mapping[str, float], latency_ms: float) -> AnswerInfo:
    """The message.

    Args:
        header: of the frame.
        answer: what was published of it.
        stages: milliseconds by name, in their order.
        latency_ms: from the frame's arrival to its last output.
    """
    origin = answer.origin or Origin()
    match = math.nan if answer.match is None or origin.looked_up is None else answer.match
    info = AnswerInfo(
        header=header,
        tasks=list(answer.by_task()),
        source=_source(origin),
        keyframe_id=origin.keyframe or 0,
        keyframe_age_s=origin.age,
        keyframe_distance=origin.distance,
        keyframe_match=match,
        latency_ms=latency_ms,
        stages=list(stages),
        stage_ms=list(stages.values()),
    )
    if origin.stamp_ns is not None:
        seconds, nanoseconds = divmod(origin.stamp_ns, _NANOSECONDS)
        info.keyframe_stamp = Time(sec=seconds, nanosec=nanoseconds)
    return info


def _source(origin: Origin) -> int:
    if origin.keyframe is None:
        return int(AnswerInfo.ALONE)
    return int(AnswerInfo.SLOW if origin.slow else AnswerInfo.KEYFRAME)
