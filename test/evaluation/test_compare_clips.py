"""Motion clips, the video classifier, and their comparison."""

import json
from pathlib import Path

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.evaluation.compare import main as compare
from mila_ros.evaluation.compare_clips import format_clips
from mila_ros.models.checkpoint import save_model
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.models.video import TEMPORAL, VideoClassifier
from mila_ros.training.clips import ClipFeatures, accuracy, train_classifier
from mila_ros.worlds.motion_clips import FRAMES, MOTIONS, motion_clips


def test_clips_move_as_their_label_says() -> None:
    clips = motion_clips(len(MOTIONS), 3, 48, 64)
    assert clips.rgb.shape == (8, FRAMES, 3, 48, 64) and clips.labels.tolist() == list(range(8))
    change = (clips.rgb[:, 1:].float() - clips.rgb[:, :-1].float()).abs().mean(dim=(1, 2, 3, 4))
    assert change.argmin() == MOTIONS.index("still")
    torch.testing.assert_close(motion_clips(2, 3, 48, 64).rgb, clips.rgb[:2])


def moving_spots(count: int, seed: int) -> ClipFeatures:
    """A spot that goes right (0) or left (1) over noise: no single frame tells which."""
    generator = torch.Generator().manual_seed(seed)
    features = 0.1 * torch.randn(count, FRAMES, 8, 6, 16, generator=generator)
    labels = torch.arange(count) % 2
    start = torch.randint(0, 16, (count,), generator=generator)
    for clip in range(count):
        for frame in range(FRAMES):
            features[clip, frame, 0, :, (int(start[clip]) + (1 - 2 * int(labels[clip])) * frame) % 16] += 2
    return ClipFeatures(features.half(), labels)


def test_order_is_nothing_to_the_plain_way_and_something_to_the_others() -> None:
    torch.manual_seed(0)
    clip = torch.randn(2, FRAMES, 8, 6, 8)
    for temporal in TEMPORAL:
        model = VideoClassifier(8, 3, FRAMES, temporal, 16).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        forward, backward = model(clip), model(clip.flip(1))
        assert forward.shape == (2, 3)
        assert torch.allclose(forward, backward, atol=1e-4) == (temporal == "plain"), temporal
    with pytest.raises(ValueError, match="one of plain, alignment, laps"):
        VideoClassifier(8, 3, FRAMES, "flow")


@pytest.mark.parametrize("temporal", TEMPORAL)
def test_direction_is_learned_by_those_that_see_time(temporal: str) -> None:
    model = train_classifier(moving_spots(64, 0), 2, temporal, seed=0, epochs=14)
    right = accuracy(model, moving_spots(40, 1))
    assert right < 0.75 if temporal == "plain" else right > 0.9, right


def test_the_command_prints_every_way(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    file, out = tmp_path / "tiny.safetensors", tmp_path / "clips.json"
    save_model(Mila(ModelConfig.tiny()), file)
    command = ["--task", "clips", "--model", str(file), "--seeds", "2", "--epochs", "1"]
    assert compare([*command, "--clips", "16", "--json", str(out)]) == 0
    methods = json.loads(out.read_text())["methods"]
    assert list(methods) == list(TEMPORAL)
    for result in methods.values():
        assert len(result["by_seed"]) == 2 and result["gflops"] > 0
        assert result["accuracy"] == pytest.approx(sum(result["by_seed"]) / 2)
    assert methods["laps"]["parameters"] > methods["plain"]["parameters"]
    assert "alignment" in capsys.readouterr().out
    with pytest.raises(UserError, match="16 clips to learn from"):
        compare([*command, "--clips", "4"])
    with pytest.raises(UserError, match="one model's backbone"):
        compare(["--task", "clips", "--model", "a", "b"])
    with pytest.raises(UserError, match="leave out --data, --plot"):
        compare([*command, "--data", "rendered:1", "--plot", "a.png"])
    with pytest.raises(UserError, match="--data is missing"):
        compare([])


def test_clearly_above_means_every_seed() -> None:
    def result(*found: float) -> dict:
        return {"accuracy": sum(found) / len(found), "by_seed": list(found), "gflops": 0.1, "parameters": 10}

    text = format_clips({"plain": result(0.2, 0.3), "laps": result(0.4, 0.31), "alignment": result(0.9, 0.29)})
    assert "laps: each seed above every seed of plain" in text and "alignment: not clearly above plain" in text
