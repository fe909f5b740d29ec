"""`mila play`: publishes a recording, a video file or a webcam as camera topics, at its own rate.

For machines without a ROS installation (which has `ros2 bag play`), and for measuring: --log notes when each
picture was published, on the clock that `mila record` notes arrivals with.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from mila_ros.errors import UserError
from mila_ros.ros.pacing import Pacer, Restamper, header_stamp, with_stamp
from mila_ros.ros.sources import CameraNames, Source, is_image, open_source
from mila_ros.ros.support import interruptible, message_class
from mila_ros.runtime.pauses import without_long_pauses
from mila_ros.worlds.bags import BagTruncated, RawMessage, stamp_of

DELIVERY_S = 2.0  # how long the end waits for subscribers that are slow to take the last messages
LATE_NS = 5_000_000
"""A message published this long after its time counts as late."""
_LOG = logging.getLogger(__name__)


@dataclass
class Report:
    """What was played."""

    source: str
    image_topic: str
    frames: int = 0
    """Pictures published on image_topic."""
    messages: int = 0
    duration_s: float = 0.0
    late: int = 0
    worst_late_ms: float = 0.0
    skipped_topics: tuple[str, ...] = ()
    truncated: str | None = None


@dataclass
class _Outlet:
    """A publisher, and whether its messages begin with a header."""

    publisher: Publisher
    stamped: bool
    image: bool


class Player(Node):
    """Publishes a source's messages as they are, serialised; only stamps are rewritten, where wanted.

    stamp_now: header stamps are moved to the present. log: JSON lines, one a picture (topic, stamp_ns, published_ns on
    the monotonic clock).
    """

    def __init__(self, source: Source, *, rate: float, stamp_now: bool, log: TextIO | None = None) -> None:
        super().__init__("player", start_parameter_services=False)
        self._source, self._log = source, log
        self.stopped = threading.Event()
        self._pacer = Pacer(rate, time.monotonic_ns, time.sleep, self.stopped.is_set)
        self._restamper = Restamper(rate, time.time_ns) if stamp_now else None
        self.report = Report(source.describe(), source.image_topic)
        self._outlets = self._advertise()

    def wait_for_subscribers(self, count: int, timeout_s: float) -> None:
        """Returns once `count` nodes subscribe to the pictures. Raises UserError where they do not within timeout_s."""
        if self._source.image_topic not in self._outlets:
            raise UserError(f"nobody can subscribe to {self._source.image_topic}: --topics leaves it out")
        publisher = self._outlets[self._source.image_topic].publisher
        deadline = time.monotonic() + timeout_s
        while (found := publisher.get_subscription_count()) < count and not self.stopped.is_set():
            if time.monotonic() > deadline:
                raise UserError(
                    f"{found} of {count} subscribers to {publisher.topic_name} within {timeout_s:g} s: "
                    "does the node run, with this topic and in this ROS_DOMAIN_ID?"
                )
            time.sleep(0.05)
        # The other side may learn of this publisher a moment later; what is published before is lost to it.
        time.sleep(0.3)

    def play(self, loop: bool) -> Report:
        """Plays the source once or until `stopped`. Raises BagTruncated after the last readable message."""
        begin = time.monotonic()
        try:
            while not self.stopped.is_set():
                self._once()
                if not loop:
                    break
        except BagTruncated as error:
            self.report.truncated = str(error)
            raise
        finally:
            self.report.duration_s = time.monotonic() - begin
            self._deliver()
        return self.report

    def _deliver(self) -> None:
        """Waits until reliable subscribers have everything: a publisher that ends takes its last messages along."""
        deadline = time.monotonic() + DELIVERY_S
        for outlet in self._outlets.values():
            left = deadline - time.monotonic()
            if self.stopped.is_set() or left <= 0:
                return
            outlet.publisher.wait_for_all_acked(Duration(seconds=left))

    def publish_clock(self, hz: float) -> None:
        """Publishes recorded time on /clock from a thread, until `stopped`."""
        publisher = self.create_publisher(Clock, "/clock", 1)
        pacer = self._pacer

        def run() -> None:
            due, message = time.monotonic(), Clock()
            while not self.stopped.wait(max(0.0, due - time.monotonic())):
                due += 1 / hz
                now = pacer.now()
                if now is not None:
                    message.clock.sec, message.clock.nanosec = divmod(now, 1_000_000_000)
                    with contextlib.suppress(InvalidHandle):  # the node is going away
                        publisher.publish(message)

        threading.Thread(target=run, name="clock", daemon=True).start()

    def _once(self) -> None:
        for index, message in enumerate(self._source.messages()):
            if index == 0 and not self._source.live:
                self._pacer.restart(message.time_ns)
                if self._restamper:
                    self._restamper.restart()
            outlet = self._outlets.get(message.topic)
            if outlet is None:
                continue
            late = 0 if self._source.live else self._pacer.wait(message.time_ns)
            if self.stopped.is_set():
                return
            self._publish(outlet, message)
            self.report.worst_late_ms = max(self.report.worst_late_ms, late * 1e-6)
            self.report.late += late > LATE_NS

    def _publish(self, outlet: _Outlet, message: RawMessage) -> None:
        data = message.data
        if self._restamper and outlet.stamped:
            data = with_stamp(data, self._restamper.moved(stamp_of(message)))
        published_ns = time.monotonic_ns()
        outlet.publisher.publish(data)
        self.report.messages += 1
        if outlet.image:
            self.report.frames += message.topic == self._source.image_topic
            if self._log:
                line = {"topic": message.topic, "stamp_ns": header_stamp(data), "published_ns": published_ns}
                self._log.write(json.dumps(line) + "\n")

    def _advertise(self) -> dict[str, _Outlet]:
        outlets, unknown = {}, dict[str, list[str]]()
        for name, info in self._source.topics.items():
            message = message_class(info.msgtype)
            if message is None:
                self.report.skipped_topics += (name,)
                unknown.setdefault(info.msgtype, []).append(name)
                continue
            durability = DurabilityPolicy.TRANSIENT_LOCAL if info.latched else DurabilityPolicy.VOLATILE
            # Reliable matches every subscriber; the standard QoS parameters make it best-effort, as many cameras are.
            profile = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=10,
                reliability=ReliabilityPolicy.RELIABLE,
                durability=durability,
            )
            fields = list(message.get_fields_and_field_types().values())
            stamped = bool(fields) and fields[0] == "std_msgs/Header"
            publisher = self.create_publisher(
                message, name, profile, qos_overriding_options=QoSOverridingOptions.with_default_policies()
            )
            outlets[name] = _Outlet(publisher, stamped, is_image(info.msgtype))
        for msgtype, names in unknown.items():
            _LOG.info("not played, since %s is not installed: %s", msgtype, ", ".join(names))
        return outlets


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mila play", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("source", help="rosbag2 folder, .mcap, .db3, .bag (ROS 1), video file, or camera:N for a webcam")
    add("--rate", type=float, default=1.0, metavar="X", help="how much faster than recorded (default 1)")
    add("--loop", action="store_true", help="begin again at the end, until interrupted")
    add(
        "--stamp",
        choices=("bag", "now"),
        help="header stamps as recorded (default for recordings) or moved to the present (default otherwise)",
    )
    add(
        "--clock",
        type=float,
        nargs="?",
        const=40.0,
        metavar="HZ",
        help="publish recorded time on /clock (default 40 Hz)",
    )
    add("--topics", nargs="+", default=(), metavar="TOPIC", help="of a recording, play only these")
    add("--color-topic", metavar="TOPIC", help="of a recording, the camera, where it is not found by itself")
    add("--delay-until-subscribers", type=int, default=0, metavar="N", help="wait for N subscribers to the pictures")
    add("--wait-timeout", type=float, default=60.0, metavar="S", help="give up waiting for them after S seconds (60)")
    add("--log", type=Path, metavar="FILE", help="JSON lines: when each picture was published (monotonic clock)")
    add("--report", type=Path, metavar="FILE", help="JSON: what was played, how many messages were late")
    camera = parser.add_argument_group("video files and webcams")
    names = CameraNames()
    camera.add_argument("--fov", type=float, default=names.fov_deg, help="horizontal field of view, degrees (60)")
    camera.add_argument("--size", metavar="WxH", help="size of the published pictures (default: as they come)")
    camera.add_argument("--image-topic", default=names.image_topic, help=f"default {names.image_topic}")
    camera.add_argument(
        "--camera-info-topic", default=names.camera_info_topic, help=f"default {names.camera_info_topic}"
    )
    camera.add_argument("--frame-id", default=names.frame_id, help=f"default {names.frame_id}")
    return parser


def _camera_names(options: argparse.Namespace) -> CameraNames:
    size = None
    if options.size:
        parts = options.size.lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise UserError(f"--size {options.size}: write it as WIDTHxHEIGHT, for example 640x480")
        size = (int(parts[0]), int(parts[1]))
    return CameraNames(options.image_topic, options.camera_info_topic, options.frame_id, options.fov, size)


def main(argv: list[str]) -> int:
    """Plays a source; exit status 0.

    Raises UserError: no such source, nobody subscribes, a truncated recording (after everything readable was played).
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    options = _parser().parse_args(remove_ros_args(argv))
    if not 0.01 <= options.rate <= 100:
        raise UserError(f"--rate {options.rate:g}: between 0.01 and 100")
    if options.clock is not None and not 0.1 <= options.clock <= 1000:
        raise UserError(f"--clock {options.clock:g}: between 0.1 and 1000 Hz")
    source = open_source(options.source, _camera_names(options), options.color_topic, options.topics)
    stamp_now = options.stamp == "now" or (options.stamp is None and source.restamp)
    if options.clock is not None and (stamp_now or source.live):
        source.close()
        raise UserError("--clock publishes recorded time, which stamps of the present do not fit: use --stamp bag")
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    with contextlib.ExitStack() as stack:
        stack.callback(rclpy.try_shutdown)
        stack.callback(source.close)
        log = stack.enter_context(options.log.open("w")) if options.log else None
        player = Player(source, rate=options.rate, stamp_now=stamp_now, log=log)
        stack.callback(player.destroy_node)
        stack.callback(player.stopped.set)
        stack.enter_context(interruptible(player.stopped))
        print(f"playing {source.describe()}", flush=True)
        if options.clock is not None:
            player.publish_clock(options.clock)
        if options.delay_until_subscribers:
            player.wait_for_subscribers(options.delay_until_subscribers, options.wait_timeout)
        without_long_pauses()
        try:
            player.play(options.loop)
        finally:
            _tell(player.report, options.report)
    return 0


def _tell(report: Report, file: Path | None) -> None:
    print(
        f"played {report.frames} frames, {report.messages} messages in {report.duration_s:.1f} s; "
        f"{report.late} late, the worst by {report.worst_late_ms:.1f} ms",
        flush=True,
    )
    if file:
        file.write_text(json.dumps(asdict(report), indent=1) + "\n")
