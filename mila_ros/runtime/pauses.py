"""Python's garbage collector stops every thread of a process while it looks at every object that there is."""

from __future__ import annotations

import gc


def without_long_pauses() -> None:
    """Set aside what is there by now; to be called when all that stays is loaded.

    PyTorch and rclpy bring 400 000 objects, and a full collection among them takes a quarter of a second, in which no
    frame is answered; it comes when it wants, soon after the start as a rule. Objects that are set aside are not looked
    at any more (`gc.freeze`), those made later are. They are still freed when nobody refers to them, unless they refer
    to each other: `with_all` brings them back.
    """
    gc.collect()
    gc.freeze()


def with_all() -> None:
    """Look at everything again: after something large was let go."""
    gc.unfreeze()
    gc.collect()
