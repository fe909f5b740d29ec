"""Cameras in: subscriptions that only take and count, the newest calibration, and what can be made of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo

from mila_ros.camera_info import CameraInfoError, intrinsics, window
from mila_ros.ros.pictures_in import INPUT_QOS, PicturesIn
from mila_ros.ros.settings import CameraSettings

LATCHED_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


@dataclass(frozen=True)
class Frame:
    """A message and when it came."""

    message: Any  # Image or CompressedImage
    arrived: float  # steady seconds
    number: int  # the camera's running count, from 1


class CameraInput:
    """One camera's subscriptions. `on_frame` is called in the executor's thread and must be quick.

    Args:
        node: owner of the subscriptions.
        settings: topics and transport.
        on_frame: takes each frame.
        clock: steady seconds.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: CameraSettings,
        on_frame: Callable[[str, Frame], None],
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._node = node
        self._on_frame = on_frame
        self._clock = clock
        self.received = 0
        self.last_arrival: float | None = None
        self._opened = clock()
        self._told = ""
        self._info: CameraInfo | None = None
        self._latched: CameraInfo | None = None
        self._info_arrival = self._latched_arrival = -math.inf
        self.pictures = PicturesIn(node, settings, self._image)
        self._subscriptions = [
            node.create_subscription(
                CameraInfo,
                settings.info_topic,
                self._camera_info,
                copy.copy(INPUT_QOS),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            ),
            # Some drivers and bags publish the calibration once, for whoever comes later.
            # That it does not fit the many that publish it again and again is no news.
            node.create_subscription(
                CameraInfo,
                settings.info_topic,
                self._latched_info,
                LATCHED_QOS,
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            ),
        ]

    @property
    def info_topic(self) -> str:
        """The calibration's topic as it is after remapping."""
        return self._subscriptions[0].topic_name

    def close(self) -> None:
        """End the subscriptions."""
        self.pictures.close()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _image(self, message: Any) -> None:
        self.received += 1
        self.last_arrival = self._clock()
        self._on_frame(self.settings.name, Frame(message, self.last_arrival, self.received))

    def _camera_info(self, message: CameraInfo) -> None:
        self._info, self._info_arrival = message, self._clock()

    def _latched_info(self, message: CameraInfo) -> None:
        now, known = self._clock(), self._latched
        if known is None or _stamp(message) >= _stamp(known) or now - self._latched_arrival > _GOES_ON:
            self._latched, self._latched_arrival = message, now

    @property
    def info(self) -> CameraInfo | None:
        """The newest calibration.

        One that was published once, for whoever comes later, gives way to what a camera publishes again and again; but
        not for ever: another recording may be played, with older stamps, whose calibration comes only once.
        """
        if self._info is None or self._latched is None:
            return self._info or self._latched
        goes_on = self._clock() - self._info_arrival < _GOES_ON
        newer = _stamp(self._latched) >= _stamp(self._info) or not goes_on
        return self._latched if newer and self._latched_arrival >= self._info_arrival else self._info

    def follow(self) -> str:
        """Once in a while: take pictures from where they are published (PicturesIn.follow)."""
        change = self.pictures.follow()
        if change:
            self._opened = self._clock()  # its silence begins anew
        return change

    def overdue(self, reason: str, now: float, after: float) -> str:
        """The reason of a silence (empty: there is none) once; none in the first `after` seconds of the camera."""
        if not reason or now - self._opened <= after:
            self._told = ""
            return ""
        what = reason.partition(";")[0]  # that other topics come and go is no news
        if what == self._told:
            return ""
        self._told = what
        return reason


def _stamp(message: CameraInfo) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


_GOES_ON = 2.0
"""Seconds after its last calibration for which a camera counts as one that publishes it again and again."""
_SAME_FOCAL = 0.02
"""Part by which the focal lengths of K and P may differ and still count as one."""
_NO_DISTORTION = 1e-6


@dataclass(frozen=True)
class Calibration:
    """What is known of a camera for frames of one size."""

    focal: float | None  # fx in pixels of the frame; None: unknown
    info: CameraInfo | None  # for frames of that size
    problem: str | None  # why it is not the camera's own, though it could be
    remark: str | None = None  # what is as it was asked for, and worth knowing


def calibrate(
    info: CameraInfo | None, topic: str, size: tuple[int, int], fallback_hfov: float, rectified: bool = False
) -> Calibration:
    """The focal length and CameraInfo for frames of `size` (height, width), from camera_info or the field of view.

    rectified: whether the frames are, so that P tells of them and not K.
    """
    try:
        if info is None:
            raise CameraInfoError(f"no camera_info on {topic}")
        values = intrinsics(info, size, rectified)
        return Calibration(values[0], info, None, None if rectified else distortion_remark(info))
    except CameraInfoError as error:
        if fallback_hfov <= 0:
            return Calibration(None, None, str(error))
        focal = size[1] / 2 / math.tan(math.radians(fallback_hfov) / 2)
        made, text = pinhole(focal, size), f"{error}; a field of view of {fallback_hfov:g} degrees is assumed"
        # Without any calibration that is what was asked for.
        return Calibration(focal, made, None, text) if info is None else Calibration(focal, made, text)


def distortion_remark(info: CameraInfo) -> str | None:
    """What to know of pictures that are taken for not rectified, where that makes a difference."""
    focal, straight = float(info.k[0]), float(info.p[0])
    differs = focal > 0 and straight > 0 and abs(straight / focal - 1) > _SAME_FOCAL
    if not differs and not any(abs(value) > _NO_DISTORTION for value in info.d):
        return None
    said = f"pictures are taken for not rectified: depth goes by K (fx {focal:g}"
    said += f", in P {straight:g})" if differs else "), and follows the lens's distortion"
    return f"{said}; subscribe to rectified ones, or, if these are, set the camera's parameter camera_matrix to P"


def pinhole(focal: float, size: tuple[int, int]) -> CameraInfo:
    """CameraInfo of an ideal camera: square pixels, centred, without distortion. size: (height, width)."""
    height, width = size
    cx, cy = (width - 1) / 2, (height - 1) / 2
    made = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5)
    made.k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
    made.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    made.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return made


def scaled_info(info: CameraInfo, size: tuple[int, int], frame_size: tuple[int, int]) -> CameraInfo:
    """The CameraInfo of an output of `size` (height, width) made from frames of `frame_size`; header left empty.

    K and P are cut and scaled about pixel centres, so that no region of interest or binning is left; distortion and
    rectification stay, they do not depend on resolution. What of K, P and R is zero is filled in from the other.
    """
    shown = window(info, frame_size)
    sx, sy = shown.sx * size[1] / shown.width, shown.sy * size[0] / shown.height
    shown = shown._replace(sx=sx, sy=sy)
    made = CameraInfo(height=size[0], width=size[1], distortion_model=info.distortion_model, d=info.d, r=info.r)
    k, p = list(info.k), list(info.p)
    if k[0]:
        k[0], k[4], k[2], k[5] = shown.intrinsics(k[0], k[4], k[2], k[5])
        k[1] *= sx
    if p[0]:
        p[0], p[5], p[2], p[6] = shown.intrinsics(p[0], p[5], p[2], p[6])
        p[1], p[3], p[7] = p[1] * sx, p[3] * sx, p[7] * sy
    # One that was not filled in would be divided by (depth_image_proc takes P).
    if k[0] and not p[0]:
        p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:9], 0.0]
    elif p[0] and not k[0]:
        k = [*p[:3], *p[4:7], *p[8:11]]
    if not any(made.r):
        made.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    made.k, made.p = k, p
    return made
