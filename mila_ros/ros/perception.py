"""The node `perception` (`mila node`): camera frames in, three pictures and the compute budget out.

Threads: the executor's takes messages, counts and replaces (newest wins), answers services and reports once a second;
one decodes, one computes and publishes; the slow network has its own, inside the runtime. So receiving never waits for
the networks, the next frame is decoded while one is computed, and the report goes on when the networks hang.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile

from mila_ros.errors import UserError
from mila_ros.models.checkpoint import load_model
from mila_ros.msg import ComputeBudget
from mila_ros.ros.cameras_in import CameraInput
from mila_ros.ros.diagnostics import (
    CameraReport,
    Throttle,
    budget_message,
    budget_status,
    camera_status,
    diagnostic_array,
    idle_status,
)
from mila_ros.ros.frames import Frames
from mila_ros.ros.parameters import Parameters
from mila_ros.ros.points_out import no_obstacles
from mila_ros.ros.settings import Settings
from mila_ros.ros.topics_out import OUTPUT_QOS, CameraOutputs
from mila_ros.runtime.budget import price
from mila_ros.runtime.controller import BudgetController, Decision, Limits
from mila_ros.runtime.devices import give_back_memory
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.keyframes import KeyframeState
from mila_ros.runtime.load import measure
from mila_ros.runtime.meter import CameraCounts, Window, resident_mb
from mila_ros.runtime.pauses import with_all, without_long_pauses
from mila_ros.runtime.pipeline import Pipeline

REPORT_PERIOD = 1.0  # seconds of the steady clock
_USABLE = 0.8  # share of keyframe.max_age to which the period may be stretched: making the next one takes time
# Warm-up picture: the usual camera.
_USUAL_SIZE = (480, 640)


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
        self._frames: Frames | None = None
        self._inputs: dict[str, CameraInput] = {}
        self._outputs: dict[str, CameraOutputs] = {}
        self._budget: LifecyclePublisher | None = None
        self._throttle = Throttle()
        self._controller = BudgetController()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        # The report has a steady clock of its own: simulated time may stand still or jump.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._report_timer = self.create_timer(REPORT_PERIOD, self._report, clock=steady)

    def destroy_node(self) -> None:
        """Also the state machine: it holds the DDS participant, which would live until the interpreter has ended."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

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
        classes = model.config.classes if "segmentation" in settings.tasks else ()
        leave_out = no_obstacles(settings.obstacles_leave_out, classes)
        if classes and not leave_out and "depth" in settings.tasks:
            self.get_logger().warning(
                "no class is a floor or road by its name, so obstacles are all points: set obstacles.leave_out"
            )
        engine = Engine(
            model,
            device=settings.device,
            precision=settings.precision,
            output_scale=settings.output_scale,
            max_pixels=settings.max_pixels,
            threads=settings.threads_fast,
            slow_threads=settings.threads_slow,
            niceness=settings.threads_slow_niceness,
            backend=settings.backend,
            say=self.get_logger().info,
        )
        if (engine.backend, engine.device.type) == ("compile", "cpu"):
            self.get_logger().warning(
                "backend compile on a CPU: threads wait for each other, so frames take longer than by PyTorch's own "
                "operators; backend auto is the fastest here"
            )
        with engine.fast_thread():
            engine.warm_up(*_USUAL_SIZE)
            try:  # counted later, it would hold up frames
                engine.flops(engine.seen_size(*_USUAL_SIZE), settings.tasks)
            except Exception as error:  # a figure of the report is nothing to fail for
                self.get_logger().warning(f"arithmetic cannot be counted: {type(error).__name__}: {error}")
        self._engine = engine
        self._outputs = {
            camera.name: CameraOutputs(
                self, camera.name, settings.tasks, engine.classes, engine.palette, settings.confidence, leave_out
            )
            for camera in settings.cameras
        }
        self._budget = self.create_lifecycle_publisher(ComputeBudget, "~/budget", OUTPUT_QOS)
        without_long_pauses()
        self.get_logger().info(
            f"model {settings.model}: {', '.join(settings.tasks)} on {engine.device} in {engine.precision} "
            f"({engine.backend}), ready after {time.monotonic() - begin:.1f} s"
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
        self._pipeline = Pipeline(
            self._engine,
            names,
            mode=settings.mode,
            period=settings.keyframe_period,
            max_age=settings.keyframe_max_age,
            fall=settings.keyframe_early,
            clock=time.monotonic,
            on_error=self._complain,
            warm=_USUAL_SIZE,
        )
        self._controller = BudgetController()
        self._frames = Frames(self._pipeline, self._outputs, self._inputs, lambda: self.settings, self._complain)
        for camera in settings.cameras:
            self._inputs[camera.name] = CameraInput(self, camera, self._frames.take, time.monotonic)
        for outputs in self._outputs.values():
            outputs.announce()
        for text in self._declared.unknown():
            self.get_logger().warning(text)
        for name, source in self._inputs.items():
            self.get_logger().info(f"camera {name}: {source.pictures.topic}, {source.info_topic}")

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
        if self._frames is not None:
            self._frames.close()
        if self._pipeline is not None:
            self._pipeline.close()
        self._inputs.clear()  # the last frame looked at its camera's calibration
        self._frames = self._pipeline = None

    def _release(self) -> None:
        for outputs in self._outputs.values():
            outputs.close()
        self._outputs = {}
        if self._budget is not None:
            self.destroy_lifecycle_publisher(self._budget)
        if self._engine is not None:
            self._engine = None
            with_all()
        give_back_memory()
        self._budget = None

    def _apply(self, before: Settings, settings: Settings) -> None:
        """Hand changed parameters to what runs."""
        if self._engine is not None:
            self._engine.output_scale = settings.output_scale
            self._engine.max_pixels = settings.max_pixels
        if self._pipeline is not None:
            self._pipeline.mode = settings.mode
            if settings.keyframe_period != before.keyframe_period:  # else it would undo what the budget asks for
                self._pipeline.period = settings.keyframe_period
            self._pipeline.max_age = settings.keyframe_max_age

    def _complain(self, camera: str, text: str) -> None:
        """A line in the log, unless it was there a moment ago. From any thread."""
        text = f"camera {camera}: {text}"
        if self._throttle.passes(text, time.monotonic()):
            self.get_logger().warning(text)

    # Report --------------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Once a second: budget and diagnostics."""
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        pipeline, frames, engine = self._pipeline, self._frames, self._engine
        if pipeline is None or frames is None or engine is None:
            state = "configured" if engine is not None else "not configured"
            self._diagnostics.publish(diagnostic_array(stamp, [idle_status(name, state, self.failure)]))
            return
        settings, now = self.settings, time.monotonic()
        window = pipeline.meter.window(now)
        reports: dict[str, CameraReport] = {}
        for camera, source in self._inputs.items():
            noted, seen = frames.noted[camera], window.cameras[camera]
            before = noted.reported or CameraCounts()
            since = None if source.last_arrival is None else now - source.last_arrival
            more = seen.counts.since(before)
            if change := source.follow():
                self.get_logger().info(f"camera {camera}: {change}")
            silent = since is None or since > settings.stale_after
            silence = source.pictures.silence() if silent else ""
            keyframe = pipeline.keyframe_state(camera, now, source.received)
            complaint = "" if silent and source.pictures.turning else silence
            if overdue := source.overdue(complaint, now, settings.stale_after):
                self._complain(camera, f"no frame comes: {overdue}")
            reports[camera] = CameraReport(
                image_topic=source.pictures.topic,
                info_topic=source.info_topic,
                silence=silence,
                since_frame=since,
                problem=noted.problem,
                remark=None if noted.calibrated is None else noted.calibrated.remark,
                last_error=noted.error,
                window=seen,
                lacking=noted.lacking(keyframe, more["alone"]),
                **more,
                keyframe=keyframe,
                size=noted.size,
                output_size=noted.output_size,
            )
            noted.reported = seen.counts
        decision = self._hold_budget(window, pipeline, frames, engine, now)
        problems = [f"{camera}: {report.problem}" for camera, report in reports.items() if report.problem]
        keyframes: dict[str, KeyframeState] = {camera: report.keyframe for camera, report in reports.items()}
        budget = budget_message(
            stamp, engine, settings, window, price(window, engine), keyframes, decision, problems, resident_mb()
        )
        if self._budget is not None:
            self._budget.publish(budget)
        statuses = [camera_status(name, camera, report, settings.stale_after) for camera, report in reports.items()]
        statuses.append(budget_status(name, budget, settings.deadline, decision.degraded))
        self._diagnostics.publish(diagnostic_array(stamp, statuses))

    def _hold_budget(self, window: Window, pipeline: Pipeline, frames: Frames, engine: Engine, now: float) -> Decision:
        """Let the controller see the window, and do what it decides."""
        settings = self.settings
        limits = Limits(
            period=settings.keyframe_period,
            # An older keyframe would not be used: the frames until the next one were poorer, and nothing saved.
            longest_period=min(settings.keyframe_longest_period, _USABLE * settings.keyframe_max_age),
            deadline_ms=settings.deadline,
            device_share=settings.device_share,
            skip_order=frames.skippable(settings.skip_order),
        )
        load = measure(window, engine, settings.mode == "synchronous", frames.wanted())
        decision = self._controller.update(load, limits, now)
        if decision.period != pipeline.period:  # setting it anew would move the timer
            pipeline.period = decision.period
        # What the budget takes away must not come back by another door.
        held = settings.device_share < 1 or decision.period > settings.keyframe_period
        pipeline.fall = 0.0 if held else settings.keyframe_early
        frames.skipped = decision.skipped
        return decision
