"""What threads share: the newest frame of each camera, and the keyframe that answers now."""

from __future__ import annotations

import threading
import time

import pytest

from mila_ros.runtime.memory import KeyframeSlot
from mila_ros.runtime.slots import Handover, NewestSlots


def test_the_newest_item_wins_and_the_older_one_is_handed_back():
    slots: NewestSlots[int] = NewestSlots(["front"])
    assert slots.put("front", 1) is None
    assert slots.put("front", 2) == 1
    assert slots.take(0) == ("front", 2)
    assert slots.take(0) is None


def test_a_fast_camera_does_not_starve_a_slow_one():
    slots: NewestSlots[int] = NewestSlots(["front", "rear"])
    slots.put("front", 1)
    slots.put("rear", 1)
    slots.put("front", 2)
    assert slots.take(0) == ("front", 2)
    slots.put("front", 3)
    assert slots.take(0) == ("rear", 1)


def test_an_unknown_camera_is_a_programming_error():
    with pytest.raises(KeyError):
        NewestSlots(["front"]).put("back", 1)


def test_closing_wakes_the_worker():
    slots: NewestSlots[int] = NewestSlots(["front"])
    got = []
    thread = threading.Thread(target=lambda: got.append(slots.take()))
    thread.start()
    slots.close()
    thread.join(5)
    assert got == [None]
    slots.put("front", 1)
    assert slots.take() is None


def test_a_keyframe_is_swapped_whole_and_numbered():
    slot: KeyframeSlot[str] = KeyframeSlot()
    assert slot.get() is None
    first = slot.put("a", frame=7, captured=1.0, size=(4, 6), epoch=slot.epoch)
    assert first is slot.get() and first.number == 1 and (first.memory, first.frame, first.captured) == ("a", 7, 1.0)
    slot.put("b", frame=9, captured=2.0, size=(4, 6), epoch=slot.epoch)
    assert slot.get().number == 2 and slot.get().memory == "b"
    assert first.memory == "a"  # who read it before goes on with it


def test_a_keyframe_begun_before_forgetting_is_refused():
    slot: KeyframeSlot[str] = KeyframeSlot()
    begun = slot.epoch
    slot.forget()
    assert slot.put("a", frame=1, captured=0.0, size=(4, 6), epoch=begun) is None
    assert slot.get() is None and slot.finished == 0


def test_who_hands_over_waits_until_the_other_asks():
    hand: Handover[int] = Handover()
    given, taken = [], []

    def give():
        for item in (1, 2):
            given.append((item, hand.give(item)))

    giver = threading.Thread(target=give)
    giver.start()
    giver.join(0.05)
    assert giver.is_alive() and not given  # nobody has asked
    taken.append(hand.take())
    giver.join(0.05)
    assert giver.is_alive() and given == [(1, True)]  # the second is not put down somewhere meanwhile
    taken.append(hand.take())
    giver.join(5)
    assert taken == [1, 2] and given == [(1, True), (2, True)]


def test_closing_a_handover_wakes_both_sides():
    hand: Handover[int] = Handover()
    got = []
    giver = threading.Thread(target=lambda: got.append(hand.give(1)))
    giver.start()
    hand.close()
    giver.join(5)
    assert got == [False]
    other: Handover[int] = Handover()
    taker = threading.Thread(target=lambda: got.append(other.take()))
    taker.start()
    other.close()
    taker.join(5)
    assert got == [False, None]


def test_all_that_wait_are_taken_at_once_and_others_waited_for_a_while():
    slots = NewestSlots(["front", "rear", "left", "gone"])
    slots.put("rear", 1)
    slots.put("front", 2)
    assert list(slots.take_all(lambda: 0.0).items()) == [("rear", 1), ("front", 2)]
    slots.put("left", 0)
    assert slots.take_all(lambda: 0.0) == {"left": 0}
    slots.put("rear", 3)
    late = threading.Timer(0.05, lambda: (slots.put("front", 4), slots.put("left", 5)))
    late.start()
    assert slots.take_all(lambda: 60.0) == {"rear": 3, "front": 4, "left": 5}  # all that come are there
    slots.put("left", 6)
    time.sleep(0.05)
    begin = time.monotonic()
    assert slots.take_all(lambda: 0.05) == {"left": 6}  # it has waited for so long already
    assert time.monotonic() - begin < 0.04
    slots.put("left", 7)
    slots.close()
    assert slots.take_all(lambda: 1.0) is None
