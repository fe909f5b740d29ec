"""Rendered clips that are kept: the same ones again without rendering, whatever happened to the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.training import rooms
from mila_ros.training.data import Pool
from mila_ros.training.main import main as train
from mila_ros.training.rooms import kept_rooms

CPU = torch.device("cpu")


def make(folder: Path | None, seed: int = 0) -> Pool:
    return kept_rooms(None if folder is None else str(folder), 1, 2, 3, 32, 64, seed, CPU)


def same(ours: Pool, theirs: Pool) -> bool:
    return all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in rooms._TENSORS)


def test_kept_rooms_come_back_without_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "of" / "rooms"
    first = make(folder)
    assert same(first, make(None))
    assert [file.suffix for file in folder.iterdir()] == [".safetensors"]
    other = make(folder, seed=1)
    assert not same(first, other) and len(list(folder.iterdir())) == 2

    def refuse(*_: object) -> Pool:
        raise AssertionError("rendered again")

    monkeypatch.setattr(rooms, "pool_of_rendered", refuse)
    again = make(folder)
    assert same(first, again) and again.interval == first.interval == 3
    monkeypatch.setattr(rooms, "_renderer", lambda: "another")
    with pytest.raises(AssertionError, match="rendered again"):
        make(folder)


def test_rooms_with_optical_flow_are_others_and_keep_it(tmp_path: Path) -> None:
    make(tmp_path)
    moving = [kept_rooms(str(tmp_path), 1, 2, 3, 32, 64, 0, CPU, True) for _ in range(2)]
    assert len(list(tmp_path.iterdir())) == 2 and make(tmp_path).flow is None
    assert all(pool.flow is not None and pool.flow.shape == (1, 2, 2, 32, 64) for pool in moving)
    assert torch.equal(moving[0].flow, moving[1].flow) and same(*moving)


def test_a_damaged_file_is_rendered_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert same(first, make(tmp_path))
    assert "is damaged and rendered again" in capsys.readouterr().err
    assert same(first, make(tmp_path))
    assert "damaged" not in capsys.readouterr().err


def test_a_run_is_resumed_though_rooms_are_kept_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = "model={slow_backbone: mobilenetv3_small_050, fast_backbone: mobilenetv3_small_050, pretrained: false}"
    small = ["height=64", "width=64", "steps=2", "batch=2", "rendered_clips=2", "rendered_frames=1"]
    run = ["slow", "--out", str(tmp_path / "run"), "--device", "cpu", model, *small, "precision=32-true"]
    assert train([*run, "validate_every=0"]) == 0
    assert train([*run, f"rendered_folder={tmp_path / 'rooms'}", "validate_every=7"]) == 0
    assert "resumed at step 2" in capsys.readouterr().err
    with pytest.raises(UserError, match="made with other settings"):
        train([*run, "seed=5"])


def test_without_room_on_the_disk_they_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_tensors: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(rooms, "save_file", full)
    assert same(make(tmp_path), make(None))
    assert "are not kept" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_interrupt_while_rendering_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Pool:
        raise KeyboardInterrupt

    monkeypatch.setattr(rooms, "pool_of_rendered", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="rendered_folder .*file/rooms cannot be used"):
        make(tmp_path / "file" / "rooms")
