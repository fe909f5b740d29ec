"""The recording that stays: the node's outputs with the camera's pictures and pictures for people beside them.

Foxglove shows `mono8` and `32FC1`, but not the three floats of normals, and wants the camera's picture to compare with.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from mila_ros.evaluation import pictures
from mila_ros.evaluation.moments import Answers, Moment
from mila_ros.worlds.bag_storage import Storage
from mila_ros.worlds.bag_writer import BagWriter
from mila_ros.worlds.bags import stamp_of

_FORMAT = "rgb8; jpeg compressed bgr8"


class OutputBag:
    """Writes a rosbag2 folder (MCAP). A context manager.

    Args:
        path: the folder; it must not exist.
        node: full name of the node.
        camera: its name in the node.
        image_topic: of the camera.
        table: class colours by id.
    """

    def __init__(self, path: Path, node: str, camera: str, image_topic: str, table: pictures.Rgb) -> None:
        self._bag = BagWriter(path, compress=True)
        self._base = f"{node}/{camera}"
        self._picture_topic = image_topic.removesuffix("/compressed") + "/compressed"
        self._table = table

    def add(self, answers: Answers, moment: Moment, farthest: float) -> None:
        """A frame: outputs as they were recorded, the camera's picture and one view a task. farthest: metres."""
        newest = 0
        for task, message in answers.raw.items():
            if task != "picture":
                self._bag.write(message.topic, message.msgtype, message.time_ns, message.data)
                newest = max(newest, message.time_ns)
        self._picture(self._picture_topic, moment.rgb, moment.stamp_ns, newest)
        for task, pixels in moment.answers.items():
            topic = f"{self._base}/{task}/view/compressed"
            self._picture(
                topic, pictures.task_picture(task, pixels, moment.rgb, self._table, farthest), moment.stamp_ns, newest
            )

    def copy_rest(self, storage: Storage, stamps: set[int]) -> None:
        """Everything else that was recorded: budget, diagnostics, names of classes, calibration of these stamps."""
        others = [name for name, info in storage.topics.items() if not info.msgtype.startswith("sensor_msgs/msg/Im")]
        for message in storage.messages(others):
            if message.msgtype == "sensor_msgs/msg/CameraInfo" and stamp_of(message) not in stamps:
                continue
            self._bag.write(message.topic, message.msgtype, message.time_ns, message.data)

    def _picture(self, topic: str, picture: pictures.Rgb, stamp_ns: int, time_ns: int) -> None:
        messages = self._bag.messages
        message = messages.compressed_image(pictures.jpeg(picture), _FORMAT, stamp_ns, "")
        self._bag.write_message(topic, message, time_ns)

    def __enter__(self) -> OutputBag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bag.close()
