"""Items come in order, errors where they belong, and an early end stops the thread."""

from __future__ import annotations

import threading

import pytest

from mila_ros.evaluation.prefetch import prefetched


def test_order_and_errors() -> None:
    def items():
        yield from range(5)
        raise KeyError("broken")

    got = []
    with pytest.raises(KeyError, match="broken"):
        for item in prefetched(items(), ahead=2):
            got.append(item)
    assert got == list(range(5))
    assert list(prefetched([], ahead=1)) == []


def test_an_early_end_closes_what_was_read_from_in_its_own_thread() -> None:
    closed_in: list[str] = []

    def items():
        try:
            while True:
                yield 1
        finally:
            closed_in.append(threading.current_thread().name)

    running = prefetched(items(), ahead=3)
    assert next(running) == 1
    running.close()
    assert closed_in == ["prefetch"]
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
