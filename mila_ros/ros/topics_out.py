"""Topics out: one camera's publishers. What nobody subscribes to is not made; headers are the frame's own."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header, String

from mila_ros.camera_info import intrinsics
from mila_ros.images import image_fields
from mila_ros.msg import AnswerInfo
from mila_ros.ros.answer_info import answer_info
from mila_ros.ros.cameras_in import scaled_info
from mila_ros.ros.points_out import point_cloud
from mila_ros.ros.settings import Settings
from mila_ros.ros.views import Rgb, colour_table, depth_view, normals_view, segmentation_view
from mila_ros.runtime.passing import Answer
from mila_ros.worlds.frames import Intrinsics

try:  # in a ROS installation; not among the wheels
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:
    LabelInfo = VisionClass = None

OUTPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
LATCHED_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_MILLIMETRES = 1000.0
_FARTHEST_MM = 65535


class CameraOutputs:
    """One camera's publishers, under `~/<camera>/<task>/...`.

    Args:
        node: their owner.
        camera: its name.
        tasks: those offered.
        classes: names of the classes by id.
        palette: RGB by id; empty: made up.
        confidence: offer segmentation's confidence.
        leave_out: ids of classes that are no obstacles.
    """

    def __init__(
        self,
        node: LifecycleNode,
        camera: str,
        tasks: Sequence[str],
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
        confidence: bool,
        leave_out: Sequence[int] = (),
    ) -> None:
        self._node = node
        self._publishers: list[LifecyclePublisher] = []
        self._classes, self._leave_out = tuple(classes), tuple(leave_out)
        self._table = colour_table(palette, len(classes))
        base = f"~/{camera}"
        self._image = {task: self._publisher(Image, f"{base}/{task}/image") for task in tasks}
        self._info = {task: self._publisher(CameraInfo, f"{base}/{task}/camera_info") for task in tasks}
        self._view = {task: self._publisher(Image, f"{base}/{task}/view") for task in tasks}
        self._clouds: dict[str, LifecyclePublisher] = {}
        if "depth" in tasks:
            self._clouds["points"] = self._publisher(PointCloud2, f"{base}/points")
            if "segmentation" in tasks:
                self._clouds["obstacles"] = self._publisher(PointCloud2, f"{base}/obstacles")
        self._answer_info = self._publisher(AnswerInfo, f"{base}/answer_info")
        self._confidence: LifecyclePublisher | None = None
        self._latched: list[tuple[LifecyclePublisher, Any]] = []
        if "segmentation" in tasks:
            if confidence:
                self._confidence = self._publisher(Image, f"{base}/segmentation/confidence")
            names = self._publisher(String, f"{base}/segmentation/classes", LATCHED_QOS)
            self._latched.append((names, String(data=self._classes_json())))
            if LabelInfo is not None:
                labels = self._publisher(LabelInfo, f"{base}/segmentation/label_info", LATCHED_QOS)
                self._latched.append((labels, self._label_info()))

    def _publisher(self, kind: Any, topic: str, qos: QoSProfile = OUTPUT_QOS) -> LifecyclePublisher:
        overrides = QoSOverridingOptions.with_default_policies()
        # A copy: overrides are written into the profile.
        made = self._node.create_lifecycle_publisher(kind, topic, copy.copy(qos), qos_overriding_options=overrides)
        self._publishers.append(made)
        return made

    def _classes_json(self) -> str:
        entries = [
            {"id": i, "name": name, "color": [int(value) for value in self._table[i]]}
            for i, name in enumerate(self._classes)
        ]
        return json.dumps({"classes": entries, "unlabelled": 255})

    def _label_info(self) -> Any:
        info = LabelInfo()
        info.header.stamp = self._node.get_clock().now().to_msg()
        info.class_map = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(self._classes)]
        return info

    def announce(self) -> None:
        """Publish what is latched: the names of the classes. For when the publishers have become active."""
        for publisher, message in self._latched:
            publisher.publish(message)

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)

    def wants_points(self) -> bool:
        """Whether somebody subscribes to points or obstacles, which take all tasks, and cannot be without depth."""
        return any(_heard(cloud) for cloud in self._clouds.values())

    def wants_obstacles(self) -> bool:
        """Whether somebody subscribes to obstacles, which segmentation tells from the floor."""
        return "obstacles" in self._clouds and _heard(self._clouds["obstacles"])

    def wanted(self, points: bool = True) -> tuple[str, ...]:
        """Tasks of which somebody subscribes to any topic (the latched ones need no work).

        points: count those that the points are made of.
        """
        if points and self.wants_points():
            return tuple(self._image)
        return tuple(
            task
            for task in self._image
            if _heard(self._image[task])
            or _heard(self._info[task])
            or _heard(self._view[task])
            or (task == "segmentation" and self.wants_confidence())
        )

    def wants_confidence(self) -> bool:
        """Whether somebody subscribes to segmentation's confidence."""
        return self._confidence is not None and _heard(self._confidence)

    def publish(
        self,
        header: Header,
        answer: Answer,
        rgb: Rgb,
        info: CameraInfo | None,
        rectified: bool,
        settings: Settings,
    ) -> int:
        """Send an answer to those who subscribe.

        Args:
            header: of the frame that is answered; it is copied into every message.
            answer: what the model said.
            rgb: the frame, for segmentation's view.
            info: the CameraInfo of the frame; None: unknown, so none is sent.
            rectified: whether frames are, so that P tells where their points are, and not K.
            settings: how depth, views and points are made.

        Returns:
            The number of messages sent.
        """
        sent = 0
        by_task = {"segmentation": answer.segmentation, "depth": answer.depth, "normals": answer.normals}
        small = None if info is None else scaled_info(info, answer.size, (rgb.shape[0], rgb.shape[1]))
        for task, pixels in by_task.items():
            if pixels is None or task not in self._image:
                continue
            if _heard(self._image[task]):
                self._image[task].publish(_task_image(header, task, pixels, settings.depth_encoding))
                sent += 1
            if small is not None and _heard(self._info[task]):
                small.header = header
                self._info[task].publish(small)
                sent += 1
            if _heard(self._view[task]):
                view = self._render(task, pixels, rgb, settings)
                self._view[task].publish(_image(header, view, "rgb8"))
                sent += 1
        if answer.confidence is not None and self._confidence is not None and _heard(self._confidence):
            self._confidence.publish(_image(header, answer.confidence, "32FC1"))
            sent += 1
        if answer.depth is not None and small is not None and self.wants_points():
            sent += self._publish_clouds(
                header, answer, Intrinsics(*intrinsics(small, answer.size, rectified)), settings
            )
        return sent

    def _publish_clouds(self, header: Header, answer: Answer, camera: Intrinsics, settings: Settings) -> int:
        sent = 0
        for name, publisher in self._clouds.items():
            if not _heard(publisher) or (name == "obstacles" and answer.segmentation is None):
                continue  # without classes the floor would be an obstacle
            leave_out = self._leave_out if name == "obstacles" else ()
            publisher.publish(point_cloud(header, answer, camera, settings.points_stride, leave_out))
            sent += 1
        return sent

    def inform(self, header: Header, answer: Answer, stages: Mapping[str, float], latency_ms: float) -> None:
        """Say how a frame was answered that has been published, to those who subscribe (`answer_info`)."""
        if _heard(self._answer_info):
            self._answer_info.publish(answer_info(header, answer, stages, latency_ms))

    def _render(self, task: str, pixels: npt.NDArray[Any], rgb: Rgb, settings: Settings) -> Rgb:
        if task == "segmentation":
            return segmentation_view(pixels, self._table, rgb, settings.view_opacity)
        if task == "depth":
            return depth_view(pixels, settings.view_max_depth)
        return normals_view(pixels)


def _heard(publisher: LifecyclePublisher) -> bool:
    return bool(publisher.get_subscription_count())


def _image(header: Header, pixels: npt.NDArray[Any], encoding: str) -> Image:
    return Image(header=header, **image_fields(pixels, encoding))


def _task_image(header: Header, task: str, pixels: npt.NDArray[Any], depth_encoding: str) -> Image:
    if task == "segmentation":
        return _image(header, pixels, "mono8")
    if task == "normals":
        return _image(header, pixels, "32FC3")
    if depth_encoding == "16UC1":
        return _image(header, millimetres(pixels), "16UC1")
    return _image(header, pixels, "32FC1")


def millimetres(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Metres as whole millimetres; 0 where unknown or farther than 16 bits reach (65.5 m)."""
    known = np.isfinite(depth) & (depth > 0)
    whole = np.rint(np.where(known, depth, 0.0) * _MILLIMETRES)
    return np.asarray(np.where(whole <= _FARTHEST_MM, whole, 0.0), dtype=np.uint16)
