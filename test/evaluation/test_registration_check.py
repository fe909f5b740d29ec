"""Depth that does not lie on its picture is found out, and by how much; depth that does is left in peace."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from mila_ros.evaluation.evaluate import pinhole
from mila_ros.evaluation.registration_check import RegistrationCheck, check_recording
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.bags import Bag
from mila_ros.worlds.frames import Intrinsics
from mila_ros.worlds.rendered import RenderedWorld

from .small_bag import COLOR, DEPTH, PERIOD, START, write_bag


@pytest.fixture(scope="module")
def frames() -> list[tuple[np.ndarray, np.ndarray]]:
    clips = RenderedWorld(height=120, width=160, shadows=1).clips(8, 2, 15, seed=4)
    rgb = clips.rgb.flatten(0, 1).permute(0, 2, 3, 1).numpy()
    return list(zip(rgb, clips.depth.flatten(0, 1).numpy(), strict=True))


def moved(depth: np.ndarray, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """Depth as a camera records it whose picture must be scaled and shifted so to lie right."""
    height, width = depth.shape
    middle = ((width - 1) / 2, (height - 1) / 2)
    right = np.float32([[scale, 0, middle[0] * (1 - scale) + shift[0]], [0, scale, middle[1] * (1 - scale) + shift[1]]])
    return cv2.warpAffine(depth, right, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)


def check(frames: list[tuple[np.ndarray, np.ndarray]]):
    found = RegistrationCheck(len(frames))
    for rgb, depth in frames:
        found.update(rgb, depth)
    return found.compute()


def test_registered_depth_is_left_in_peace(frames) -> None:
    assert check(frames) is None
    assert check(frames[:3]) is None  # too few to tell
    assert check([(rgb, np.full_like(depth, 2.0)) for rgb, depth in frames]) is None  # nothing to see
    rng = np.random.default_rng(0)
    noise = [(rng.integers(0, 255, rgb.shape, np.uint8), depth) for rgb, depth in frames]
    assert check(noise) is None


@pytest.mark.parametrize(("scale", "shift"), [(0.9, (-2.0, 0.0)), (1.1, (0.0, 3.0)), (1.0, (5.0, -4.0))])
def test_what_is_wrong_is_measured(frames, scale: float, shift: tuple[float, float]) -> None:
    found = check([(rgb, moved(depth, scale, shift)) for rgb, depth in frames])
    assert found is not None
    assert found.scale == pytest.approx(scale, abs=0.021)
    assert found.shift == pytest.approx(shift, abs=1.1)
    assert found.better > 1.35
    text = found.sentence(Intrinsics(585.0, 585.0, 79.5, 59.5, 160, 120))
    cx, cy = 79.5 + found.shift[0], 59.5 + found.shift[1]
    fitting = f"--camera {585 * found.scale:.0f},{585 * found.scale:.0f},{cx:.0f},{cy:.0f} "
    assert f"scaled by {found.scale:.2f}" in text and fitting in text and "--depth-camera 585,585,80,60`" in text


@pytest.mark.parametrize("text", ["500,500,320", "a,b,c,d", "0,500,320,240", "nan,500,320,240"])
def test_a_camera_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="FX"):
        pinhole(text)


def test_pictures_of_another_shape_are_left_out(frames) -> None:
    check = RegistrationCheck(2 * len(frames))
    for rgb, depth in frames:
        check.update(rgb, depth)
        check.update(rgb[: len(rgb) // 2], depth[: len(depth) // 2])
    alone = RegistrationCheck(len(frames))
    for rgb, depth in frames:
        alone.update(rgb, depth)
    assert check.compute() == alone.compute()


def test_a_recording_is_checked_by_its_own_frames(frames, tmp_path: Path) -> None:
    camera = Intrinsics(140.0, 140.0, 79.5, 59.5, 160, 120)
    for name, scale, words in (("right", 1.0, None), ("wrong", 0.9, "scaled by 0.9")):
        with BagWriter(tmp_path / name) as bag:
            for number, (rgb, depth) in enumerate(frames):
                stamp = START + number * PERIOD
                millimetres = np.nan_to_num(moved(depth, scale, (0, 0)) * 1000).astype(np.uint16)
                bag.write_message("/cam/color/camera_info", bag.messages.camera_info(camera, stamp, "optical"), stamp)
                bag.write_message(COLOR, bag.messages.image(np.ascontiguousarray(rgb), "rgb8", stamp, "optical"), stamp)
                bag.write_message(DEPTH, bag.messages.image(millimetres, "16UC1", stamp, "optical"), stamp)
        with Bag(tmp_path / name) as bag:
            said = check_recording(bag)
        assert said is None if words is None else words in said
        if said is not None:  # what it advises puts it right
            color, depth_camera = re.search(r"--camera (\S+) --depth-camera ([\d.,]+)", said).groups()
            with Bag(tmp_path / name, camera=pinhole(color), depth_camera=pinhole(depth_camera)) as bag:
                assert check_recording(bag) is None
                assert next(bag.frames()).intrinsics.fx == pytest.approx(126, abs=4)
    with Bag(write_bag(tmp_path / "none", 9, truth=False)) as bag:
        assert check_recording(bag) is None
