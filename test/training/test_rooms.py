"""Rendered clips that are kept: the same ones again without rendering, whatever happened to the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.training import rooms
from mila_ros.training.data import Pool
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


def test_a_damaged_file_is_rendered_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert same(first, make(tmp_path))
    assert "is damaged and rendered again" in capsys.readouterr().err
    assert same(first, make(tmp_path))
    assert "damaged" not in capsys.readouterr().err


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="rendered_folder .*file/rooms.* cannot keep rendered rooms"):
        make(tmp_path / "file" / "rooms")
