"""What this machine offers: a Python, a ROS 2 installation, a compiler, room on the disk."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

OLDEST, NEWEST = (3, 10), (3, 13)
RANGE = "3.10 to 3.13"

# Run by a candidate interpreter, so that it speaks for itself; -I would hide a sourced ROS.
PROBE = """
import importlib.util as i, json, os, sys, sysconfig
def has(name):
    return i.find_spec(name) is not None
def works(name):
    try:
        return bool(__import__(name))
    except Exception:
        return False
def version(name):
    try:
        return __import__(name).__version__
    except Exception:
        return ""
print(json.dumps({
    "executable": getattr(sys, "_base_executable", None) or sys.executable,
    "version": list(sys.version_info[:3]),
    "headers": os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")),
    "venv": has("venv") and has("ensurepip"),
    "rclpy": works("rclpy"),
    "numpy": version("numpy"),
    "cv2": version("cv2"),
}))
"""


class SetupError(Exception):
    """The set-up can't go on; the text is one sentence with the command that mends it."""


class Interpreter(NamedTuple):
    """A Python that can make the virtual environment, and what it sees."""

    executable: str
    version: tuple[int, int, int]
    headers: bool
    venv: bool
    rclpy: bool
    numpy: str
    cv2: str

    @property
    def name(self) -> str:
        """`python3.11`: the command's and the Debian package's name."""
        return f"python{self.version[0]}.{self.version[1]}"

    @property
    def supported(self) -> bool:
        return OLDEST <= self.version[:2] <= NEWEST


def probe(executable: str) -> Interpreter | None:
    """Ask an interpreter about itself; None if it does not run."""
    try:
        out = subprocess.run([executable, "-c", PROBE], capture_output=True, timeout=120)
        answer = json.loads(out.stdout.decode())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    answer["version"] = tuple(answer["version"])
    return Interpreter(**answer)


def sourced_ros(environ: Mapping[str, str], root: Path) -> str:
    """The name of the ROS 2 distribution whose setup file was sourced in this shell, or "".

    Prefixes inside `root` are this package's own (from `mila-env`) and don't count. Container images often
    set ROS_DISTRO without sourcing anything, so the prefixes decide.

    Raises:
        SetupError: the `mila-env` of another copy of this package was sourced, whose packages would be mixed in.
    """
    prefixes = [p for p in environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    foreign = [p for p in prefixes if root not in Path(p).absolute().parents]
    for prefix in foreign:
        if (Path(prefix) / "bin" / "mila-env").is_file():
            raise SetupError(f"this shell has sourced {prefix}/bin/mila-env, of another copy; open a new one")
    return environ.get("ROS_DISTRO", "an unnamed distribution") if foreign else ""


def choose_python(environ: Mapping[str, str], ros: str, running: str = sys.executable) -> Interpreter:
    """The Python for the virtual environment.

    Named by the variable PYTHON, or else the first of the running one, the distribution's and python3.13 to
    python3.10 that is supported and, where a ROS 2 is sourced, can import its rclpy. SetupError says what is
    missing.
    """
    if environ.get("ROS_VERSION") == "1":
        raise SetupError("ROS 1 is sourced in this shell; open one without it (or `source` a ROS 2) and run it again")
    asked = environ.get("PYTHON", "")
    names = [asked] if asked else [running, "/usr/bin/python3", "python3.13", "python3.12", "python3.11", "python3.10"]
    seen: list[Interpreter] = []
    for name in names:
        path = shutil.which(name)
        found = probe(path) if path else None
        if found is None:
            continue
        seen.append(found)
        if found.supported and (found.rclpy or not ros):
            return found
    if asked and not seen:
        raise SetupError(f"PYTHON={asked} does not run; name another, for example `make setup PYTHON=python3.12`")
    tried = ", ".join(sorted({f"{p.version[0]}.{p.version[1]}" for p in seen})) or "none"
    if not any(p.supported for p in seen):
        raise SetupError(
            f"Python {RANGE} is needed, found: {tried}; install one (Debian, Ubuntu: `sudo apt-get install -y "
            "python3.12 python3.12-dev python3.12-venv`, or by pyenv) and run `make setup PYTHON=python3.12`"
        )
    raise SetupError(
        f"ROS 2 ({ros}) is sourced, but no Python {RANGE} here can import its rclpy (tried {tried}); install it "
        f"(`sudo apt-get install -y ros-{ros}-rclpy`), or open a shell without ROS to use the wheels"
    )


def check_platform(ros: str, system: str = sys.platform, arch: str = platform.machine()) -> None:
    """SetupError where neither a ROS 2 installation nor its wheels can be had."""
    if system != "linux":
        raise SetupError(f"Linux is needed, this is {system}; use a virtual machine or a container")
    if not ros and arch not in ("x86_64", "AMD64"):
        raise SetupError(
            f"the ROS 2 wheels are for x86-64 only, this is {arch}; install ROS 2, then "
            "`source /opt/ros/$ROS_DISTRO/setup.bash` and run it again"
        )


def check_tools(python: Interpreter, which=shutil.which) -> None:
    """SetupError naming every missing build tool and the one command that installs them."""
    missing: list[str] = []
    packages: list[str] = []
    if not ((which("c++") or which("g++") or which("clang++")) and (which("cc") or which("gcc") or which("clang"))):
        missing.append("a C++ compiler")
        packages.append("g++")
    if not which("make"):
        missing.append("make")
        packages.append("make")
    if not python.headers:
        missing.append(f"the headers of {python.name}")
        packages.append(f"{python.name}-dev")
    if not python.venv:
        missing.append(f"venv for {python.name}")
        packages.append(f"{python.name}-venv")
    if missing:
        raise SetupError(f"missing: {', '.join(missing)}; run `sudo apt-get install -y {' '.join(packages)}`")


def check_disk(places: Mapping[str, tuple[Path, float]], usage=shutil.disk_usage) -> None:
    """SetupError where a file system lacks room. `places`: what -> (folder, gigabytes that will be written there)."""
    needed: dict[int, list] = {}
    for what, (folder, size) in places.items():
        while not folder.exists():
            folder = folder.parent
        entry = needed.setdefault(os.stat(folder).st_dev, [folder, 0.0, []])
        entry[1] = max(entry[1], size)  # on one file system the installer links from its cache instead of copying
        entry[2].append(what)
    for folder, size, whats in needed.values():
        free = usage(folder).free / 1e9
        if free < size:
            raise SetupError(
                f"{folder} has {free:.1f} GB free, {size:.1f} GB are needed for {' and '.join(whats)}; make room (`uv "
                "cache clean` frees the installer's cache), or `UV_TORCH_BACKEND=cpu make setup` (2.5 GB are enough)"
            )
