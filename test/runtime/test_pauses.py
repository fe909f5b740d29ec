"""What is loaded is not looked at by the collector any more, until it is let go."""

import gc
import weakref

from mila_ros.runtime.pauses import with_all, without_long_pauses


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.own = self


def test_what_is_there_is_set_aside_and_comes_back() -> None:
    old = Knot()
    seen = weakref.ref(old)
    try:
        without_long_pauses()
        assert gc.get_freeze_count() > 1000
        new = weakref.ref(Knot())
        del old
        gc.collect()
        assert new() is None and seen() is not None  # what came later is collected
    finally:
        with_all()
    assert gc.get_freeze_count() == 0 and seen() is None
