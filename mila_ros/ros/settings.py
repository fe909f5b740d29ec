"""The node's parameters at one moment, checked and ready for use (parameters.py declares and watches them)."""

from __future__ import annotations

from dataclasses import dataclass

COMPRESSED_SUFFIX = "/compressed"
"""What image_transport adds to the name of a topic whose pictures it compresses."""


@dataclass(frozen=True)
class CameraSettings:
    """Parameters of one camera, ready for use."""

    name: str
    image_topic: str
    info_topic: str
    compressed: bool
    follows: bool  # whether the other of raw and compressed is taken where only that is published
    fallback_hfov: float  # degrees; 0: none
    rectified: bool  # whether its pictures are


@dataclass(frozen=True)
class Settings:
    """All parameters at one moment."""

    autostart: bool
    cameras: tuple[CameraSettings, ...]
    model: str
    tasks: tuple[str, ...]
    device: str
    precision: str
    backend: str
    threads_fast: int
    threads_slow: int
    threads_slow_niceness: int
    mode: str
    keyframe_period: float
    keyframe_longest_period: float
    keyframe_early: float
    keyframe_max_age: float
    output_scale: float
    max_pixels: int
    depth_encoding: str
    confidence: bool
    deadline: float  # ms
    batch_window: float  # ms
    device_share: float
    skip_order: tuple[str, ...]
    stale_after: float
    points_stride: int
    obstacles_leave_out: tuple[str, ...]
    view_max_depth: float
    view_opacity: float

    def camera(self, name: str) -> CameraSettings:
        """The camera of this name."""
        return next(camera for camera in self.cameras if camera.name == name)
