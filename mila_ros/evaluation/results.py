"""The folder of results: made, and freed of what a former run has left there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from mila_ros.errors import UserError


def prepare(out: Path, ours: Iterable[str]) -> None:
    """Make the folder, without the files and folders of these names; nothing else in it is touched.

    Raises:
        UserError: it cannot be written.
    """
    try:
        for name in ours:
            path = out / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be used for the results: {error.strerror}") from error
