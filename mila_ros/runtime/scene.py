"""Whether a camera's scene has left its keyframe, from how alike both look where one was found in the other.

Pure Python, no clock: it sees one number a frame (models/propagation.py, `Carried.match`). What counts as alike depends
on the scene, so a frame is compared with the best that this keyframe has reached.
"""

from __future__ import annotations

FALL = 0.05
"""The usual fall of the match by which the scene has left a keyframe: with `indoor`, in a kitchen seen by hand, frames
below it agree with the slow network in half of their pixels, those above in three quarters."""
FRAMES = 2
"""In a row, before a fall is believed: one frame may be blurred."""


class SceneWatch:
    """One camera's."""

    def __init__(self) -> None:
        self._keyframe = 0
        self._best = float("-inf")
        self._low = 0
        self._match: float | None = None

    def seen(self, keyframe: int, match: float | None, fall: float) -> None:
        """A frame was answered from a keyframe.

        Args:
            keyframe: its number; another one begins anew.
            match: at most 1; None where the network does not tell.
            fall: below the keyframe's best by which the scene has left it; 0: never.
        """
        if keyframe != self._keyframe:
            self._best, self._low = float("-inf"), 0
            self._keyframe = keyframe  # last: another thread may ask meanwhile
        self._match = match
        if match is None or fall <= 0:
            self._low = 0
            return
        self._best = max(self._best, match)
        self._low = self._low + 1 if match < self._best - fall else 0

    def match(self, keyframe: int) -> float | None:
        """Of the newest frame with this keyframe; None: not known, or none was answered from it yet."""
        return self._match if keyframe == self._keyframe else None

    def left(self, keyframe: int) -> bool:
        """Whether the scene has left this keyframe."""
        return keyframe == self._keyframe and self._low >= FRAMES
