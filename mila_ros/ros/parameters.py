"""The node's parameters: declared with description, range and permission, checked, and read as one value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from mila_ros.camera_info import is_rectified
from mila_ros.errors import UserError, did_you_mean
from mila_ros.images import MAX_PIXELS
from mila_ros.models.config import TASKS
from mila_ros.ros.settings import COMPRESSED_SUFFIX, CameraSettings, Settings
from mila_ros.ros.support import topic_problem
from mila_ros.runtime.devices import BACKENDS, PRECISIONS
from mila_ros.runtime.pipeline import MODES
from mila_ros.runtime.scene import FALL

TRANSPORTS = ("auto", "raw", "compressed")
MATRICES = ("auto", "K", "P")
DEPTH_ENCODINGS = ("32FC1", "16UC1")
# A camera's name is a part of topic and parameter names; these already mean something there.
RESERVED = ("keyframe", "threads", "points", "obstacles", "view", "qos_overrides", "budget")
# The camera of config/perception.yaml.
_SHIPPED = tuple(
    f"front.{key}" for key in ("image_topic", "camera_info_topic", "transport", "camera_matrix", "fallback_hfov")
)


@dataclass(frozen=True)
class Setting:
    """One parameter. `low..high` and `choices` bound it; a fixed one cannot be changed while the node runs."""

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    fixed: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """As rclpy wants it."""
        made = ParameterDescriptor(
            name=self.name,
            description=self.description,
            read_only=self.fixed,
            # Otherwise rclpy refuses `ros2 param set ... 1` before anybody can take it for 1.0.
            dynamic_typing=isinstance(self.default, float),
            additional_constraints=f"one of {', '.join(self.choices)}" if self.choices else "",
        )
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                made.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
            else:
                made.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
        return made

    def accepts(self, type_: Parameter.Type) -> bool:
        """Whether a value of this type can be meant: the default's own, and whole numbers for any number."""
        own = Parameter.Type.from_parameter_value(self.default)
        return type_ == own or (own == Parameter.Type.DOUBLE and type_ == Parameter.Type.INTEGER)

    def complaint(self, value: Any) -> str | None:
        """Why the value cannot be, in a sentence; None if it can."""
        if self.name == "skip_order" and (strange := set(value) - {"", *TASKS}):
            return f"{self.name} names {', '.join(sorted(strange))}; use some of {', '.join(TASKS)}"
        if self.choices and value not in self.choices:
            return f'{self.name} is "{value}"; use one of {", ".join(self.choices)}'
        if isinstance(value, float) and not math.isfinite(value):
            return f"{self.name} is {value}; give a number"
        if self.low is not None and self.high is not None and not self.low <= value <= self.high:
            return f"{self.name} is {value}; it must lie between {self.low:g} and {self.high:g}"
        return None


SETTINGS = (
    Setting("autostart", True, "Configure and activate by itself; false: wait for lifecycle transitions.", fixed=True),
    Setting("cameras", ["front"], "Names of the cameras; each has parameters and topics of its own.", fixed=True),
    Setting("model", "indoor", "Name of a shipped model, or a checkpoint file (.safetensors).", fixed=True),
    Setting(
        "tasks",
        ["segmentation", "depth", "normals"],
        "Tasks to offer; each must be one of the model's. Only those with a subscriber are computed.",
        fixed=True,
    ),
    Setting("device", "auto", "auto (first GPU, else CPU), cpu, cuda or cuda:N.", fixed=True),
    Setting(
        "precision",
        "auto",
        "Arithmetic of the networks; auto: bf16 where the hardware has it, else fp16 on a GPU, fp32 on a CPU.",
        choices=PRECISIONS,
        fixed=True,
    ),
    Setting(
        "backend",
        "auto",
        "What runs the networks: eager (PyTorch), openvino (CPU), onnxruntime (GPU, by TensorRT where it is found), "
        "compile (GPU, PyTorch's compiler, minutes the first time); "
        "auto: openvino on an x86 CPU where it is installed, else eager.",
        choices=BACKENDS,
        fixed=True,
    ),
    Setting(
        "threads.fast",
        0,
        "CPU threads that answer frames; 0: the cores that the slow network leaves.",
        0,
        256,
        fixed=True,
    ),
    Setting("threads.slow", 0, "CPU threads of the slow network beside them; 0: half the cores.", 0, 256, fixed=True),
    Setting(
        "threads.slow_niceness",
        5,
        "How far the slow network gives way to the frames on a CPU; 0: not at all, 19: to everything.",
        0,
        19,
        fixed=True,
    ),
    Setting(
        "mode",
        "asynchronous",
        "asynchronous: the slow network runs beside the frames; synchronous: a keyframe waits for it.",
        choices=MODES,
    ),
    Setting("keyframe.period", 0.333, "Seconds between keyframes; 0: every frame.", 0.0, 60.0),
    Setting(
        "keyframe.longest_period",
        2.0,
        "Seconds to which the budget may stretch keyframe.period; not above it: never.",
        0.0,
        60.0,
    ),
    Setting(
        "keyframe.early",
        FALL,
        "Fall of the match between frame and keyframe (~/budget) at which the next one is taken early; 0: never.",
        0.0,
        1.0,
    ),
    Setting("keyframe.max_age", 5.0, "Seconds after which a keyframe is no longer used.", 0.1, 600.0),
    Setting("output_scale", 0.5, "Size of the outputs as a share of the camera's picture, after max_pixels.", 0.1, 1.0),
    Setting(
        "max_pixels",
        307_200,
        "Larger frames are shrunk to this many pixels first, which bounds the outputs, too (307200 is 640x480).",
        16_384,
        MAX_PIXELS,
    ),
    Setting("depth_encoding", "32FC1", "32FC1: metres; 16UC1: millimetres, 0 unknown.", choices=DEPTH_ENCODINGS),
    Setting("confidence", True, "Offer segmentation's confidence (0..1, 32FC1) as a topic.", fixed=True),
    Setting(
        "deadline", 100.0, "Milliseconds from a frame's arrival to its last output; above it counts as late.", 1.0, 60e3
    ),
    Setting(
        "batch_window",
        1.0,
        "Milliseconds for which a GPU waits for other cameras' frames, to answer them together.",
        0.0,
        100.0,
    ),
    Setting(
        "device_share",
        1.0,
        "Share of the device's time (the GPU; or all CPU cores) to stay within, by stretching the keyframe period.",
        0.05,
        1.0,
    ),
    Setting(
        "skip_order",
        [""],
        "Tasks that may be left out where the longest keyframe period is not enough, the first one first; empty: none.",
    ),
    Setting("stale_after", 2.0, "Seconds without a frame after which a camera is reported as stale.", 0.1, 600.0),
    Setting("points.stride", 2, "Every how many rows and columns of the outputs a point is sent on points.", 1, 16),
    Setting(
        "obstacles.leave_out",
        [""],
        "Classes whose points are not among the obstacles; empty: floors and roads, by their names.",
        fixed=True,
    ),
    Setting("view.max_depth", 10.0, "Metres at the far end of the depth picture's colours.", 0.1, 1000.0),
    Setting("view.opacity", 0.6, "How far class colours cover the camera's picture; 1: wholly.", 0.0, 1.0),
)


def camera_settings(camera: str, first: bool) -> tuple[Setting, ...]:
    """The parameters of one camera. The first has the topics that most camera drivers use."""
    # Without a slash in front, so that they are the namespace's.
    image_topic = "camera/color/image_raw" if first and camera == "front" else f"{camera}/image_raw"
    return (
        Setting(
            f"{camera}.image_topic",
            image_topic,
            'Its pictures, named without the "/compressed" of the transport.',
            fixed=True,
        ),
        Setting(
            f"{camera}.camera_info_topic",
            "",
            "Its calibration; empty: camera_info beside the image topic.",
            fixed=True,
        ),
        Setting(
            f"{camera}.transport",
            "auto",
            "raw: Image; compressed: CompressedImage, on <image_topic>/compressed; auto: raw, or compressed where only "
            "that is published.",
            choices=TRANSPORTS,
            fixed=True,
        ),
        Setting(
            f"{camera}.camera_matrix",
            "auto",
            "Which matrix of camera_info its pictures go by: P where they are rectified, else K; auto: as the topic's "
            "name says (image_rect, rect/image: P).",
            choices=MATRICES,
            fixed=True,
        ),
        Setting(
            f"{camera}.fallback_hfov",
            0.0,
            "Horizontal field of view in degrees for a camera without usable camera_info; depth is then only as right "
            "as this number. 0: such a camera gets no depth.",
            0.0,
            170.0,
        ),
    )


class Parameters:
    """Declares the parameters on a node and keeps `settings` up to date.

    Args:
        node: their owner.
        on_change: called with the old and the new `settings` when they have changed.

    Raises:
        UserError: a value given at the start is of the wrong type or out of its range.
    """

    def __init__(self, node: LifecycleNode, on_change: Callable[[Settings, Settings], None]) -> None:
        self._node = node
        self._on_change = on_change
        self._settings_of: dict[str, Setting] = {}
        self._declare(SETTINGS)
        cameras = node.get_parameter("cameras").value  # as it was given: twice the same is a mistake
        for index, camera in enumerate(check_cameras(cameras)):
            self._declare(camera_settings(camera, index == 0))
        self.settings = self._read()
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._changed)

    def _declare(self, settings: Iterable[Setting]) -> None:
        for setting in settings:
            self._settings_of[setting.name] = setting
            try:
                declared = self._node.declare_parameter(setting.name, setting.default, setting.descriptor())
            except InvalidParameterTypeException as error:
                raise UserError(f"parameter {setting.name} has the wrong type: {_type_hint(setting)}") from error
            except (InvalidParameterValueException, ParameterUninitializedException) as error:
                given = self._overrides().get(setting.name)
                reason = setting.complaint(given.value) if given is not None else None
                raise UserError(f"parameter {reason or error}") from error
            if not setting.accepts(declared.type_):
                raise UserError(f"parameter {setting.name} has the wrong type: {_type_hint(setting)}")
            reason = setting.complaint(declared.value)
            if reason is not None:
                raise UserError(f"parameter {reason}")

    def _overrides(self) -> dict[str, Parameter]:
        return getattr(self._node, "_parameter_overrides", {})

    def unknown(self) -> list[str]:
        """A sentence for each value given at the start whose parameter does not exist (a typing mistake)."""
        declared = set(self._settings_of)
        # Of topics that a camera turns to later (pictures_in.py).
        topics = [
            self._node.resolve_topic_name(camera.image_topic) for camera in self.settings.cameras if camera.follows
        ]
        others = tuple(f"qos_overrides.{topic}{COMPRESSED_SUFFIX}.subscription." for topic in topics)
        said = []
        for name in sorted(self._overrides()):
            if self._node.has_parameter(name):  # of QoS overrides those that a topic of the node has
                continue
            if name.startswith(others):
                continue
            if name in _SHIPPED:
                continue  # cameras of other names with the shipped parameters file
            said.append(f'there is no parameter "{name}"{did_you_mean(name, declared)}')
        return said

    def _value(self, name: str) -> Any:
        value, default = self._node.get_parameter(name).value, self._settings_of[name].default
        if isinstance(default, list):  # "" stands for nothing: a list without values has no type in ROS
            return tuple(dict.fromkeys(each for each in value if each))
        return float(value) if isinstance(default, float) else value

    def _read(self) -> Settings:
        values = {setting.name.replace(".", "_"): self._value(setting.name) for setting in SETTINGS}
        values["cameras"] = tuple(self._read_camera(name) for name in values["cameras"])
        return Settings(**values)

    def _read_camera(self, name: str) -> CameraSettings:
        image_topic, info_topic = self._value(f"{name}.image_topic"), self._value(f"{name}.camera_info_topic")
        transport, matrix = self._value(f"{name}.transport"), self._value(f"{name}.camera_matrix")
        base = image_topic.removesuffix(COMPRESSED_SUFFIX)
        compressed = transport == "compressed" or (transport == "auto" and base != image_topic)
        if not info_topic:
            info_topic = f"{base.rpartition('/')[0]}/camera_info" if "/" in base else "camera_info"
        for key, topic in (("image_topic", base), ("camera_info_topic", info_topic)):
            if reason := topic_problem(topic):
                raise UserError(f'parameter {name}.{key} is "{topic}": {reason}')
        return CameraSettings(
            name=name,
            image_topic=base + COMPRESSED_SUFFIX if compressed else image_topic,
            info_topic=info_topic,
            compressed=compressed,
            follows=transport == "auto" and not compressed,
            fallback_hfov=self._value(f"{name}.fallback_hfov"),
            rectified=is_rectified(base) if matrix == "auto" else matrix == "P",
        )

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            setting = self._settings_of.get(parameter.name)
            if setting is None:
                continue
            if not setting.accepts(parameter.type_):
                return SetParametersResult(successful=False, reason=f"{parameter.name}: {_type_hint(setting)}")
            reason = setting.complaint(parameter.value)
            if reason is not None:
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _changed(self, parameters: list[Parameter]) -> None:
        if any(parameter.name in self._settings_of for parameter in parameters):
            before, self.settings = self.settings, self._read()
            self._on_change(before, self.settings)


def check_cameras(names: Iterable[str]) -> tuple[str, ...]:
    """Camera names that can be parts of topic names.

    Raises:
        UserError: there is none, one twice, or one that cannot be.
    """
    names = tuple(names)
    if not names or not all(names):
        raise UserError("parameter cameras is empty; name at least one camera, for example [front]")
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or "__" in name or name.endswith("_"):
            raise UserError(
                f'camera "{name}": a name has letters, digits and single underscores, and starts with a letter'
            )
        if name in RESERVED or any(name == setting.name for setting in SETTINGS):
            raise UserError(f'camera "{name}": this name is taken by a parameter of the node; choose another one')
    if len(set(names)) < len(names):
        raise UserError(f"parameter cameras names a camera twice: {list(names)}")
    return names


def _type_hint(setting: Setting) -> str:
    if isinstance(setting.default, bool):
        return "it is true or false"
    if isinstance(setting.default, float):
        return "it is a number"
    if isinstance(setting.default, int):
        return "it is a whole number"
    if isinstance(setting.default, list):
        return 'it is a list of words, as in [one, other]; empty: [""]'
    return "it is a word"
