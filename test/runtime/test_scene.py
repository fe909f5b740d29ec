"""When the scene has left a keyframe: by its own best, for two frames in a row, and anew with the next one."""

from __future__ import annotations

from mila_ros.runtime.scene import SceneWatch


def left(matches: list[float | None], fall: float = 0.1, keyframe: int = 1) -> list[bool]:
    watch, said = SceneWatch(), []
    for match in matches:
        watch.seen(keyframe, match, fall)
        said.append(watch.left(keyframe))
    return said


def test_a_fall_counts_from_the_keyframes_best_and_must_last():
    assert left([0.6, 0.7, 0.59, 0.65, 0.58, 0.57]) == [False, False, False, False, False, True]
    assert left([0.3, 0.31, 0.29, 0.3]) == [False] * 4  # a scene that is never well matched is no reason
    assert left([0.9, 0.1, 0.1], fall=0.0) == [False] * 3
    assert left([0.9, None, 0.1, None]) == [False] * 4


def test_the_next_keyframe_begins_anew():
    watch = SceneWatch()
    for match in (0.9, 0.2, 0.2):
        watch.seen(1, match, 0.1)
    assert watch.left(1) and watch.match(1) == 0.2
    assert not watch.left(2) and watch.match(2) is None  # nothing was answered from it yet
    watch.seen(2, 0.2, 0.1)
    assert not watch.left(2)
