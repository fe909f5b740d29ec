"""One pass over a run's recording: judged against ground truth, shown in a strip of pictures, and kept for Foxglove."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mila_ros.evaluation import pictures
from mila_ros.evaluation.foxglove import OutputBag
from mila_ros.evaluation.inputs import DemoInput
from mila_ros.evaluation.moments import Moment, has_truth, moment_of, recorded_answers, with_frames
from mila_ros.evaluation.registration_check import check_recording
from mila_ros.evaluation.scoring import Judge
from mila_ros.evaluation.session import CAMERA, NODE, Session
from mila_ros.models.config import ModelConfig
from mila_ros.worlds.bag_storage import open_storage
from mila_ros.worlds.bags import Bag

# More frames cost time and disk, and tell no more.
JUDGED_FRAMES = 100
KEPT_FRAMES = 100
STRIP_COLUMNS = 8


@dataclass
class Judged:
    """What one pass over the recording gives."""

    metrics: dict[str, dict[str, Any]]
    """By task, as `mila compare` names them; tasks without ground truth are missing."""
    frames: dict[str, int]
    """How many were judged, by task."""
    chosen: list[Moment]
    """For the strip, in order."""
    strange_labels: set[int]
    """Ids in the ground truth that the model has no class for."""
    kept_every: int
    """The recording has the pictures of each so many recorded frames."""
    misregistered: str | None = None
    """In words, if the recording's depth does not lie on its pictures."""


def judge_run(given: DemoInput, session: Session, config: ModelConfig, recording: Path) -> Judged:
    """One pass over what was recorded.

    Args:
        given: what was played.
        session: the run.
        config: of the model.
        recording: rosbag2 folder to write; it must not exist.
    """
    judge = Judge(config.tasks, config.classes)
    table = pictures.class_colours(config.palette, len(config.classes))
    first, last = session.published[0]["stamp_ns"], session.published[-1]["stamp_ns"]
    strip = Strip(first, last)
    keep_every = math.ceil(len(session.published) / session.stored_every / KEPT_FRAMES)
    stamps: set[int] = set()
    farthest: float | None = None
    true_ones = 0
    with ExitStack() as stack:
        storage = open_storage(session.recording)
        stack.callback(storage.close)
        bag = stack.enter_context(Bag(given.path, fov_deg=given.fov_deg)) if given.path else None
        judge_every = max(1, math.ceil((bag.truth_count if bag else 0) / session.stored_every / JUDGED_FRAMES))
        kept = stack.enter_context(OutputBag(recording, NODE, CAMERA, given.image_topic, table))
        answers = recorded_answers(storage, NODE, CAMERA, config.tasks, given.image_topic)
        for index, (answer, frame) in enumerate(with_frames(storage, answers, bag, first, given.fov_deg)):
            true = has_truth(frame)
            judged = true and true_ones % judge_every == 0
            true_ones += true
            keep, show = index % keep_every == 0, strip.wants(answer.stamp_ns, judged)
            if not (judged or keep or show):
                continue
            moment = moment_of(storage, answer, frame)
            if judged:
                judge.add(moment)
            if show:
                strip.take(moment)
            if keep:
                if farthest is None:
                    farthest = pictures.depth_range([m for task, m in moment.answers.items() if task == "depth"])
                kept.add(answer, moment, farthest)
                stamps.add(moment.stamp_ns)
        kept.copy_rest(storage, stamps)
    moved = None
    if given.path and "depth" in judge.frames:
        with Bag(given.path, fov_deg=given.fov_deg) as bag:
            moved = check_recording(bag)
    return Judged(judge.compute(), judge.frames, strip.moments(), judge.strange_labels, keep_every, moved)


class Strip:
    """Chooses the moments that are shown: one in each of so many equal parts of the time, better with ground truth."""

    def __init__(self, first_ns: int, last_ns: int, parts: int = STRIP_COLUMNS) -> None:
        self._first, self._part = first_ns, max(1.0, (last_ns - first_ns) / parts)
        self._parts: dict[int, Moment] = {}

    def _of(self, stamp_ns: int) -> int:
        return int((stamp_ns - self._first) / self._part)

    def wants(self, stamp_ns: int, true: bool) -> bool:
        """Whether the moment of this stamp is to be shown. true: it has ground truth."""
        present = self._parts.get(self._of(stamp_ns))
        return present is None or (true and not present.truth)

    def take(self, moment: Moment) -> None:
        self._parts[self._of(moment.stamp_ns)] = moment

    def moments(self) -> list[Moment]:
        """Those chosen, in their order."""
        chosen = [self._parts[part] for part in sorted(self._parts)]
        return chosen[:STRIP_COLUMNS]
