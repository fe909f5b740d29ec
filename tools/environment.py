"""The files that let people and programs use the environment: `mila-env` to source, `mila` to run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

# Search paths that a sourced ROS installation sets; kept as they were when the environment was made.
SEARCH_PATHS = ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "LD_LIBRARY_PATH", "PYTHONPATH")


def variables(venv: Path, install: Path, site_packages: Path, ros: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What has to be set, and in front of what is already in a search path: name -> value.

    ros: name of the ROS 2 installation that the environment was built on, "" for the wheels.
    """
    if ros:
        root = install.parent.parent.parent
        found = {name: without(environ.get(name, ""), root) for name in SEARCH_PATHS}
        values = {
            "AMENT_PREFIX_PATH": _joined(install, found["AMENT_PREFIX_PATH"]),
            "CMAKE_PREFIX_PATH": _joined(install, found["CMAKE_PREFIX_PATH"]),
            "LD_LIBRARY_PATH": _joined(install / "lib", found["LD_LIBRARY_PATH"]),
            "PYTHONPATH": found["PYTHONPATH"],
        }
        return {
            **values,
            **{n: environ[n] for n in ("ROS_DISTRO", "ROS_VERSION", "ROS_PYTHON_VERSION") if n in environ},
        }
    libraries = [install / "lib", venv / "lib", *sorted(site_packages.glob("ros_*.libs"))]
    return {
        "AMENT_PREFIX_PATH": _joined(install, venv),
        "CMAKE_PREFIX_PATH": _joined(install, venv),
        "LD_LIBRARY_PATH": _joined(*libraries),
        # The wheels start Python a second time to set LD_LIBRARY_PATH, unless this says that it is done.
        "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1",
    }


def script(root: Path, venv: Path, values: Mapping[str, str], ros: str) -> str:
    """Text of `mila-env`: POSIX shell (sh, bash, zsh), harmless to source twice."""
    programs = _quoted(venv / "bin")
    lines = [
        "# Made by `make setup`. Source it: ROS 2, the messages and the DDS profile of mila_ros in this shell.",
        f"export VIRTUAL_ENV={_quoted(venv)}",
        f'case ":$PATH:" in *:{programs}:*) ;; *) export PATH={programs}:"$PATH" ;; esac',
    ]
    if not ros:
        lines.append("# Another ROS sourced in this shell would shadow the wheels.")
        lines.append('if [ -n "${ROS_DISTRO:-}" ]; then unset ROS_DISTRO PYTHONPATH; fi')
    for name, value in values.items():
        if name == "LD_LIBRARY_PATH":
            lines.append(f'case ":${{{name}:-}}:" in *:{_quoted(value)}:*) ;; *)')
            lines.append(f'  export {name}={_quoted(value)}"${{{name}:+:${name}}}" ;; esac')
        else:
            lines.append(f"export {name}={_quoted(value)}")
    if not ros:
        lines.append(
            "# A middleware that the wheels lack (chosen in a .bashrc, say) would keep the nodes from starting."
        )
        lines.append(f'if [ ! -e {_quoted(venv)}/lib/lib"${{RMW_IMPLEMENTATION:-none}}".so ]; then')
        lines.append("  export RMW_IMPLEMENTATION=rmw_fastrtps_cpp; fi")
        lines.append("# Nobody else's robot by accident; SUBNET to talk to other machines.")
        lines.append('export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"')
    profile = _quoted(root / "config" / "fastdds.xml")
    lines.append("# The user's own profile wins. Fast DDS 2 (ROS 2 Jazzy) reads FASTRTPS_..., Fast DDS 3 warns of it.")
    older = ros in ("humble", "iron", "jazzy")
    variable = "FASTRTPS_DEFAULT_PROFILES_FILE" if older else "FASTDDS_DEFAULT_PROFILES_FILE"
    lines.append('if [ -z "${FASTDDS_DEFAULT_PROFILES_FILE:-}${FASTRTPS_DEFAULT_PROFILES_FILE:-}" ]; then')
    lines.append(f"  export {variable}={profile}")
    lines.append("fi")
    return "\n".join(lines) + "\n"


def launcher(venv: Path, program: Path) -> str:
    """Text of the command `mila`: libraries are found when a process starts, so a shell sets them first."""
    return (
        "#!/bin/sh\n"
        f". {_quoted(venv / 'bin' / 'mila-env')}\n"
        f'exec {_quoted(venv / "bin" / "python")} {_quoted(program)} "$@"\n'
    )


def write(root: Path, venv: Path, install: Path, site_packages: Path, ros: str, environ: Mapping[str, str]) -> None:
    """Write `mila-env`, `mila` and the .pth file that puts source tree and messages on Python's path."""
    values = variables(venv, install, site_packages, ros, environ)
    _replace(venv / "bin" / "mila-env", script(root, venv, values, ros), 0o644)
    _replace(venv / "bin" / "mila", launcher(venv, install / "lib" / "mila_ros" / "mila"), 0o755)
    # Source tree first: the code is used as it is written, the install space adds the generated messages.
    messages = next(iter(sorted(install.glob("**/mila_ros/msg/__init__.py"))), None)
    folders = [root] + ([messages.parent.parent.parent] if messages else [])
    _replace(site_packages / "mila_ros.pth", "".join(f"{folder}\n" for folder in folders), 0o644)


def _replace(path: Path, text: str, mode: int) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(mode)
    os.replace(fresh, path)


def _quoted(value: object) -> str:
    return shlex.quote(str(value))


def _joined(*parts: object) -> str:
    return ":".join(str(part) for part in parts if str(part))


def without(value: str, root: Path) -> str:
    """A search path without the folders inside `root`, which an earlier `mila-env` may have added."""
    return ":".join(p for p in value.split(":") if p and root not in Path(p).absolute().parents)
