"""Frames of several cameras on their way through a device that answers them together; only the topics are made up."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sensor_msgs.msg import Image

from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.ros.cameras_in import Frame
from mila_ros.ros.frames import Frames
from mila_ros.runtime.engine import Engine
from mila_ros.runtime.pipeline import Pipeline

NAMES = ("front", "rear", "left")


class Together(Engine):
    """As on a GPU."""

    batches, overlaps = True, False


class Topics:
    """In place of a camera's outputs: keeps what would be published."""

    def __init__(self) -> None:
        self.published: list[tuple[Any, Any]] = []
        self.informed: list[tuple[Any, dict[str, float], float]] = []
        self.tasks: tuple[str, ...] = ("segmentation", "normals")
        self.points = self.obstacles = False

    def wants_points(self) -> bool:
        return self.points

    def wants_obstacles(self) -> bool:
        return self.obstacles

    def wanted(self, points: bool = True) -> tuple[str, ...]:
        return ("segmentation", "depth", "normals") if points and self.points else self.tasks

    def wants_confidence(self) -> bool:
        return False

    def publish(self, header: Any, answer: Any, *_: Any) -> int:
        self.published.append((header, answer))
        return 1

    def inform(self, header: Any, answer: Any, stages: dict[str, float], latency_ms: float) -> None:
        self.informed.append((header, stages, latency_ms))


def message(second: int, encoding: str = "rgb8") -> Image:
    sent = Image(height=64, width=96, encoding=encoding, step=288, data=bytes(64 * 288))
    sent.header.stamp.sec = second
    return sent


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    torch.manual_seed(0)
    model = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"working_pixels": 64 * 96})).eval()
    engine = Together(model, "cpu", "fp32", threads=1)
    batches: list[int] = []
    together = engine.answer_batch

    def watched(pictures: list[Any], *rest: Any, **named: Any) -> Any:
        batches.append(len(pictures))
        return together(pictures, *rest, **named)

    monkeypatch.setattr(engine, "answer_batch", watched)
    pipeline = Pipeline(engine, NAMES, period=100.0)
    settings = SimpleNamespace(
        batch_window=getattr(request, "param", 500.0),  # below the second after which a camera is not waited for
        deadline=60e3,
        depth_encoding="32FC1",
        view_max_depth=10.0,
        view_opacity=0.5,
        camera=lambda name: SimpleNamespace(fallback_hfov=60.0, rectified=False),
    )
    topics, said = {name: Topics() for name in NAMES}, []
    frames = Frames(pipeline, topics, {}, lambda: settings, lambda *what: said.append(what))
    yield SimpleNamespace(frames=frames, topics=topics, said=said, batches=batches, settings=settings)
    frames.close()
    pipeline.close()


def send(made: SimpleNamespace, second: int, **encodings: str) -> None:
    for name in NAMES:
        frame = Frame(message(second, encodings.get(name, "rgb8")), time.monotonic(), second)
        made.frames.take(name, frame)


def wait(condition: Any) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.01)


def test_cameras_are_answered_together_each_with_its_own_header(made: SimpleNamespace) -> None:
    made.topics["left"].tasks = ("normals",)
    second, limit = 0, time.monotonic() + 60
    while not made.batches:  # until it is known who is to be waited for, and all have keyframes
        assert time.monotonic() < limit, "no two cameras were answered together"
        second += 1
        send(made, second)
        wait(lambda: all(len(topics.published) == second for topics in made.topics.values()))  # noqa: B023
    assert made.batches == [2]
    for topics in made.topics.values():
        for second, (header, answer) in enumerate(topics.published, 1):
            assert header.stamp.sec == second and set(answer.by_task()) == set(topics.tasks)
        assert [header for header, _, _ in topics.informed] == [header for header, _ in topics.published]
        _, stages, latency = topics.informed[-1]
        answer = topics.published[-1][1]
        assert list(stages) == ["decode", *answer.milliseconds, "publish"] and latency > sum(stages.values()) / 2
        both = 2 if "normals" in topics.tasks and len(topics.tasks) == 2 else 1  # `left` was answered by itself
        assert answer.together == both and stages["heads"] == both * answer.milliseconds["heads"]
        assert stages["upload"] == answer.milliseconds["upload"]
        assert answer.origin.keyframe == 1 and answer.origin.stamp_ns == 1_000_000_000
        assert answer.origin.distance == second - 1


@pytest.mark.parametrize("made", [300.0], indirect=True)
def test_a_silent_or_broken_camera_keeps_nobody_waiting(made: SimpleNamespace) -> None:
    send(made, 1)
    wait(lambda: all(topics.published for topics in made.topics.values()))
    for topics in made.topics.values():
        topics.published.clear()
    begin = time.monotonic()
    send(made, 1, rear="no_such_encoding")
    wait(lambda: made.topics["front"].published and made.topics["left"].published)
    assert 0.3 <= time.monotonic() - begin < 5  # for the window, and no longer
    assert not made.topics["rear"].published and any("no_such_encoding" in text for _, text in made.said)
    send(made, 2)
    wait(lambda: made.topics["rear"].published)


def test_points_of_a_camera_without_calibration_cost_nothing_else(made: SimpleNamespace) -> None:
    made.settings.camera = lambda name: SimpleNamespace(fallback_hfov=0.0, rectified=False)
    made.topics["front"].points, made.topics["front"].tasks = True, ("normals",)
    made.topics["rear"].points, made.topics["rear"].tasks = True, ()
    send(made, 1)
    wait(lambda: made.topics["front"].published and made.topics["left"].published)
    assert set(made.topics["front"].published[0][1].by_task()) == {"normals"}
    wait(lambda: made.frames.noted["rear"].error is not None)
    assert made.frames.noted["rear"].error.startswith("no depth: no camera_info") and not made.topics["rear"].published


def test_depth_is_not_left_out_while_somebody_wants_points(made: SimpleNamespace) -> None:
    assert made.frames.skippable(("depth", "normals")) == ("depth", "normals")
    made.topics["left"].points = True
    assert made.frames.skippable(("depth", "normals", "segmentation")) == ("normals", "segmentation")
    made.topics["left"].obstacles = True
    assert made.frames.skippable(("depth", "normals", "segmentation")) == ("normals",)


def test_it_ends_while_it_waits_for_others(made: SimpleNamespace) -> None:
    made.frames.take("front", Frame(message(1), time.monotonic(), 1))
    time.sleep(0.2)
    closing = threading.Thread(target=made.frames.close)
    closing.start()
    closing.join(3)
    assert not closing.is_alive()
