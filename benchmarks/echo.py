"""The transport's floor: a picture to another process and back over DDS, with nothing done to it.

What a perception node cannot beat: the same QoS and the same way of building messages as the node's, no network.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from mila_ros.evaluation.processes import Team
from mila_ros.images import decode_color, image_fields
from mila_ros.ros.cameras_in import INPUT_QOS
from mila_ros.ros.support import interruptible
from mila_ros.ros.topics_out import OUTPUT_QOS

IN, OUT = "/echo/in", "/echo/out"
_START_TIMEOUT = 120.0
_SETTLING = 5  # pictures
_SERVE = "from benchmarks.echo import serve; serve()"


def serve() -> None:
    """In a process of its own: send back each picture, in a message newly made, under its own header."""
    stopped = threading.Event()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("echo")
    publisher = node.create_publisher(Image, OUT, OUTPUT_QOS)

    def answer(message: Image) -> None:
        publisher.publish(Image(header=message.header, **image_fields(decode_color(message), "rgb8")))

    node.create_subscription(Image, IN, answer, INPUT_QOS)
    with interruptible(stopped):
        while not stopped.is_set():
            rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    rclpy.try_shutdown()


def round_trips(height: int, width: int, rate: float, seconds: float) -> tuple[list[float], int]:
    """Milliseconds of each picture's way there and back, and how many did not come back.

    Raises:
        UserError: the echo node did not start.
    """
    domain = random.randint(1, 101)
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    with tempfile.TemporaryDirectory() as logs, Team(Path(logs), environment) as team:
        echo = team.start("echo", [sys.executable, "-c", _SERVE])
        with _Sender(domain) as sender:
            team.wait(sender.connected, [echo], _START_TIMEOUT, "the echo node")
            # The other side may learn of this publisher a moment later.
            sender.spin_until(time.monotonic() + 0.5)
            sender.send(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8), rate, seconds)
            sender.spin_until(time.monotonic() + 0.5)
    trips = [(sender.arrivals[number] - at) * 1e-6 for number, at in sender.sent.items() if number in sender.arrivals]
    return trips[_SETTLING:], len(sender.sent) - len(trips)


class _Sender:
    """Publishes pictures and notes when they come back. A context manager."""

    def __init__(self, domain: int) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("echo_bench", context=self._context)
        self._publisher = self._node.create_publisher(Image, IN, QoSProfile(depth=10))
        self._node.create_subscription(Image, OUT, self._arrive, QoSProfile(depth=10))
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self.sent: dict[int, int] = {}
        self.arrivals: dict[int, int] = {}
        """Number of the picture -> ns of the monotonic clock."""

    def connected(self) -> bool:
        return bool(self._publisher.get_subscription_count() and self._node.count_publishers(OUT))

    def send(self, picture: npt.NDArray[np.uint8], rate: float, seconds: float) -> None:
        message = Image(**image_fields(picture, "rgb8"))
        begin = time.monotonic()
        for number in range(round(rate * seconds)):
            self.spin_until(begin + number / rate)
            message.header.stamp.nanosec = number
            self.sent[number] = time.monotonic_ns()
            self._publisher.publish(message)

    def spin_until(self, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def _arrive(self, message: Image) -> None:
        self.arrivals[message.header.stamp.nanosec] = time.monotonic_ns()

    def __enter__(self) -> _Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)
