"""Where the files that ship with mila_ros lie: source tree, colcon install space, pip installation."""

from __future__ import annotations

from pathlib import Path

from mila_ros.errors import UserError

PACKAGE = Path(__file__).parent


def config_dir(package: Path = PACKAGE) -> Path:
    """The folder `config` that belongs to the given copy of the Python package.

    pip puts it inside the package; in the source tree it lies beside it (told by package.xml, as any
    site-packages could hold a `config`); colcon puts it into `share/mila_ros` of the prefix, some levels up.
    """
    if (package / "config").is_dir():
        return package / "config"
    if (package.parent / "package.xml").is_file() and (package.parent / "config").is_dir():
        return package.parent / "config"
    for prefix in package.parents:
        shared = prefix / "share" / "mila_ros" / "config"
        if shared.is_dir():
            return shared
    raise UserError(f"the folder config of mila_ros is missing beside {package}: build or install the package again")


def config_path(name: str) -> Path:
    """A file under `config/`, for example `config_path("labels/nyu40.yaml")`; UserError if there is none."""
    return _existing(config_dir() / name)


def checkpoints_dir() -> Path:
    """The folder of the networks that ship with the package."""
    return _existing(PACKAGE / "checkpoints")


def clips_dir() -> Path:
    """The folder of the rosbag2 recordings that ship with the package."""
    return _existing(PACKAGE / "clips")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing from this installation of mila_ros: build or install the package again")
    return path
