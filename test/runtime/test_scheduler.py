"""The keyframe timer: its grid, its early keyframes, changes while it runs. No waiting, time is passed in."""

from __future__ import annotations

import math

import pytest

from mila_ros.runtime.scheduler import KeyframeScheduler, Reason


def run(scheduler: KeyframeScheduler, times: list[float]) -> list[tuple[float, Reason]]:
    """Offer frames at these times; each keyframe is finished at once. Returns when one was taken and why."""
    taken, captured = [], None
    for now in times:
        reason = scheduler.due(now, captured)
        if reason is not None:
            scheduler.started(now)
            captured = now
            taken.append((now, reason))
    return taken


def test_first_frame_is_a_keyframe_because_there_is_no_memory():
    assert KeyframeScheduler(1.0).due(100.0, None) is Reason.NO_MEMORY


def test_the_timer_keeps_its_grid_though_frames_do_not_fall_on_it():
    frames = [i / 30 + 0.004 * (i % 3) for i in range(301)]
    taken = run(KeyframeScheduler(0.31), frames)
    # From the last keyframe on, each would come a frame late: 0.333 s apart, 31 of them.
    assert len(taken) == 33
    assert all(reason is Reason.TIMER for _, reason in taken[1:])


def test_a_pause_is_not_made_up_for():
    taken = run(KeyframeScheduler(1.0), [0.0, 5.0, 5.1, 5.9, 6.05])
    assert [now for now, _ in taken] == [0.0, 5.0, 6.05]


def test_zero_period_makes_every_frame_a_keyframe():
    assert len(run(KeyframeScheduler(0.0), [0.0, 0.1, 0.2])) == 3


def test_an_old_memory_is_not_used_and_is_replaced_before_the_timer():
    scheduler = KeyframeScheduler(10.0, max_age=2.0)
    scheduler.started(0.0)
    assert scheduler.due(1.0, 0.0) is None and scheduler.fresh(1.0, 0.0)
    assert scheduler.due(2.5, 0.0) is Reason.TOO_OLD and not scheduler.fresh(2.5, 0.0)


def test_an_early_keyframe_starts_a_whole_period():
    scheduler = KeyframeScheduler(1.0)
    scheduler.started(0.0)
    scheduler.started(0.5)  # pulled forward
    assert scheduler.due(1.4, 0.5) is None
    assert scheduler.due(1.5, 0.5) is Reason.TIMER


def test_a_new_period_counts_from_the_last_keyframe():
    scheduler = KeyframeScheduler(10.0)
    scheduler.started(0.0)
    assert scheduler.due(1.0, 0.0) is None
    scheduler.period = 0.5
    assert scheduler.due(1.0, 0.0) is Reason.TIMER


def test_phases_stagger_cameras():
    second = KeyframeScheduler(1.0, phase=0.5)
    second.started(0.0)
    assert second.due(1.2, 0.0) is None
    assert second.due(1.5, 0.0) is Reason.TIMER


@pytest.mark.parametrize("period", [-1.0, math.nan, math.inf])
def test_a_period_that_is_none_is_refused(period):
    with pytest.raises(ValueError, match="period"):
        KeyframeScheduler(period)


def test_an_age_that_is_none_is_refused():
    with pytest.raises(ValueError, match="age"):
        KeyframeScheduler(1.0, max_age=0.0)


def test_a_scene_that_left_pulls_the_keyframe_forward_but_not_at_once():
    scheduler = KeyframeScheduler(0.9)
    scheduler.started(10.0)
    assert scheduler.due(10.2, 10.0, left=True) is None
    assert scheduler.due(10.31, 10.0, left=False) is None
    assert scheduler.due(10.31, 10.0, left=True) is Reason.SCENE_LEFT
    scheduler.started(10.31)
    assert scheduler.due(11.0, 10.31) is None  # a whole period from then on
    assert scheduler.due(11.22, 10.31) is Reason.TIMER
