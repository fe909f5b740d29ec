"""The shipped network on the shipped clip: it loads, and it is better than floors that a broken one cannot reach."""

import torch

from mila_ros.evaluation.metrics import TaskMetrics, frame_tensors
from mila_ros.models.checkpoint import builtin_models, load_model
from mila_ros.models.flops import count_flops
from mila_ros.paths import clips_dir
from mila_ros.worlds.bags import Bag
from mila_ros.worlds.frames import Frame

DISTANCE = 5
"""Frames between keyframe and the frame that is judged."""
FLOORS = {"slow": (0.72, 0.64), "mila": (0.68, 0.62)}
"""Pixel accuracy and depth d1, a little below what was measured. One class everywhere reaches 0.3."""
LARGEST = 30e6
"""Bytes of a shipped checkpoint."""


def scores(frames: list[Frame]) -> dict[str, dict]:
    """Metrics of the slow network and of MILA on every frame of the clip that has ground truth."""
    model = load_model("indoor")
    tasks = model.config.tasks
    totals = {name: TaskMetrics(tasks, len(model.config.classes)) for name in ("slow", "mila")}
    device = torch.device("cpu")
    with torch.inference_mode():
        for index, frame in enumerate(frames):
            if frame.labels is None or index < DISTANCE:
                continue
            image, intrinsics, truth = frame_tensors(frame, device)
            focal, size = intrinsics[:, 0], (image.shape[-2], image.shape[-1])
            before, _, _ = frame_tensors(frames[index - DISTANCE], device)
            carried = model.propagate(model.glance(image), model.keyframe(before))
            for name, features in (("slow", model.features(image)), ("mila", carried)):
                totals[name].update(model.answer(features, tasks, focal, size, confidence=False), truth)
    return {name: total.compute() for name, total in totals.items()}


def test_the_shipped_network_understands_the_shipped_clip() -> None:
    found = scores(list(Bag(clips_dir() / "demo").frames()))
    print(found)
    for name, (accuracy, delta1) in FLOORS.items():
        result = found[name]
        assert result["segmentation"]["pixel_accuracy"] > accuracy, name
        assert result["depth"]["delta1"] > delta1, name


def test_checkpoints_are_small_and_save_arithmetic() -> None:
    assert "indoor" in builtin_models()
    for name, path in builtin_models().items():
        assert path.stat().st_size < LARGEST, name
    flops = count_flops(load_model("indoor"), 480, 640)
    assert flops.saved(10) > 0.7
