"""Time in which somebody works counts once, however many do."""

from __future__ import annotations

import pytest

from mila_ros.evaluation import busy
from mila_ros.evaluation.busy import Busy


def test_overlapping_work_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(busy.time, "perf_counter", lambda: now)
    meter = Busy()
    now = 5.0
    assert meter.seconds == 0
    with meter.working():
        now = 6.0
        with meter.working():
            now = 8.0
        assert meter.seconds == 3
        now = 9.0
    now = 20.0
    assert meter.seconds == 4
    with pytest.raises(ValueError), meter.working():
        now = 21.0
        raise ValueError
    now = 30.0
    assert meter.seconds == 5
