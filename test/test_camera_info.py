"""camera_info.py: K and P, regions of interest, binning, resized pictures, and what is refused with which words."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mila_ros.camera_info import CameraInfoError, intrinsics, is_rectified

RECTIFIED = (400, 0, 300, 0, 0, 410, 200, 0, 0, 0, 1, 0)


def info(k=(500, 0, 320, 0, 510, 240, 0, 0, 1), p=(0,) * 12, width=640, height=480, roi=(0, 0, 0, 0), binning=(0, 0)):
    region = SimpleNamespace(x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3])
    return SimpleNamespace(
        k=list(k), p=list(p), width=width, height=height, roi=region, binning_x=binning[0], binning_y=binning[1]
    )


def test_intrinsics():
    assert intrinsics(info()) == (500, 510, 320, 240, 640, 480)
    assert intrinsics(info(k=(0,) * 9, p=RECTIFIED)) == (400, 410, 300, 200, 640, 480)
    assert intrinsics(info(k=(np.nan,) * 9, p=RECTIFIED))[0] == 400


def test_rectified_pictures_have_the_focal_length_of_p():
    assert intrinsics(info(p=RECTIFIED), rectified=True) == (400, 410, 300, 200, 640, 480)
    assert intrinsics(info(p=RECTIFIED))[0] == 500
    assert intrinsics(info(), rectified=True)[0] == 500  # P is not filled in


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/camera/image_rect", True),
        ("/left/image_rect_color", True),
        ("/left/image_rect_color/compressed", True),
        ("/zed/rgb/image_rectified", True),
        ("/zed/rgb/color/rect/image", True),
        ("rect/image/compressed", True),
        ("/camera/image_raw", False),
        ("/rect/camera/image", False),
        ("/direct/image", False),
        ("/rect/image_raw", False),
        ("", False),
    ],
)
def test_rectified_topics_are_known_by_their_names(topic, rectified):
    assert is_rectified(topic) is rectified


def test_a_region_of_interest_is_cut_out_of_the_full_picture():
    """As image_geometry does: the focal length stays, the principal point moves; a crop is no smaller picture."""
    cut = info(roi=(160, 120, 320, 240))
    assert intrinsics(cut) == (500, 510, 160, 120, 320, 240)
    assert intrinsics(cut, size=(240, 320)) == (500, 510, 160, 120, 320, 240)
    assert intrinsics(cut, size=(120, 160)) == (250, 255, 79.75, 59.75, 160, 120)  # and resized
    assert intrinsics(cut, size=(480, 640)) == (500, 510, 320, 240, 640, 480)  # a driver that does not cut
    with pytest.raises(CameraInfoError, match="region of interest, 320x480 at 400, 0, leaves 640x480"):
        intrinsics(info(roi=(400, 0, 320, 480)), size=(480, 320))


def test_binned_pictures_are_scaled():
    assert intrinsics(info(binning=(2, 2))) == (250, 255, 159.75, 119.75, 320, 240)
    assert intrinsics(info(binning=(2, 2)), size=(240, 320)) == (250, 255, 159.75, 119.75, 320, 240)
    assert intrinsics(info(binning=(2, 1)), size=(480, 320)) == (250, 510, 159.75, 240, 320, 480)
    both = info(roi=(160, 120, 320, 240), binning=(2, 2))
    assert intrinsics(both, size=(120, 160)) == (250, 255, 79.75, 59.75, 160, 120)


def test_intrinsics_of_scaled_pictures():
    assert intrinsics(info(), size=(240, 320)) == (250, 255, 159.75, 119.75, 320, 240)
    assert intrinsics(info(width=0, height=0), size=(480, 640)) == (500, 510, 320, 240, 640, 480)
    with pytest.raises(CameraInfoError, match="for pictures of 640x480, but they are 640x360"):
        intrinsics(info(), size=(360, 640))


@pytest.mark.parametrize(
    ("msg", "words"),
    [
        (info(k=(np.nan,) * 9), "K holds NaN or infinity; P is zero"),
        (info(k=(0,) * 9), "K is zero .an uncalibrated camera.; P is zero"),
        (info(k=(0.8, 0, 0.5, 0, 0.8, 0.5, 0, 0, 1)), "K has fx = 0.8, fy = 0.8 for 640x480 pixels"),
        (info(k=(-500, 0, 320, 0, -500, 240, 0, 0, 1)), "K has fx = -500"),
        (SimpleNamespace(width=640, height=480), "K is missing; P is missing"),
        (info(width=0, height=0), "picture size of 0x0"),
    ],
)
def test_bad_camera_info_is_refused_in_words(msg, words):
    with pytest.raises(CameraInfoError, match=words):
        intrinsics(msg)
