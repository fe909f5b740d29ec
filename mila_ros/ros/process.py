"""`mila node`: the process around the node, from its arguments to its end."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import rclpy
from rclpy.exceptions import InvalidNodeNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from mila_ros.errors import UserError
from mila_ros.ros.arguments import check_parameter_file, check_parameters
from mila_ros.ros.perception import Perception
from mila_ros.ros.support import interruptible

LONGEST_END = 10.0  # seconds from a signal to the end of the process


def _arguments(argv: list[str]) -> list[str]:
    """The ROS arguments to start with: those given, and the short forms that `mila node` also takes."""
    parser = argparse.ArgumentParser(
        prog="mila node",
        description="Run the perception node: camera frames in, segmentation, depth, normals and budget out.",
        epilog="All ROS arguments work after --ros-args: -p NAME:=VALUE, -r FROM:=TO, --log-level LEVEL, ...",
    )
    parser.add_argument("--params-file", action="append", default=[], metavar="FILE", help="YAML file of parameters")
    parser.add_argument(
        "-p", "--param", action="append", default=[], metavar="NAME:=VALUE", help="one parameter, such as device:=cpu"
    )
    # Not rclpy's remove_ros_args: outside --ros-args it still takes NAME:=VALUE away (an old form of remapping).
    split = argv.index("--ros-args") if "--ros-args" in argv else len(argv)
    own = parser.parse_args(argv[:split])
    ros = argv[split:] or ["--ros-args"]
    check_parameters(own.param)
    for file in own.params_file:
        check_parameter_file(Path(file))
        ros += ["--params-file", file]
    for param in own.param:
        ros += ["-p", param]
    return ros


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the node until SIGINT or SIGTERM; ends the process then, with status 0.

    Raises:
        UserError: it cannot start: a wrong parameter, or, with autostart, no such model or device.
    """
    arguments = _arguments(list(argv or []))
    try:
        # Signals are ours: the node is to be taken down in order, while the middleware is still there.
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy has a class for each thing that can be wrong with arguments
        # Without rcl's own source lines: "..., at /project/src/rcl/arguments.c:415".
        raise UserError(f"ROS arguments: {re.sub(', at [^ ]*:[0-9]+', '', str(error))}") from error
    stopped = threading.Event()
    with interruptible(stopped):  # to the very end: launch passes a Ctrl-C on as a second SIGINT
        try:
            _run(stopped)
        finally:
            rclpy.try_shutdown()
        # All is closed. Taking PyTorch's modules apart would take seconds more on a busy machine.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _run(stopped: threading.Event) -> None:
    try:
        node = Perception()
    except InvalidNodeNameException as error:
        raise UserError(str(error)) from error
    executor = SingleThreadedExecutor()
    try:
        executor.add_node(node)
        for step in (node.trigger_configure, node.trigger_activate) if node.settings.autostart else ():
            if stopped.is_set():
                break
            if step() != TransitionCallbackReturn.SUCCESS:
                raise UserError(node.failure or "the node could not be activated; see the log above")
        while not stopped.is_set():
            executor.spin_once(timeout_sec=0.2)
    finally:
        # A device that hangs must not keep the process: `ros2 launch` gives it 15 s before it kills.
        watchdog = threading.Timer(LONGEST_END, os._exit, (1,))
        watchdog.daemon = True
        watchdog.start()
        node.on_shutdown(LifecycleState(state_id=0, label="exit"))
        executor.shutdown()
        node.destroy_node()
        watchdog.cancel()
