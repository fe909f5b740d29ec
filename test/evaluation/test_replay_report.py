"""Words and pictures of a replay's report, for whatever tasks a model has."""

from __future__ import annotations

import numpy as np

from mila_ros.evaluation.every_frame import EveryFrame, Shown
from mila_ros.evaluation.pictures import class_colours
from mila_ros.evaluation.replay_report import _groups, agreement_text, consistency_text


def test_only_what_a_model_answers_is_told_of() -> None:
    every = {
        "segmentation": {"pixel_accuracy": 0.964},
        "depth": {"abs_rel": 0.0702},
        "normals": {"mean_deg": 9.04},
    }
    assert agreement_text(every) == "96.4 % of pixels; depth 7.0 % apart; normals 9.0° apart"
    assert agreement_text({"segmentation": every["segmentation"]}) == "96.4 % of pixels"
    assert agreement_text({"normals": every["normals"]}) == "normals 9.0° apart"
    steady = {"segmentation_agreement": 0.9735, "depth_change": 0.046, "normals_deg": 6.25, "flow": "DIS", "pairs": 3}
    assert consistency_text(steady) == "97.4 % of pixels; depth 4.6 %; normals 6.2°"
    assert consistency_text({"depth_change": 0.046, "pairs": 3}) == "depth 4.6 %"


def test_pictures_are_dated_from_the_recording_s_first_frame_and_depth_has_its_key_where_there_is_depth() -> None:
    ids, rgb = np.zeros((8, 12), np.uint8), np.zeros((16, 24, 3), np.uint8)
    shown = Shown(5_300_000_000, 3, rgb, {"segmentation": ids}, {}, 3, 0.0)
    every = EveryFrame(first_ns=5_000_000_000, evenly=[shown])
    (group,) = _groups(every, ("road", "sky"), class_colours((), 2))
    assert group["heads"] == ["0.3 s, 3 after the keyframe"] and group["farthest"] is None
    shown.answers["depth"] = np.full((8, 12), 2.0, np.float32)
    (group,) = _groups(every, ("road", "sky"), class_colours((), 2))
    assert group["farthest"] >= 2.0
