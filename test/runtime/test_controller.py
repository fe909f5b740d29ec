"""The budget held on a simulated device: it settles, keeps its limits, starves nobody, gives back what it took."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from mila_ros.runtime.controller import BudgetController, Decision, Limits, Measured

TASKS = ("segmentation", "depth", "normals")


@dataclass
class Device:
    """One queue for frames; keyframes of `slow_ms` run beside them and slow them down while they do.

    All frames of a window are alike but for that; a window is a second.
    """

    slow_ms: float = 100.0
    base_ms: float = 8.0
    task_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASKS, 4.0))
    hz: float = 30.0
    cameras: int = 1
    speed: float = 1.0
    disturbance: float = 0.0
    """Share by which a running keyframe lengthens a frame."""

    def second(self, period: float, skipped: tuple[str, ...], deadline_ms: float) -> Measured:
        tasks = [task for task in TASKS if task not in skipped]
        frame_ms = (self.base_ms + sum(self.task_ms[task] for task in tasks)) / self.speed
        slow_ms = self.slow_ms / self.speed
        keyframes = min(self.cameras / max(period, 1e-3), 1e3 / slow_ms)
        slow_share = keyframes * slow_ms * 1e-3
        beside_ms = frame_ms * (1 + self.disturbance)
        mean_ms = frame_ms + slow_share * (beside_ms - frame_ms)
        arriving = self.hz * self.cameras
        frames = min(arriving, 1e3 / mean_ms)
        waits = 0.0 if frames == arriving else mean_ms
        late = frames * (1.0 if frame_ms + waits > deadline_ms else slow_share if beside_ms > deadline_ms else 0.0)
        p95 = waits + (beside_ms if slow_share > 0.05 else frame_ms)
        return Measured(
            seconds=1.0,
            cameras=self.cameras,
            frames=round(frames),
            late=round(late),
            frame_busy=frames * mean_ms * 1e-3,
            keyframes=keyframes,  # not a whole number: the mean of many such seconds
            keyframe_busy=slow_share,
            keyframe_ms=slow_ms,
            p95_ms=p95,
            tasks=TASKS,
        )


class Run:
    """Windows one after another."""

    def __init__(self, device: Device, limits: Limits) -> None:
        self.device, self.limits = device, limits
        self.controller = BudgetController()
        self.now = 0.0
        self.decision = Decision(limits.period, (), math.nan, ())
        self.periods: list[float] = []
        self.shares: list[float] = []
        self.skipped: list[tuple[str, ...]] = []
        self.late: list[int] = []

    def seconds(self, count: int) -> Run:
        for _ in range(count):
            measured = self.device.second(self.decision.period, self.decision.skipped, self.limits.deadline_ms)
            self.now += measured.seconds
            self.decision = self.controller.update(measured, self.limits, self.now)
            self.periods.append(self.decision.period)
            self.skipped.append(self.decision.skipped)
            self.late.append(measured.late)
            self.shares.append(measured.frame_busy + measured.keyframe_busy)
        return self

    def settled(self, last: int = 20) -> bool:
        tail = self.periods[-last:]
        return max(tail) <= 1.1 * min(tail) and len(set(self.skipped[-last:])) == 1


def limits(**changes) -> Limits:
    values = {"period": 0.33, "longest_period": 3.0, "deadline_ms": 60.0}
    return Limits(**values | changes)


def test_a_roomy_device_is_left_alone() -> None:
    run = Run(Device(), limits()).seconds(30)
    assert set(run.periods) == {0.33} and run.decision.reasons == ()


@pytest.mark.parametrize("share", [0.7, 0.8])
def test_the_devices_share_is_held_and_it_settles(share: float) -> None:
    run = Run(Device(), limits(device_share=share)).seconds(60)
    assert run.settled()
    assert run.decision.period > 0.33
    assert run.shares[-1] == pytest.approx(share, rel=0.08)
    assert "of the device's share" in run.decision.reasons[0]


def test_a_step_of_load_and_its_end() -> None:
    run = Run(Device(), limits(device_share=0.95)).seconds(20)
    before = run.decision.period
    run.device.base_ms = 14.0
    run.seconds(30)
    assert run.settled() and run.decision.period > before
    assert run.shares[-1] <= 1.0
    run.device.base_ms = 8.0
    run.seconds(60)
    assert run.settled() and run.decision.period == pytest.approx(before, rel=0.1)


def test_slow_drift_is_followed_without_jumps() -> None:
    run = Run(Device(), limits(device_share=0.8)).seconds(20)
    for step in range(100):
        run.device.slow_ms = 100 + step
        run.seconds(1)
    changes = [b / a for a, b in zip(run.periods[20:], run.periods[21:], strict=False)]
    assert max(changes) < 1.3 and min(changes) > 0.95
    assert run.shares[-1] == pytest.approx(0.8, rel=0.1)


def test_cameras_join_and_leave() -> None:
    run = Run(Device(hz=15), limits(device_share=0.8)).seconds(20)
    alone = run.decision.period
    run.device.cameras = 2
    run.seconds(40)
    assert run.settled() and run.decision.period > alone and run.shares[-1] <= 0.88
    run.device.cameras = 1
    run.seconds(60)
    assert run.settled() and run.decision.period == pytest.approx(alone, rel=0.1)


def test_late_frames_stretch_the_period_and_it_does_not_swing() -> None:
    """Frames beside a keyframe miss the deadline: only fewer keyframes help."""
    run = Run(Device(disturbance=3.0), limits()).seconds(400)
    assert run.decision.period > 0.33
    assert "later than 60 ms" in " ".join(run.decision.reasons)
    # It tries to give back less and less often: at most a few changes in the last two minutes.
    tail = run.periods[-120:]
    assert sum(a != b for a, b in zip(tail, tail[1:], strict=False)) <= 6
    assert max(run.periods) <= 3.0


@pytest.mark.parametrize("hz", [5, 10, 30])
@pytest.mark.parametrize("late_share, stretched", [(0.01, False), (0.03, False), (0.15, True)])
def test_few_late_frames_are_nothing_at_any_rate(hz: int, late_share: float, stretched: bool) -> None:
    random = np.random.default_rng(0)
    controller, periods = BudgetController(), []
    for second in range(1800):
        late = int(random.binomial(hz, late_share))
        measured = Measured(1.0, 1, hz, late, 0.3, 3, 0.1, 33.0, 87.0, TASKS)
        periods.append(controller.update(measured, limits(deadline_ms=100.0), float(second)).period)
    mean = float(np.mean(periods[-900:]))
    assert mean > 1.0 if stretched else mean < 0.45, mean


def test_a_tenth_of_late_frames_is_enough_to_leave_a_task_out() -> None:
    controller, decision = BudgetController(), None
    for second in range(300):
        measured = Measured(1.0, 1, 30, 3, 0.3, 3, 0.1, 33.0, 87.0, TASKS)
        decision = controller.update(measured, limits(deadline_ms=100.0, skip_order=("normals",)), float(second))
    assert decision is not None and decision.skipped == ("normals",)


@pytest.mark.parametrize("share", [0.8, 0.9])
def test_keyframes_that_slow_frames_down_do_not_make_the_share_swing(share: float) -> None:
    run = Run(Device(disturbance=3.0), limits(deadline_ms=1000.0, longest_period=2.0, device_share=share)).seconds(120)
    assert run.settled(), run.periods[-20:]


def test_odd_ratios_of_periods_still_reach_the_end() -> None:
    for period, longest in ((0.167, 0.5), (0.166, 1.5), (0.116, 2.0), (0.7, 1.5)):
        allowed = limits(period=period, longest_period=longest, deadline_ms=10.0, skip_order=("normals",))
        run = Run(Device(speed=0.5), allowed).seconds(60)
        assert run.decision.skipped == ("normals",), (period, longest)


def test_every_frame_a_keyframe_is_left_alone() -> None:
    run = Run(Device(), limits(period=0.0, longest_period=2.0)).seconds(30)
    assert set(run.periods) == {0.0} and not run.decision.degraded


def test_what_nobody_wants_is_not_left_out_and_a_new_order_counts_at_once() -> None:
    allowed = limits(deadline_ms=50.0, skip_order=("normals", "segmentation"))
    run = Run(Device(speed=0.5), allowed).seconds(60)
    assert "normals" in run.decision.skipped
    nothing = Measured(1.0, 0, 0, 0, 0.0, 0, 0.0, math.nan, math.nan, ("depth",))
    assert run.controller.update(nothing, allowed, run.now).skipped == ()
    nothing = Measured(1.0, 0, 0, 0, 0.0, 0, 0.0, math.nan, math.nan, TASKS)
    assert run.controller.update(nothing, limits(deadline_ms=50.0), run.now).skipped == ()


def test_a_throttled_device_loses_tasks_in_the_order_asked_for_and_gets_them_back() -> None:
    allowed = limits(deadline_ms=50.0, skip_order=("normals", "segmentation", "depth"))
    run = Run(Device(), allowed).seconds(20)
    assert run.decision.skipped == ()
    run.device.speed = 0.5  # 40 ms a frame at 30 Hz: more than there is
    run.seconds(60)
    assert run.decision.skipped[0] == "normals"
    assert "depth" not in run.decision.skipped, "the last task must stay"
    assert any("left out" in reason for reason in run.decision.reasons)
    assert run.late[-1] == 0
    run.device.speed = 1.0
    run.seconds(600)
    assert run.decision.skipped == () and run.decision.period == 0.33


def test_without_permission_nothing_is_left_out_and_nobody_starves() -> None:
    run = Run(Device(speed=0.3), limits()).seconds(60)
    assert run.decision.skipped == () and run.decision.period <= 3.0
    assert run.decision.degraded


def test_a_stall_is_survived() -> None:
    run = Run(Device(), limits()).seconds(10)
    nothing = Measured(1.0, 0, 0, 0, 0.0, 0, 0.0, math.nan, math.nan, TASKS)
    for _ in range(5):
        run.now += 1
        decision = run.controller.update(nothing, run.limits, run.now)
        assert decision.period == 0.33 and math.isnan(decision.share)
    run.seconds(10)
    assert run.decision.period == 0.33


def test_the_slow_network_is_not_asked_for_more_than_it_can_do() -> None:
    quick = Device(slow_ms=900.0, base_ms=1.0, task_ms=dict.fromkeys(TASKS, 0.1))
    run = Run(quick, limits()).seconds(10)
    assert run.decision.period == pytest.approx(0.9, rel=0.06)
    assert "slow network takes 900 ms" in " ".join(run.decision.reasons)


def test_a_fixed_period_stays_and_a_new_wish_takes_effect() -> None:
    run = Run(Device(disturbance=3.0), limits(longest_period=0.0)).seconds(20)
    assert set(run.periods) == {0.33}
    run.limits = limits(period=1.0)
    assert run.seconds(1).decision.period >= 1.0
    nothing = Measured(1.0, 0, 0, 0, 0.0, 0, 0.0, math.nan, math.nan, TASKS)
    assert run.controller.update(nothing, limits(period=0.5), run.now).period == 0.5, "not even without frames"


def test_a_budget_that_cannot_be_held_is_said_until_it_can() -> None:
    run = Run(Device(), Limits(0.333, 2.0, 15.0)).seconds(40)  # frames take 20 ms whatever is done
    assert any(
        "cannot be held: 95 of 100 frames take up to 20 ms, 15 are allowed" in text for text in run.decision.reasons
    )
    assert run.decision.degraded
    run.device.speed = 4.0
    run.seconds(20)
    assert not any("cannot be held" in text for text in run.decision.reasons)
    greedy = Run(Device(), Limits(0.333, 2.0, 100.0, device_share=0.3)).seconds(20)
    assert any("frames alone take 60 % of the device, 30 % are allowed" in text for text in greedy.decision.reasons)
