"""For the tests of the node: start it as a process of its own, talk to it over DDS, take it down."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from mila_ros.msg import CameraBudget, ComputeBudget
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from mila_ros.images import image_fields
from mila_ros.models.checkpoint import save_model
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila

# Generous: on a busy machine, importing PyTorch alone takes half a minute.
START_SECONDS = 150.0
WAIT_SECONDS = 45.0

RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

TASKS = ("segmentation", "depth", "normals")
OUT = "/perception/front"
IMAGE, INFO = "/camera/color/image_raw", "/camera/color/camera_info"
"""Of the node that conftest.py starts."""


def tiny_checkpoint(folder: Path, tasks: tuple[str, ...] = ("segmentation", "depth", "normals")) -> Path:
    """A network of random weights, the same each time."""
    torch.manual_seed(0)
    path = folder / "tiny.safetensors"
    save_model(Mila(ModelConfig.tiny(tasks)), path)
    return path


class NodeProcess:
    """`mila node ARGUMENTS` as a process; its log is kept."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mila_ros.cli", "node", *arguments], stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> int:
        """SIGINT; the exit status."""
        if self.running():
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


class Peer:
    """A node in this process, spun by a thread: publishes frames, keeps what arrives, calls services."""

    def __init__(self, name: str = "peer") -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.received: dict[str, list[Any]] = defaultdict(list)
        self._subscriptions: dict[str, Any] = {}
        self._publishers: dict[tuple[str, int], Any] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._stopped.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def listen(self, kind: type, topic: str, qos: QoSProfile = RELIABLE) -> list[Any]:
        """Subscribe; the list grows as messages arrive."""
        if topic not in self._subscriptions:
            self._subscriptions[topic] = self.node.create_subscription(kind, topic, self.received[topic].append, qos)
        return self.received[topic]

    def deaf(self, topic: str) -> None:
        """End a subscription."""
        self.node.destroy_subscription(self._subscriptions.pop(topic))
        self.received.pop(topic, None)

    def publish(self, topic: str, message: Any, qos: QoSProfile = RELIABLE) -> None:
        """Publish, the first time after the node's subscription was found."""
        key = (topic, int(qos.reliability))
        if key not in self._publishers:
            publisher = self.node.create_publisher(type(message), topic, qos)
            self._publishers[key] = publisher
            wait(lambda: publisher.get_subscription_count() > 0, f"a subscription of {topic}")
        self._publishers[key].publish(message)

    def heard(self, topic: str) -> bool:
        """Whether a publisher of the topic was found (so that nothing sent from now on is missed)."""
        return self.node.count_publishers(topic) > 0

    def call(self, kind: type, service: str, request: Any) -> Any:
        client = self.node.create_client(kind, service)
        try:
            assert client.wait_for_service(timeout_sec=START_SECONDS), f"no service {service}"
            future = client.call_async(request)
            wait(future.done, f"an answer of {service}", START_SECONDS)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def set_parameter(self, name: str, value: float | str, node: str = "/perception") -> Any:
        if isinstance(value, str):
            typed = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
        elif isinstance(value, int):
            typed = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
        else:
            typed = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=typed)])
        return self.call(SetParameters, f"{node}/set_parameters", request).results[0]

    def describe(self, names: list[str], node: str = "/perception") -> list[Any]:
        request = DescribeParameters.Request(names=names)
        return self.call(DescribeParameters, f"{node}/describe_parameters", request).descriptors

    def change_state(self, transition: int, node: str = "/perception") -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(ChangeState, f"{node}/change_state", request).success

    def state(self, node: str = "/perception") -> str:
        return self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label

    def budgets(self, node: str = "/perception") -> list[ComputeBudget]:
        return self.listen(ComputeBudget, f"{node}/budget")

    def status(self, name: str) -> Any:
        """The newest diagnostic status of this name."""
        arrays: list[DiagnosticArray] = self.listen(DiagnosticArray, "/diagnostics")
        found = [status for array in arrays for status in array.status if status.name == name]
        return found[-1] if found else None


def wait(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Wait until the condition holds; its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.02)
    return value


def frame(number: int, width: int = 128, height: int = 96, encoding: str = "rgb8", frame_id: str = "optical") -> Image:
    """A picture whose stamp is `number` tenths of a second."""
    pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
    message = Image(**image_fields(pixels, encoding))
    message.header.frame_id = frame_id
    message.header.stamp.sec, message.header.stamp.nanosec = number // 10, (number % 10) * 100_000_000
    return message


def camera_info(width: int = 128, height: int = 96, focal: float = 100.0) -> CameraInfo:
    """An ideal camera's."""
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [focal, 0.0, (width - 1) / 2, 0.0, focal, (height - 1) / 2, 0.0, 0.0, 1.0]
    info.p = [focal, 0.0, (width - 1) / 2, 0.0, 0.0, focal, (height - 1) / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def stamp(message: Any) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def exchange(
    peer: Peer,
    message: Any,
    topic: str = IMAGE,
    out: str = f"{OUT}/depth/image",
    qos: QoSProfile | None = None,
    info: CameraInfo | None = None,
) -> Image:
    """Publish a frame until its answer is there (a best-effort subscription may miss one); the answer.

    As drivers do, each frame of the camera front comes with its camera_info.
    """
    answers = peer.listen(Image, out)
    wait(lambda: peer.heard(out), f"the publisher of {out}")
    end = time.monotonic() + 45
    while time.monotonic() < end:
        if topic == IMAGE:
            peer.publish(INFO, info or camera_info(message.width, message.height))
        peer.publish(topic, message, *(() if qos is None else (qos,)))
        until = time.monotonic() + 1
        while time.monotonic() < until:
            for answer in list(answers):
                if stamp(answer) == stamp(message):
                    return answer
            time.sleep(0.01)
    raise AssertionError(f"no answer on {out}")


def status(peer: Peer, camera: str) -> Any:
    """The camera's newest diagnostic status."""
    return wait(lambda: peer.status(f"perception: camera {camera}"), "diagnostics")


def counters(peer: Peer) -> CameraBudget:
    """The counters of the camera front, from a budget that is newer than this call."""
    budgets = peer.budgets()
    seen = len(budgets)
    wait(lambda: len(budgets) > seen, "a budget")
    return budgets[-1].cameras[0]
