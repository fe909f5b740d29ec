"""What is written in many pieces and must not be taken for whole when it is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_nothing(folder: Path) -> Iterator[None]:
    """Removes the folder again where the work in it does not end; nothing else may have been in it before."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
