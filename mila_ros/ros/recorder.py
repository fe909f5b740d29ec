"""`mila record`: notes when the node's outputs arrive, and keeps them in a recording that Foxglove opens.

Messages are taken serialised and written by a thread of their own, so that noting an arrival costs little. Joined by
stamp with the log of `mila play`, the arrivals give the latency from a picture's publication to its last output.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import queue
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from mila_ros.errors import UserError
from mila_ros.ros.missing import missing_topics
from mila_ros.ros.pacing import header_stamp
from mila_ros.ros.support import interruptible, message_class, topic_problem
from mila_ros.runtime.pauses import without_long_pauses
from mila_ros.worlds.bag_topics import CAMERA_INFO, IMAGE, IMAGE_TYPES
from mila_ros.worlds.bag_writer import BagWriter

TASKS = ("segmentation", "depth", "normals")
_LOG = logging.getLogger(__name__)
# Serialised messages that wait for the disk; further ones are not stored, but their arrival is still noted.
_QUEUE = 128
_DIAGNOSTICS = "/diagnostics"
_LOOK, _SETTLED, _PATIENCE = 0.1, 0.5, 5.0
"""Seconds: between looks at the graph; for which publishers are to be there; after which what is missing is said."""


class Storage:
    """Writes messages to a recording from its own thread; close() completes it."""

    def __init__(self, folder: Path, compress: bool = False) -> None:
        self._writer = BagWriter(folder, compress=compress)
        self._queue: queue.Queue[tuple[str, str, int, bytes] | None] = queue.Queue(_QUEUE)
        self.lost = 0
        """Messages that were not stored because the disk was too slow."""
        self.error: str | None = None
        """Why nothing more is stored, in words."""
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        """Messages stored."""
        return self._writer.count

    def put(self, topic: str, msgtype: str, data: bytes) -> None:
        """Hands a message over; never waits."""
        try:
            self._queue.put_nowait((topic, msgtype, time.time_ns(), data))
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Stores what is left, then writes the index."""
        self._queue.put(None)
        self._thread.join()
        try:
            self._writer.close()
        except OSError as error:
            self.error = self.error or str(error)

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            if self.error is not None:
                continue
            try:
                self._writer.write(*entry)
            except (OSError, UserError) as error:
                self.error = str(error)
                _LOG.error("nothing more is stored: %s", error)


class Recorder(Node):
    """Subscribes to the outputs of a perception node.

    perception: that node's full name, as in /perception. extra: topics to store too, once somebody publishes them,
    beside the tasks' pictures and calibrations, answer_info, budget, /diagnostics and the names of the classes.
    every: of the pictures, store only those of each n-th stamp. view: ask for the pictures for people, too (the node
    renders them only while somebody does).
    """

    def __init__(
        self,
        storage: Storage,
        perception: str,
        cameras: list[str],
        *,
        tasks: list[str],
        extra: list[str],
        every: int = 1,
        view: bool = False,
    ) -> None:
        super().__init__("recorder", start_parameter_services=False)
        self._storage, self._every = storage, every
        self.outputs = [f"{task}/image" for task in tasks]
        self.arrivals: dict[str, dict[int, dict[str, int]]] = {camera: {} for camera in cameras}
        """Camera, stamp in ns, output: arrival in ns of the monotonic clock."""
        self.budgets = 0
        self.last_arrival: float | None = None
        """time.monotonic() of the newest output; None before the first."""
        self.pictures_or_asked = 0
        """Messages of outputs, and of further topics that were asked for: what a recording is made for."""
        self.ready = False
        """Whether every output has had a publisher for half a second: what is published from now on arrives here."""
        self._looks = 0
        self._begin = time.monotonic()
        self._warned = False
        self._perception = perception
        self._reported: list[DiagnosticStatus] = []
        self._order: dict[str, dict[int, int]] = {}
        self._listened: set[str] = set()
        self._budget = f"{perception}/budget"
        # The second where vision_msgs is installed.
        names = ("segmentation/classes", "segmentation/label_info") if "segmentation" in tasks else ()
        self._class_names = [f"{perception}/{camera}/{name}" for camera in cameras for name in names]
        self._reports = {self._budget, _DIAGNOSTICS, *self._class_names} - set(extra)
        for camera in cameras:
            for task in tasks:
                base = f"{perception}/{camera}/{task}"
                self._listen(f"{base}/image", IMAGE, camera, output=f"{task}/image")
                self._listen(f"{base}/camera_info", CAMERA_INFO, camera)
                if view:
                    self._listen(f"{base}/view", IMAGE, camera)
            self._listen(f"{perception}/{camera}/answer_info", "mila_ros/msg/AnswerInfo")
        self._output_topics = [f"{perception}/{camera}/{output}" for camera in cameras for output in self.outputs]
        self._listen(self._budget, "mila_ros/msg/ComputeBudget")
        self._listen(_DIAGNOSTICS, "diagnostic_msgs/msg/DiagnosticArray")
        # Topic -> whose stamps it shares. Their types and QoS are learnt from the graph once somebody publishes them.
        asked = [topic for topic in dict.fromkeys([*extra, *self._class_names]) if topic not in self._listened]
        self._wanted = {topic: cameras[0] if len(cameras) == 1 else topic for topic in asked}
        self.create_timer(_LOOK, self._look_around)

    def _listen(
        self,
        topic: str,
        msgtype: str,
        camera: str | None = None,
        *,
        output: str | None = None,
        profile: QoSProfile | None = None,
    ) -> None:
        """Subscribes. camera: whose stamps the messages carry (None: all are stored); output: note its arrivals."""
        self._listened.add(topic)
        kind = message_class(msgtype)
        if kind is None:
            raise UserError(f"{topic} cannot be recorded: its type {msgtype} is not installed")
        order = self._order.setdefault(camera, {}) if camera else None
        put, meant = self._storage.put, topic not in self._reports

        def arrive(data: bytes) -> None:
            now = time.monotonic_ns()
            if topic == _DIAGNOSTICS:
                self._note(data)
            self.pictures_or_asked += meant
            if order is None:
                self.budgets += topic == self._budget
                put(topic, msgtype, data)
                return
            stamp = header_stamp(data)
            index = order.setdefault(stamp, len(order))
            if output is not None and camera is not None:
                self.arrivals[camera].setdefault(stamp, {}).setdefault(output, now)
                self.last_arrival = now * 1e-9
            if index % self._every == 0:
                put(topic, msgtype, data)

        self.create_subscription(kind, topic, arrive, profile or _profile(), raw=True)

    def _look_around(self) -> None:
        """Watches for the outputs' publishers, and subscribes to wanted topics that have one by now, with its QoS."""
        if not self.ready:
            complete = all(self.count_publishers(topic) for topic in self._output_topics)
            self._looks = self._looks + 1 if complete else 0
            if self._looks * _LOOK > _SETTLED:
                self.ready = True
                print("ready", flush=True)
        if not self._warned and time.monotonic() - self._begin > _PATIENCE:
            self._warned = True
            for text in self.missing():
                _LOG.warning("not there yet: %s", text)
        for topic, camera in list(self._wanted.items()):
            publishers = self.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            del self._wanted[topic]
            theirs = publishers[0].qos_profile
            profile = _profile()
            profile.reliability, profile.durability = theirs.reliability, theirs.durability
            msgtype = publishers[0].topic_type
            sampled = camera if msgtype in (*IMAGE_TYPES, CAMERA_INFO) else None
            try:
                self._listen(topic, msgtype, sampled, profile=profile)
            except UserError as error:
                _LOG.warning("%s", error)

    def missing(self) -> list[str]:
        """What nobody publishes at the moment, in sentences."""
        others = [topic for topic in self._wanted if topic not in self._class_names]
        return missing_topics(self, self._perception, list(self.arrivals), self.outputs, others)

    def complaints(self) -> list[str]:
        """What the perception node last said about itself, where that is not that all is well."""
        bad = [s for s in self._reported if s.level != DiagnosticStatus.OK or s.message.startswith("not ")]
        return [f"{status.name}: {status.message}" for status in bad]

    def nothing_wrong(self) -> str:
        """For who waits in vain, and nothing is known to be wrong."""
        return "it says that all is well: does it get pictures?" if self._reported else "it has not told of itself yet"

    def _note(self, data: bytes) -> None:
        """Keep what diagnostics say of the perception node; others write to that topic, too."""
        name = self._perception.lstrip("/") + ":"
        own = [status for status in deserialize_message(data, DiagnosticArray).status if status.name.startswith(name)]
        self._reported = own or self._reported

    def as_dict(self) -> dict[str, Any]:
        """The arrivals, as they are written to arrivals.json."""
        return {
            camera: {
                "outputs": self.outputs,
                "arrivals": [{"stamp_ns": stamp, **outputs} for stamp, outputs in arrivals.items()],
            }
            for camera, arrivals in self.arrivals.items()
        }


def _profile() -> QoSProfile:
    # Reliable: an output that is lost on the way would pass for one that was never published.
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=10,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mila record", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for outputs/ (rosbag2, MCAP) and arrivals.json")
    add("--node", default="/perception", help="full name of the perception node (default /perception)")
    add("--cameras", nargs="+", default=["front"], metavar="NAME", help="its cameras (default front)")
    add("--tasks", nargs="+", default=list(TASKS), choices=TASKS, help="default: all three")
    add("--view", action="store_true", help="also the pictures for people; the node then has to render them")
    kept = "answer_info, budget, /diagnostics and the names of classes are stored anyway"
    add("--topic", nargs="+", default=[], metavar="TOPIC", help=f"further topics, of any installed type; {kept}")
    add("--every", type=int, default=1, metavar="N", help="store the pictures of each N-th frame only (default 1)")
    add("--compress", action="store_true", help="zstd: half the size for several times the work")
    add("--duration", type=float, metavar="S", help="stop S seconds after the first output")
    add("--wait", type=float, default=120.0, metavar="S", help="give up where none came for S seconds (default 120)")
    add("--until-idle", type=float, metavar="S", help="stop when no output came for S seconds, after the first one")
    add("--keep-empty", action="store_true", help="keep a recording without outputs, for what the node says of itself")
    return parser


def _spin(node: Recorder, stopped: threading.Event, options: argparse.Namespace) -> None:
    """Takes messages until interrupted, or until one of the limits (seconds) is reached."""
    first: float | None = None
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    begin = time.monotonic()
    try:
        while not stopped.is_set():
            executor.spin_once(timeout_sec=0.1)
            now, newest = time.monotonic(), node.last_arrival
            first = newest if first is None else first
            if first is None or newest is None:
                done = now - begin > options.wait
            else:
                enough = options.duration is not None and now - first > options.duration
                done = enough or (options.until_idle is not None and now - newest > options.until_idle)
            if done:
                break
    finally:
        executor.shutdown()


def main(argv: list[str]) -> int:
    """Records until interrupted or done; exit status 0. Raises UserError: the folder exists, or nothing arrived."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    options = _parser().parse_args(remove_ros_args(argv))
    if options.every < 1:
        raise UserError(f"--every {options.every}: at least 1")
    perception = "/" + options.node.strip("/")
    extra = [topic if topic.startswith("/") else f"/{topic}" for topic in options.topic]
    for topic in (*(f"{perception}/{camera}" for camera in options.cameras), *extra):
        if why := topic_problem(topic, full=True):
            raise UserError(f'"{topic}" cannot be the name of a topic: {why}')
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{options.out} cannot be made: {error.strerror}") from None
    storage = Storage(options.out / "outputs", options.compress)
    stopped = threading.Event()
    begin = time.monotonic_ns()
    with contextlib.ExitStack() as stack:
        stack.callback(storage.close)
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown)
        stack.enter_context(interruptible(stopped))
        node = Recorder(
            storage,
            perception,
            options.cameras,
            tasks=options.tasks,
            extra=extra,
            every=options.every,
            view=options.view,
        )
        stack.callback(node.destroy_node)
        print(f"recording {perception} ({', '.join(options.cameras)}) into {options.out}", flush=True)
        without_long_pauses()
        _spin(node, stopped, options)
        missing = node.missing()
    _write_arrivals(options.out / "arrivals.json", perception, node, storage, begin)
    for camera, arrivals in node.arrivals.items():
        counts = ", ".join(f"{name} {sum(name in a for a in arrivals.values())}" for name in node.outputs)
        print(f"{camera}: {len(arrivals)} frames answered ({counts})")
    if not node.pictures_or_asked and not options.keep_empty:  # it would be in the way of the next attempt
        shutil.rmtree(options.out / "outputs", ignore_errors=True)
        print("nothing was recorded", flush=True)
    else:
        print(f"{storage.count} messages in {options.out / 'outputs'}", flush=True)
    if storage.error:
        raise UserError(f"the recording is not complete: {storage.error}")
    if storage.lost:
        _LOG.warning("%d messages were not stored: the disk is too slow; --every stores fewer", storage.lost)
    if node.last_arrival is None and not stopped.is_set():
        why = "; ".join([*missing, *node.complaints()])
        raise UserError(f"no output of {perception} arrived: {why or node.nothing_wrong()}")
    for text in missing:
        _LOG.warning("not recorded, or not to the end: %s", text)
    return 0


def _write_arrivals(file: Path, perception: str, node: Recorder, storage: Storage, begin_ns: int) -> None:
    content = {
        "node": perception,
        "cameras": node.as_dict(),
        "budget_messages": node.budgets,
        "stored_messages": storage.count,
        "lost_messages": storage.lost,
        "started_ns": begin_ns,
        "ended_ns": time.monotonic_ns(),
    }
    file.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
