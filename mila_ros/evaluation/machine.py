"""What a measurement ran on: hardware and versions. Only what can be found out; nothing is guessed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil
import torch

from mila_ros import __version__

_PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "rosbags")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The CPU's name as the kernel gives it, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def hardware() -> dict[str, str]:
    """Name -> value, for people."""
    found = {
        "CPU": f"{processor()}, {cores()} cores usable of {os.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": platform.platform(terse=True),
    }
    if torch.cuda.is_available():
        found["GPU"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return found


def versions() -> dict[str, str]:
    """Name -> version of what matters for the numbers."""
    found = {"mila_ros": __version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        version = _version(name)
        if version:
            found[name] = version
    distribution = os.environ.get("ROS_DISTRO")
    wheel = _version("ros-kilted-rclpy")
    if distribution:
        found["ROS 2"] = distribution
    elif wheel:
        found["ROS 2"] = f"kilted, rclpy {wheel}"
    found["middleware"] = os.environ.get("RMW_IMPLEMENTATION", "the default one")
    profile = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE") or os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE")
    found["DDS profile"] = Path(profile).name if profile else "none"
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
