"""How a frame was answered, as a message, without a middleware."""

from __future__ import annotations

import math

import pytest
from mila_ros.msg import AnswerInfo
from std_msgs.msg import Header

from mila_ros.ros.answer_info import answer_info
from mila_ros.runtime.passing import Answer, Origin

HEADER = Header(frame_id="optical")


def answer(origin: Origin | None, match: float | None = None) -> Answer:
    return Answer(None, None, None, None, (48, 64), {}, match, origin)


def test_a_keyframe_is_named_with_its_stamp_age_and_distance():
    origin = Origin(7, age=0.25, distance=6, stamp_ns=3_999_999_999)
    info = answer_info(HEADER, answer(origin, match=0.5), {"decode": 1.0, "fast": 3.0}, 9.0)
    assert info.header == HEADER and info.source == AnswerInfo.KEYFRAME
    assert (info.keyframe_id, info.keyframe_age_s, info.keyframe_distance, info.keyframe_match) == (7, 0.25, 6, 0.5)
    assert (info.keyframe_stamp.sec, info.keyframe_stamp.nanosec) == (3, 999_999_999)
    assert list(info.stages) == ["decode", "fast"] and list(info.stage_ms) == [1.0, 3.0]
    assert info.latency_ms == 9.0


@pytest.mark.parametrize(
    ("origin", "source", "number"),
    [(Origin(), AnswerInfo.ALONE, 0), (None, AnswerInfo.ALONE, 0), (Origin(4, slow=True), AnswerInfo.SLOW, 4)],
)
def test_without_a_look_up_no_match_is_made_up(origin, source, number):
    info = answer_info(HEADER, answer(origin, match=0.9), {}, 1.0)
    assert (info.source, info.keyframe_id, info.keyframe_distance) == (source, number, 0)
    assert math.isnan(info.keyframe_match) and info.keyframe_age_s == 0
