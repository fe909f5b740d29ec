"""Ctrl-C waits for the end of what must not be torn apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from mila_ros.evaluation.uninterrupted import uninterrupted


@pytest.fixture(autouse=True)
def python_hears_ctrl_c() -> Iterator[None]:
    """Whoever runs several workers may have told them not to."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


def test_an_interrupt_comes_when_the_work_is_done() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        heard = signal.getsignal(signal.SIGINT)
        assert callable(heard)
        heard(signal.SIGINT, None)  # as Python does it; a real signal could come later, to whatever runs then
        done.append("all of it")
    assert done == ["all of it"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with uninterrupted():
        pass
    with pytest.raises(ValueError), uninterrupted():
        raise ValueError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_just_works() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append("all of it")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["all of it"]
