"""Several ways from one start: alike but for what makes each, not trained twice, in one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.models.checkpoint import load_model, read_header, save_model
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.training.ablation import begun_anew
from mila_ros.training.ablation import main as ablate
from mila_ros.worlds.labels import load_labels

from ..worlds.nyu_tree import make_tree


def start(path: Path) -> Path:
    torch.manual_seed(3)
    config = ModelConfig.tiny().to_dict() | {"classes": load_labels("nyu40").classes, "working_pixels": 48 * 64}
    save_model(Mila(ModelConfig.from_dict(config)), path, {"stages": ["slow", "fast"]})
    return path


def test_a_start_keeps_the_slow_part_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = start(tmp_path / "source.safetensors")
    begun = load_model(begun_anew(str(source), tmp_path / "begun.safetensors"))
    torch.testing.assert_close(begun.slow.state_dict(), load_model(source).slow.state_dict())
    ours, theirs = (m.fast.lateral8.conv.weight for m in (begun, load_model(source)))
    assert not torch.equal(ours, theirs)
    assert "begins with random weights" in capsys.readouterr().err
    assert read_header(tmp_path / "begun.safetensors")[1]["stages"] == ["slow"]


def test_ways_are_trained_once_and_stand_in_one_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tree = make_tree(tmp_path / "tree", ["0022", "0131", "0132", "0500"])
    (tree / "validation.txt").write_text("0131\n")
    (tmp_path / "out").mkdir()
    ways = ["--ways", "multi-frame", "laps", "--distances", "5"]
    source = start(tmp_path / "source.safetensors")
    size = ["height=32", "width=64", "batch=2", "steps=2", "rendered_clips=0", "precision=32-true"]
    command = [*ways, "--out", str(tmp_path / "out"), "--data", f"nyuv2:{tree}", "--start", str(source), *size]
    assert ablate([*command, "--device", "cpu"]) == 0
    table = capfd.readouterr().out
    assert "multi-frame mila@5" in table and "laps mila@5" in table
    frames, laps = (read_header(tmp_path / f"out/{way}.safetensors")[0] for way in ("multi-frame", "laps"))
    assert (frames.frames, frames.window, frames.warp, frames.reach) == (3, 9, False, 0)
    assert (laps.propagation, laps.warp, laps.reach) == ("laps", False, 0)
    assert "laps mila@5" in json.loads((tmp_path / "out/ablation.json").read_text())["methods"]
    assert ablate([*command, "--device", "cpu"]) == 0
    assert "laps: done before" in capfd.readouterr().err
    with pytest.raises(UserError, match="multi-frame.safetensors was made from another start or with other settings"):
        ablate([*command, "seed=7", "--device", "cpu"])
    (tmp_path / "out/laps.safetensors").unlink()
    with pytest.raises(UserError, match="the training of laps ended with status 2"):
        ablate([*command, "steps=0", "--device", "cpu", "--ways", "laps"])


def test_ways_with_flow_begin_with_what_the_stage_flow_has_learned(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = make_tree(tmp_path / "tree", ["0022", "0131", "0132", "0500"])
    (tree / "validation.txt").write_text("0131\n")
    (tmp_path / "out").mkdir()
    source = start(tmp_path / "source.safetensors")
    command = ["--out", str(tmp_path / "out"), "--data", f"nyuv2:{tree}", "--start", str(source), "--device", "cpu"]
    command += ["height=32", "width=64", "batch=2", "steps=1", "rendered_clips=0", "precision=32-true"]
    # What the stage flow cannot have does not keep it from the ways that have it.
    command += ["blend=0.5", "adversary_weight=0.1", "task_weighting=learned"]
    assert ablate([*command, "--ways", "laps", "--distances", "5"]) == 0
    assert not (tmp_path / "out/flow.safetensors").exists()
    assert ablate([*command, "--ways", "exact-flow", "accel", "--distances", "5"]) == 0
    assert "flow: done before" in capfd.readouterr().err
    assert read_header(tmp_path / "out/flow.safetensors")[1]["stages"] == ["slow", "flow"]
    for way, propagation in (("exact-flow", "learned-flow"), ("accel", "accel")):
        config, card = read_header(tmp_path / f"out/{way}.safetensors")
        assert (config.propagation, card["stages"]) == (propagation, ["slow", "flow", "fast"])


def test_the_slow_stage_with_and_without_cross_attention(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tree = make_tree(tmp_path / "tree", ["0022", "0131", "0132", "0500"])
    (tree / "validation.txt").write_text("0131\n")
    out = tmp_path / "out"
    out.mkdir()
    source = start(tmp_path / "source.safetensors")
    command = ["--stage", "slow", "--out", str(out), "--data", f"nyuv2:{tree}", "--start", str(source), "batch=2"]
    with pytest.raises(UserError, match="the stage slow knows trained-on, cross-attention; not laps"):
        ablate([*command, "--ways", "laps", "--device", "cpu"])
    with pytest.raises(UserError, match="--distances are of the stage fast"):
        ablate([*command, "--distances", "5", "--device", "cpu"])
    rooms = ["rendered_clips=2", "rendered_frames=1"]
    settings = ["height=32", "width=64", "steps=2", "precision=32-true", *rooms]
    assert ablate([*command, *settings, "--device", "cpu"]) == 0
    table = capfd.readouterr().out
    assert "trained-on slow" in table and "cross-attention slow" in table
    assert "mila@" not in table and "trained-on fast" not in table
    # The same folder by another name is the same folder.
    moved = tmp_path / "moved"
    out.rename(moved)
    again = [*command, *settings, "--device", "cpu"]
    again[again.index(str(out))] = str(moved)
    assert ablate(again) == 0
    assert "cross-attention: done before" in capfd.readouterr().err
    out = moved
    with_it, without = (read_header(out / f"{way}.safetensors")[0] for way in ("cross-attention", "trained-on"))
    assert with_it.cross_attention and not without.cross_attention
    assert len(list((out / "rooms").glob("*.safetensors"))) == 1
    assert not (out / "trained-on/validation.jsonl").exists()
