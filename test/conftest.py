"""For every test: DDS stays on this host, in a domain of its own; without ROS 2 the tests that need it are left out."""

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path

import pytest

# Tests may choose another domain; none may meet a robot, or another run of the tests.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 101)))

# What is compiled for tests is kept from one run to the next, but not among the user's.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "kept")

HAS_ROS = importlib.util.find_spec("rclpy") is not None
collect_ignore = [] if HAS_ROS else ["ros"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent / "ros" in item.path.parents:
            item.add_marker("node")


def pytest_report_header() -> str:
    if HAS_ROS:
        return f"ROS 2 domain {os.environ['ROS_DOMAIN_ID']}, this host only"
    return "no ROS 2 here: test/ros is left out (`. .venv/bin/mila-env` first)"
