"""Turn requirements*.in into lock files: every version pinned, for Linux x86-64 and Python 3.10 to 3.13.

Run with the environment's Python: `make lock`. Three files come out: requirements.lock (installed always),
requirements-ros.lock (installed where no ROS 2 installation is sourced) and constraints-cuda.lock. The last
holds what PyTorch's CUDA build brings along: it is given to the installer as constraints, so that a CPU build of
PyTorch (`UV_TORCH_BACKEND=cpu make setup`) stays free of it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA = re.compile(r"(nvidia|cuda)-|triton==")
# True of every environment that the lock is for (pyproject.toml, tool.uv.environments), so it says nothing.
ALWAYS = re.compile(r"python_full_version (< '3\.14'|>= '3\.10')|platform_machine == 'x86_64'|sys_platform == 'linux'")


def compiled(source: str, constraints: list[str]) -> list[str]:
    """Pinned lines for one requirements file, markers reduced to what differs between environments."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        "3.10",
    ]
    command += ["--no-python-downloads", "--upgrade", "--no-header", "--no-annotate", source]
    for name in constraints:
        command += ["--constraints", name]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [simplified(line) for line in out.splitlines() if line.strip()]


def simplified(line: str) -> str:
    """`name==1 ; a and b` without the conditions that always hold."""
    pin, _, marker = line.partition(" ; ")
    if " or " in marker:
        return line
    left = [part for part in marker.split(" and ") if part and not ALWAYS.fullmatch(part)]
    return f"{pin} ; {' and '.join(left)}" if left else pin


def write(name: str, comment: str, lines: list[str]) -> None:
    (ROOT / name).write_text(f"# Made by `make lock`; do not edit. {comment}\n" + "\n".join(lines) + "\n")


def main() -> int:
    lines = compiled("requirements.in", [])
    write(
        "requirements.lock",
        "What PyTorch's CUDA build brings along is pinned in constraints-cuda.lock.",
        [line for line in lines if not CUDA.match(line)],
    )
    write(
        "constraints-cuda.lock",
        "Constraints, not requirements: they bind only if PyTorch asks for them.",
        [line for line in lines if CUDA.match(line)],
    )
    lines = compiled("requirements-ros.in", ["requirements.lock"])
    write("requirements-ros.lock", "ROS 2 Kilted and its build tools, as wheels.", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
