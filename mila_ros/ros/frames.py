"""Frames on their way through: taken, decoded, answered, published; newest wins at each step, everything is counted."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mila_ros.images import ImageError, decode_color, remarks
from mila_ros.ros.cameras_in import Calibration, CameraInput, Frame, calibrate
from mila_ros.ros.settings import Settings
from mila_ros.ros.topics_out import CameraOutputs
from mila_ros.runtime.keyframes import LONGEST_START, KeyframeState
from mila_ros.runtime.meter import CameraCounts
from mila_ros.runtime.passing import Answer, Ask, Picture, Seen
from mila_ros.runtime.pipeline import Pipeline
from mila_ros.runtime.slots import Handover, NewestSlots

_START_REPORTS = 2
"""Reports in which a camera may be without a keyframe before that is a problem."""


@dataclass(frozen=True)
class _Decoded:
    """A frame that waits for the networks."""

    frame: Frame
    rgb: npt.NDArray[np.uint8]
    picture: Picture
    decode_ms: float


@dataclass(frozen=True)
class _Looked:
    """A frame that the networks have looked at."""

    waiting: _Decoded
    calibration: Calibration
    seen: Seen


@dataclass
class Noted:
    """What was last seen of a camera, for the report."""

    problem: str | None = None  # what stands in the way of an answer
    error: str | None = None  # of the last frame that failed
    size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    calibration: tuple[Any, ...] | None = None  # what it was made from
    calibrated: Calibration | None = None
    reported: CameraCounts | None = None  # totals at the last report
    poor: int = 0  # reports in a row of answers without a keyframe

    def lacking(self, keyframe: KeyframeState, alone: int) -> str | None:
        """Once a report: why frames are answered by the fast network alone, if that goes on; a start is no news.

        alone: how many were, since the last report.
        """
        self.poor = self.poor + 1 if alone else 0
        if keyframe.problem is not None:
            return keyframe.problem
        if self.poor <= _START_REPORTS:
            return None
        why = "the slow network gives none" if keyframe.number == 0 else "it is older than keyframe.max_age"
        return f"{alone} frames answered without a keyframe: {why}"


class Frames:
    """Threads between the cameras and the topics: one decodes, one looks at frames, one tells of them and publishes.
    There when these are warm (`Pipeline.fast_thread`).

    The last two are one thread where they would only wait for each other (`Engine.overlaps`).

    Args:
        pipeline: the runtime; closed by its owner, after this.
        outputs: by camera.
        inputs: by camera; may be filled later.
        settings: the parameters as they are now.
        say: takes a camera and a sentence for the log.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        outputs: Mapping[str, CameraOutputs],
        inputs: Mapping[str, CameraInput],
        settings: Callable[[], Settings],
        say: Callable[[str, str], None],
    ) -> None:
        self._pipeline = pipeline
        self._outputs = outputs
        self._inputs = inputs
        self._settings = settings
        self._say = say
        self.skipped: tuple[str, ...] = ()
        """Tasks that are left out to hold the budget."""
        self.noted = {camera: Noted() for camera in outputs}
        self._slots: NewestSlots[Frame] = NewestSlots(outputs)
        self._decoded: NewestSlots[_Decoded] = NewestSlots(outputs)
        self._looked: Handover[tuple[str, _Looked]] | None = Handover() if pipeline.engine.overlaps else None
        works: dict[str, Callable[[], None]] = {"mila-decode": self._decode, "mila-look": self._look}
        if self._looked is not None:
            works["mila-tell"] = self._tell
        self._threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in works.items()]
        self._warm = threading.Semaphore(0)
        for thread in self._threads:
            thread.start()
        for _ in self._threads[1:]:  # until they are warm: frames that came before would wait for it
            self._warm.acquire(timeout=LONGEST_START)

    def close(self) -> None:
        """Stop all threads; what waits is let go."""
        self._slots.close()
        self._decoded.close()
        if self._looked is not None:
            self._looked.close()
        for thread in self._threads:
            thread.join()

    def wanted(self) -> tuple[str, ...]:
        """Tasks that somebody wants of any camera."""
        return tuple(dict.fromkeys(task for outputs in self._outputs.values() for task in outputs.wanted()))

    def skippable(self, order: tuple[str, ...]) -> tuple[str, ...]:
        """Tasks that may be left out. Not depth while somebody wants points, without which there are none; not
        segmentation while somebody wants obstacles, which it tells from the floor."""
        outputs = self._outputs.values()
        needed = {"depth"} if any(each.wants_points() for each in outputs) else set()
        needed |= {"segmentation"} if any(each.wants_obstacles() for each in outputs) else set()
        return tuple(task for task in order if task not in needed)

    def take(self, camera: str, frame: Frame) -> None:
        """In the executor's thread, so quick: leave the frame for the one that decodes."""
        meter = self._pipeline.meter
        meter.count(camera, "received")
        if not self._outputs[camera].wanted():
            meter.count(camera, "idle")
            self.noted[camera].problem = None  # what stood in the way of an answer that nobody wants any more
        elif self._slots.put(camera, frame) is not None:
            meter.count(camera, "dropped")

    def _decode(self) -> None:
        """A thread: newest frame of each camera, from message to picture."""
        with self._pipeline.prepare_thread():
            while (taken := self._slots.take()) is not None:
                camera, frame = taken
                with self._guarded(camera):
                    begin = time.perf_counter()
                    rgb = decode_color(frame.message)
                    decode_ms = (time.perf_counter() - begin) * 1e3
                    self._pipeline.meter.time("decode", decode_ms)
                    for remark in remarks(frame.message):
                        self._say(camera, remark)
                    picture = self._pipeline.engine.upload(rgb)
                    if self._decoded.put(camera, _Decoded(frame, rgb, picture, decode_ms)) is not None:
                        self._pipeline.meter.count(camera, "dropped")

    def _look(self) -> None:
        """A thread: newest picture of each camera, one after the other, or (on a GPU) of several together."""
        alone = self._looked is None
        with self._ready(("look", "tell") if alone else ("look",)):
            if self._pipeline.engine.batches:
                while (waiting := self._decoded.take_all(lambda: self._settings().batch_window * 1e-3)) is not None:
                    self._answer_together(waiting)
                return
            while (taken := self._decoded.take()) is not None:
                camera, picture = taken
                with self._guarded(camera):
                    looked = self._looked_at(camera, picture)
                    if looked is None:
                        continue
                    if self._looked is None:
                        self._answer(camera, looked)
                    elif not self._looked.give((camera, looked)):
                        return

    def _answer_together(self, waiting: Mapping[str, _Decoded]) -> None:
        """Frames of several cameras: both halves, and publish them. One that fails takes nothing from the others."""
        asked: dict[str, tuple[Calibration, Ask]] = {}
        for camera, picture in waiting.items():
            with self._guarded(camera):
                ask = self._asked(camera, picture)
                if ask is not None:
                    asked[camera] = ask
        left = dict(asked)
        try:
            for told in self._pipeline.answer_together([ask for _, ask in asked.values()]):
                camera = told.ask.camera
                calibration, _ = left.pop(camera)
                self._broken(camera, told.broken)
                if told.answer is None:
                    self._failed(camera, _sentence(told.error))
                    continue
                with self._guarded(camera):
                    self._publish(camera, waiting[camera], calibration, told.answer)
        except Exception as error:
            for camera in left:
                self._failed(camera, _sentence(error))

    def _tell(self) -> None:
        """A thread: what was looked at, in its order."""
        assert self._looked is not None
        try:
            with self._ready(("tell",)):
                while (taken := self._looked.take()) is not None:
                    camera, looked = taken
                    with self._guarded(camera):
                        self._answer(camera, looked)
        finally:
            self._looked.close()  # nobody waits for this thread when it is gone

    @contextmanager
    def _ready(self, parts: tuple[str, ...]) -> Iterator[None]:
        """For a thread that has these parts in the fast path."""
        begun = False
        try:
            with self._pipeline.fast_thread(parts):
                self._warm.release()
                begun = True
                yield
        finally:
            if not begun:
                self._warm.release()

    @contextmanager
    def _guarded(self, camera: str) -> Iterator[None]:
        """Whatever is wrong with a frame is counted and said, and the next one gets its chance."""
        try:
            yield
        except Exception as error:
            self._failed(camera, _sentence(error))

    def _failed(self, camera: str, text: str) -> None:
        self._pipeline.meter.count(camera, "failed")
        self.noted[camera].error = text
        self._say(camera, text)

    def _looked_at(self, camera: str, waiting: _Decoded) -> _Looked | None:
        """The first half of an answer; None where there is none to be had."""
        asked = self._asked(camera, waiting)
        if asked is None:
            return None
        calibration, ask = asked
        seen = self._pipeline.look(ask)
        self._broken(camera, seen.broken)
        return _Looked(waiting, calibration, seen)

    def _broken(self, camera: str, why: str | None) -> None:
        if why is not None:
            self._say(camera, f"{why}; the keyframe is forgotten")

    def _asked(self, camera: str, waiting: _Decoded) -> tuple[Calibration, Ask] | None:
        """What is to be answered of a frame; None where nothing is."""
        frame, rgb = waiting.frame, waiting.rgb
        outputs, noted = self._outputs[camera], self.noted[camera]
        tasks = outputs.wanted()
        if not tasks:  # the last subscriber left while the frame waited
            self._pipeline.meter.count(camera, "idle")
            return None
        size = (int(rgb.shape[0]), int(rgb.shape[1]))
        noted.size = size
        calibration = self._calibrate(camera, size)
        if calibration.focal is None and "depth" in tasks:
            tasks = tuple(task for task in outputs.wanted(points=False) if task != "depth")
            noted.problem = f"no depth: {calibration.problem} (or set {camera}.fallback_hfov)"
            self._say(camera, noted.problem)
            if not tasks:
                self._failed(camera, noted.problem)
                return None
        else:
            # Where depth is not wanted, a camera without calibration lacks nothing.
            noted.problem = None if calibration.focal is None else calibration.problem
            if noted.problem is not None:
                self._say(camera, noted.problem)

        # After the calibration, whose lack may have left out the others.
        tasks = tuple(task for task in tasks if task not in self.skipped) or tasks
        header = frame.message.header
        stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        return calibration, Ask(
            camera,
            waiting.picture,
            tasks,
            calibration.focal or float(size[1]),  # without one there is no depth, and nothing else uses it
            frame.arrived,
            frame.number,
            stamp_ns,
            outputs.wants_confidence(),
        )

    def _answer(self, camera: str, looked: _Looked) -> None:
        """The second half, and publish it."""
        self._publish(camera, looked.waiting, looked.calibration, self._pipeline.tell(looked.seen))

    def _publish(self, camera: str, waiting: _Decoded, calibration: Calibration, answer: Answer) -> None:
        settings, meter = self._settings(), self._pipeline.meter
        self.noted[camera].output_size = answer.size
        header, outputs = waiting.frame.message.header, self._outputs[camera]
        begin = time.perf_counter()
        published = outputs.publish(
            header,
            answer,
            waiting.rgb,
            calibration.info,
            settings.camera(camera).rectified,
            settings,
        )
        publish_ms = (time.perf_counter() - begin) * 1e3
        meter.time("publish", publish_ms)
        if not published:  # whoever wanted it has left, or wanted only a calibration that is not known
            meter.count(camera, "idle")
            return
        total = (time.monotonic() - waiting.frame.arrived) * 1e3
        meter.time("total", total)
        meter.answered(camera, total, late=total > settings.deadline)
        stages = {"decode": waiting.decode_ms, **answer.waited(), "publish": publish_ms}
        outputs.inform(header, answer, stages, total)

    def _calibrate(self, camera: str, size: tuple[int, int]) -> Calibration:
        """The camera's calibration for frames of this size, worked out anew only when something changed."""
        source, noted = self._inputs.get(camera), self.noted[camera]
        info = source.info if source is not None else None
        topic = source.info_topic if source is not None else ""
        settings = self._settings().camera(camera)
        made_from = (info, size, settings.fallback_hfov)
        if noted.calibrated is None or noted.calibration is None or not _same(noted.calibration, made_from):
            made = calibrate(info, topic, size, settings.fallback_hfov, settings.rectified)
            if made.remark is not None and (noted.calibrated is None or noted.calibrated.remark != made.remark):
                self._say(camera, made.remark)
            noted.calibration, noted.calibrated = made_from, made
        return noted.calibrated


def _sentence(error: Exception | None) -> str:
    """What is said of a frame that failed."""
    own = isinstance(error, ImageError | ValueError)  # the frame's fault
    return str(error) if own else f"{type(error).__name__}: {error}"


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """The same calibration message (drivers send an equal one with each frame), size and field of view."""
    (info_a, *rest_a), (info_b, *rest_b) = a, b
    if rest_a != rest_b:
        return False
    if info_a is info_b:
        return True
    if info_a is None or info_b is None:
        return False
    fields = ("height", "width", "distortion_model", "d", "k", "r", "p", "binning_x", "binning_y", "roi")
    return all(_equal(getattr(info_a, field), getattr(info_b, field)) for field in fields)


def _equal(a: Any, b: Any) -> bool:
    if hasattr(a, "__len__") and not isinstance(a, str):
        return len(a) == len(b) and all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True))
    return bool(a == b)
