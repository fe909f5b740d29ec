"""The node `perception` (`mila node`): camera frames in, three pictures and the compute budget out.

Threads: the executor's takes messages, counts and replaces (newest wins), answers services and reports once a second;
one decodes, one computes and publishes; the slow network has its own, inside the runtime. So receiving never waits for
the networks, the next frame is decoded while one is computed, and the report goes on when the networks hang.
"""

from __future__ import annotations

import argparse
import math
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import InvalidNodeNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from mila_ros.errors import UserError
from mila_ros.images import ImageError, decode_color, remarks
from mila_ros.models.checkpoint import load_model
from mila_ros.msg import ComputeBudget
from mila_ros.ros.cameras_in import Calibration, CameraInput, Frame, calibrate
from mila_ros.ros.diagnostics import (
    CameraReport,
    Throttle,
    budget_message,
    budget_status,
    camera_status,
    diagnostic_array,
    idle_status,
)
from mila_ros.ros.parameters import Parameters, Settings
from mila_ros.ros.support import interruptible
from mila_ros.ros.topics_out import OUTPUT_QOS, CameraOutputs
from mila_ros.runtime.budget import price
from mila_ros.runtime.engine import Engine, Picture
from mila_ros.runtime.meter import CameraCounts, resident_mb
from mila_ros.runtime.pipeline import KeyframeState, Pipeline
from mila_ros.runtime.slots import NewestSlots

REPORT_PERIOD = 1.0  # seconds of the steady clock
# Warm-up picture: the usual camera.
_USUAL_SIZE = (480, 640)


@dataclass(frozen=True)
class _Decoded:
    """A frame that waits for the networks."""

    frame: Frame
    rgb: npt.NDArray[np.uint8]
    picture: Picture


@dataclass
class _Noted:
    """What the worker last saw of a camera, for the report."""

    problem: str | None = None
    error: str | None = None
    size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    frame: int = 0
    calibration: tuple[Any, ...] | None = None  # what it was made from
    calibrated: Calibration | None = None
    reported: CameraCounts | None = None  # totals at the last report


class Perception(LifecycleNode):
    """See the module's docstring; parameters in `parameters.py`, topics in `topics_out.py`.

    Raises:
        UserError: a parameter given at the start cannot be.
    """

    def __init__(self) -> None:
        super().__init__("perception")
        self.failure: str | None = None
        """Why the last transition failed; None: it did not."""
        try:
            self._declared = Parameters(self, self._apply)
        except UserError:
            self.destroy_node()  # a node that outlives its context takes the process down with it
            raise
        self._engine: Engine | None = None
        self._pipeline: Pipeline | None = None
        self._slots: NewestSlots[Frame] | None = None
        self._decoded: NewestSlots[_Decoded] | None = None
        self._threads: list[threading.Thread] = []
        self._inputs: dict[str, CameraInput] = {}
        self._outputs: dict[str, CameraOutputs] = {}
        self._noted: dict[str, _Noted] = {}
        self._budget: LifecyclePublisher | None = None
        self._throttle = Throttle()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        # The report has a steady clock of its own: simulated time may stand still or jump.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._report_timer = self.create_timer(REPORT_PERIOD, self._report, clock=steady)

    @property
    def settings(self) -> Settings:
        """The parameters as they are now."""
        return self._declared.settings

    # Transitions ---------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and offer the topics. Fails, with a sentence in the log and in `failure`, where it cannot."""
        if not self._attempt(self._configure):
            self._release()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Do the work of a transition; what goes wrong is logged (rclpy would swallow it) and kept in `failure`."""
        self.failure = None
        try:
            work()
        except UserError as error:
            self.failure = str(error)
        except Exception as error:  # the device's memory, a driver, the middleware
            self.failure = f"{type(error).__name__}: {error}"
            self.get_logger().error(traceback.format_exc())
        if self.failure is not None:
            self.get_logger().error(self.failure)
        return self.failure is None

    def _configure(self) -> None:
        settings = self.settings
        if not settings.tasks:
            raise UserError("parameter tasks is empty; name at least one of segmentation, depth, normals")
        begin = time.monotonic()
        model = load_model(settings.model, settings.tasks)
        engine = Engine(
            model,
            device=settings.device,
            precision=settings.precision,
            output_scale=settings.output_scale,
            max_pixels=settings.max_pixels,
            threads=settings.threads_fast,
            slow_threads=settings.threads_slow,
            niceness=settings.threads_slow_niceness,
        )
        with engine.fast_thread():
            engine.warm_up(*_USUAL_SIZE)
        self._engine = engine
        self._outputs = {
            camera.name: CameraOutputs(
                self, camera.name, settings.tasks, engine.classes, engine.palette, settings.confidence
            )
            for camera in settings.cameras
        }
        self._budget = self.create_lifecycle_publisher(ComputeBudget, "~/budget", OUTPUT_QOS)
        self.get_logger().info(
            f"model {settings.model}: {', '.join(settings.tasks)} on {engine.device} in {engine.precision}, "
            f"ready after {time.monotonic() - begin:.1f} s"
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and start to answer."""
        result = super().on_activate(state)  # the publishers first
        if not self._attempt(self._activate):
            self._stop()
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        return result

    def _activate(self) -> None:
        assert self._engine is not None
        settings = self.settings
        names = [camera.name for camera in settings.cameras]
        self._noted = {name: _Noted() for name in names}
        self._pipeline = Pipeline(
            self._engine,
            names,
            mode=settings.mode,
            period=settings.keyframe_period,
            max_age=settings.keyframe_max_age,
            clock=time.monotonic,
            on_error=self._complain,
        )
        self._slots, self._decoded = NewestSlots(names), NewestSlots(names)
        self._threads = [
            threading.Thread(target=self._decode, args=(self._pipeline, self._slots, self._decoded), daemon=True),
            threading.Thread(target=self._work, args=(self._pipeline, self._decoded), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._inputs = {
            camera.name: CameraInput(self, camera, self._take, time.monotonic) for camera in settings.cameras
        }
        for outputs in self._outputs.values():
            outputs.announce()
        for text in self._declared.unknown():
            self.get_logger().warning(text)
        for camera in self._inputs.values():
            self.get_logger().info(f"camera {camera.settings.name}: {camera.image_topic}, {camera.info_topic}")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop answering; the model stays loaded."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the model and the topics."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, from whatever state."""
        self._stop()
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """An exception in a transition: back to the beginning."""
        self._stop()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _stop(self) -> None:
        for camera in self._inputs.values():
            camera.close()
        self._inputs = {}
        for slots in (self._slots, self._decoded):
            if slots is not None:
                slots.close()
        for thread in self._threads:
            thread.join()
        if self._pipeline is not None:
            self._pipeline.close()
        self._slots = self._decoded = self._pipeline = None
        self._threads = []

    def _release(self) -> None:
        for outputs in self._outputs.values():
            outputs.close()
        self._outputs = {}
        if self._budget is not None:
            self.destroy_lifecycle_publisher(self._budget)
        self._budget = self._engine = None

    def _apply(self, settings: Settings) -> None:
        """Hand changed parameters to what runs."""
        if self._engine is not None:
            self._engine.output_scale = settings.output_scale
            self._engine.max_pixels = settings.max_pixels
        if self._pipeline is not None:
            self._pipeline.mode = settings.mode
            self._pipeline.period = settings.keyframe_period
            self._pipeline.max_age = settings.keyframe_max_age

    # Frames --------------------------------------------------------------------------------------------------------

    def _take(self, camera: str, frame: Frame) -> None:
        """In the executor's thread: leave the frame for the worker."""
        if self._pipeline is None or self._slots is None:
            return
        meter = self._pipeline.meter
        meter.count(camera, "received")
        if not self._outputs[camera].wanted():
            meter.count(camera, "idle")
        elif self._slots.put(camera, frame) is not None:
            meter.count(camera, "dropped")

    def _decode(self, pipeline: Pipeline, slots: NewestSlots[Frame], decoded: NewestSlots[_Decoded]) -> None:
        """A thread: newest frame of each camera, from message to picture."""
        with pipeline.prepare_thread():
            while (taken := slots.take()) is not None:
                camera, frame = taken
                with self._guarded(pipeline, camera):
                    begin = time.perf_counter()
                    rgb = decode_color(frame.message)
                    pipeline.meter.time("decode", (time.perf_counter() - begin) * 1e3)
                    for remark in remarks(frame.message):
                        self._complain(camera, remark)
                    picture = pipeline.engine.upload(rgb)
                    if decoded.put(camera, _Decoded(frame, rgb, picture)) is not None:
                        pipeline.meter.count(camera, "dropped")

    def _work(self, pipeline: Pipeline, decoded: NewestSlots[_Decoded]) -> None:
        """A thread: newest picture of each camera, one after the other."""
        with pipeline.fast_thread():
            while (taken := decoded.take()) is not None:
                camera, waiting = taken
                with self._guarded(pipeline, camera):
                    self._answer(pipeline, camera, waiting)

    @contextmanager
    def _guarded(self, pipeline: Pipeline, camera: str) -> Iterator[None]:
        """Whatever is wrong with a frame is counted and said, and the next one gets its chance."""
        try:
            yield
        except (ImageError, ValueError) as error:  # the frame's fault
            self._failed(pipeline, camera, str(error))
        except Exception as error:
            self._failed(pipeline, camera, f"{type(error).__name__}: {error}")

    def _failed(self, pipeline: Pipeline, camera: str, text: str) -> None:
        pipeline.meter.count(camera, "failed")
        self._noted[camera].error = text
        self._complain(camera, text)

    def _complain(self, camera: str, text: str) -> None:
        text = f"camera {camera}: {text}"
        if self._throttle.passes(text, time.monotonic()):
            self.get_logger().warning(text)

    def _answer(self, pipeline: Pipeline, camera: str, waiting: _Decoded) -> None:
        frame, rgb = waiting.frame, waiting.rgb
        settings, outputs, noted, meter = self.settings, self._outputs[camera], self._noted[camera], pipeline.meter
        tasks = outputs.wanted()
        if not tasks:  # the last subscriber left while the frame waited
            meter.count(camera, "idle")
            return
        size = (int(rgb.shape[0]), int(rgb.shape[1]))
        noted.frame, noted.size = frame.number, size
        calibration = self._calibrate(camera, size)
        if calibration.focal is None and "depth" in tasks:
            tasks = tuple(task for task in tasks if task != "depth")
            noted.problem = f"no depth: {calibration.problem} (or set {camera}.fallback_hfov)"
            self._complain(camera, noted.problem)
            if not tasks:
                self._failed(pipeline, camera, noted.problem)
                return
        else:
            noted.problem = calibration.problem
            if noted.problem is not None:
                self._complain(camera, noted.problem)

        header = frame.message.header
        stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        answer, broken = pipeline.answer(
            camera,
            waiting.picture,
            tasks,
            calibration.focal or float(size[1]),  # without one there is no depth, and nothing else uses it
            frame.arrived,
            frame.number,
            stamp_ns,
            outputs.wants_confidence(),
        )
        if broken is not None:
            self._complain(camera, f"{broken}; the keyframe is forgotten")
        noted.output_size = answer.size

        begin = time.perf_counter()
        outputs.publish(
            header,
            answer,
            rgb,
            calibration.info,
            settings.depth_encoding,
            settings.view_max_depth,
            settings.view_opacity,
        )
        meter.time("publish", (time.perf_counter() - begin) * 1e3)
        total = (time.monotonic() - frame.arrived) * 1e3
        meter.time("total", total)
        meter.answered(camera, total, late=total > settings.deadline)

    def _calibrate(self, camera: str, size: tuple[int, int]) -> Calibration:
        """The camera's calibration for frames of this size, worked out anew only when something changed."""
        source, noted = self._inputs.get(camera), self._noted[camera]
        info = source.info if source is not None else None
        topic = source.info_topic if source is not None else ""
        fallback = self.settings.camera(camera).fallback_hfov
        made_from = (info, size, fallback)
        if noted.calibrated is None or noted.calibration is None or not _same(noted.calibration, made_from):
            noted.calibration, noted.calibrated = made_from, calibrate(info, topic, size, fallback)
        return noted.calibrated

    # Report --------------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Once a second: budget and diagnostics."""
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        pipeline, engine = self._pipeline, self._engine
        if pipeline is None or engine is None:
            state = "configured" if engine is not None else "not configured"
            self._diagnostics.publish(diagnostic_array(stamp, [idle_status(name, state, self.failure)]))
            return
        settings, now = self.settings, time.monotonic()
        window = pipeline.meter.window(now)
        reports: dict[str, CameraReport] = {}
        for camera, source in self._inputs.items():
            noted, seen = self._noted[camera], window.cameras[camera]
            before = noted.reported or CameraCounts()
            since = None if source.last_arrival is None else now - source.last_arrival
            stale = since is None or since > settings.stale_after
            reports[camera] = CameraReport(
                image_topic=source.image_topic,
                info_topic=source.info_topic,
                silence=source.silence() if stale else "",
                since_frame=since,
                problem=noted.problem,
                last_error=noted.error,
                window=seen,
                failed=seen.counts.failed - before.failed,
                dropped=seen.counts.dropped - before.dropped,
                late=seen.counts.late - before.late,
                keyframe=pipeline.keyframe_state(camera, now, source.received),
                size=noted.size,
                output_size=noted.output_size,
            )
            noted.reported = seen.counts
        problems = [f"{camera}: {report.problem}" for camera, report in reports.items() if report.problem]
        keyframes: dict[str, KeyframeState] = {camera: report.keyframe for camera, report in reports.items()}
        budget = budget_message(
            stamp, engine, settings, window, price(window, engine), keyframes, problems, resident_mb()
        )
        if self._budget is not None:
            self._budget.publish(budget)
        statuses = [camera_status(name, camera, report, settings.stale_after) for camera, report in reports.items()]
        statuses.append(budget_status(name, budget, settings.deadline))
        self._diagnostics.publish(diagnostic_array(stamp, statuses))


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """The same calibration message (drivers send an equal one with each frame), size and field of view."""
    (info_a, *rest_a), (info_b, *rest_b) = a, b
    if rest_a != rest_b:
        return False
    if info_a is info_b:
        return True
    if info_a is None or info_b is None:
        return False
    fields = ("height", "width", "distortion_model", "d", "k", "r", "p")
    return all(_equal(getattr(info_a, field), getattr(info_b, field)) for field in fields)


def _equal(a: Any, b: Any) -> bool:
    if hasattr(a, "__len__") and not isinstance(a, str):
        return len(a) == len(b) and all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _arguments(argv: list[str]) -> list[str]:
    """The ROS arguments to start with: those given, and the short forms that `mila node` also takes."""
    parser = argparse.ArgumentParser(
        prog="mila node",
        description="Run the perception node: camera frames in, segmentation, depth, normals and budget out.",
        epilog="All ROS arguments work after --ros-args: -p NAME:=VALUE, -r FROM:=TO, --log-level LEVEL, ...",
    )
    parser.add_argument("--params-file", action="append", default=[], metavar="FILE", help="YAML file of parameters")
    parser.add_argument(
        "-p", "--param", action="append", default=[], metavar="NAME:=VALUE", help="one parameter, such as device:=cpu"
    )
    # Not rclpy's remove_ros_args: outside --ros-args it still takes NAME:=VALUE away (an old form of remapping).
    split = argv.index("--ros-args") if "--ros-args" in argv else len(argv)
    own = parser.parse_args(argv[:split])
    ros = argv[split:] or ["--ros-args"]
    for file in own.params_file:
        ros += ["--params-file", file]
    for param in own.param:
        ros += ["-p", param]
    return ros


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns 0 then.

    Raises:
        UserError: it cannot start: a wrong parameter, or, with autostart, no such model or device.
    """
    arguments = _arguments(list(argv or []))
    try:
        # Signals are ours: the node is to be taken down in order, while the middleware is still there.
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy has a class for each thing that can be wrong with arguments
        # Without rcl's own source lines: "..., at /project/src/rcl/arguments.c:415".
        raise UserError(f"ROS arguments: {re.sub(', at [^ ]*:[0-9]+', '', str(error))}") from error
    stopped = threading.Event()
    try:
        with interruptible(stopped):
            _run(stopped)
    finally:
        rclpy.try_shutdown()
    return 0


def _run(stopped: threading.Event) -> None:
    try:
        node = Perception()
    except InvalidNodeNameException as error:
        raise UserError(str(error)) from error
    executor = SingleThreadedExecutor()
    try:
        executor.add_node(node)
        if node.settings.autostart:
            configured = node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            if not configured or node.trigger_activate() != TransitionCallbackReturn.SUCCESS:
                raise UserError(node.failure or "the node could not be activated; see the log above")
        while not stopped.is_set():
            executor.spin_once(timeout_sec=0.2)
    finally:
        node.on_shutdown(LifecycleState(state_id=0, label="exit"))
        executor.shutdown()
        node.destroy_node()
