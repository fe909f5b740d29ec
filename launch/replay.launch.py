"""The node `perception` and a recording for it: `ros2 bag play` starts once the node is active.

    ros2 launch mila_ros replay.launch.py bag:=/path/to/recording

All arguments of perception.launch.py work here, too. `ros2 launch mila_ros replay.launch.py --show-args` lists them.
"""

import asyncio
import os
import shlex
import time
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueCoroutine,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
    TimerAction,
)
from launch.event_handler import EventHandler
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState

from launch import Event, LaunchContext, LaunchDescription, LaunchDescriptionEntity

# As in perception.launch.py.
PROFILE_VARIABLE = (
    "FASTRTPS_DEFAULT_PROFILES_FILE"
    if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    else "FASTDDS_DEFAULT_PROFILES_FILE"
)
TRUTHS = {"true": True, "True": True, "false": False, "False": False}
# Time for the answers to the last frames.
SECONDS_AFTER_END = 2.0
# How often the node is asked whether it is active, and how many of these pauses it may take to answer.
POLL_SECONDS = 0.2
ANSWER_POLLS = 50
# After how long it is said, again and again, what the recording waits for.
SECONDS_TOLD = 15.0


def generate_launch_description() -> LaunchDescription:
    """Arguments, the node, and the player that waits for it."""
    perception = PythonLaunchDescriptionSource(str(Path(__file__).parent / "perception.launch.py"))
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="The recording: a rosbag2 folder or file."),
            DeclareLaunchArgument("rate", default_value="1.0", description="How fast to play; 1.0: as recorded."),
            _truth("loop", "false", "Whether to begin again at the end."),
            _truth("clock", "true", "Whether the bag's time goes to /clock and the node lives in it (use_sim_time)."),
            _truth("exit_at_end", "false", "Whether to stop everything when the recording has ended."),
            DeclareLaunchArgument(
                "play_arguments",
                default_value="",
                description='More for `ros2 bag play`, for example "--start-offset 10 --remap /image:=/camera/image".',
            ),
            OpaqueFunction(function=_prepare),
            IncludeLaunchDescription(perception),
            OpaqueFunction(function=_play),
        ]
    )


def _truth(name: str, default: str, description: str) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, default_value=default, description=description, choices=tuple(TRUTHS))


def _value(context: LaunchContext, name: str) -> str:
    return context.perform_substitution(LaunchConfiguration(name, default=""))


def _prepare(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Look at the arguments before anything starts."""
    bag, rate = Path(_value(context, "bag")).expanduser(), _value(context, "rate")
    if not bag.exists():
        raise RuntimeError(f"bag: there is no file or folder {bag}")
    try:
        good = 0.0 < float(rate) < float("inf")
    except ValueError:
        good = False
    if not good:
        raise RuntimeError(f'rate is "{rate}"; give a number above 0, such as 0.5')
    if TRUTHS[_value(context, "clock")] and not _value(context, "use_sim_time"):
        return [SetLaunchConfiguration("use_sim_time", "true")]
    return []


def _play(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The player, as soon as the node listens: what is played before is lost."""
    command = ["ros2", "bag", "play", str(Path(_value(context, "bag")).expanduser()), "--rate", _value(context, "rate")]
    command += ["--loop"] if TRUTHS[_value(context, "loop")] else []
    command += ["--clock"] if TRUTHS[_value(context, "clock")] else []
    command += shlex.split(_value(context, "play_arguments"))
    profile = _value(context, "dds_profile")

    def ended(event: ProcessExited, _: LaunchContext) -> list[LaunchDescriptionEntity]:
        if context.is_shutdown:
            return []
        if event.returncode:
            raise RuntimeError(
                f"`ros2 bag play` ended with status {event.returncode}; the reason is in its output above"
            )
        if TRUTHS[_value(context, "exit_at_end")]:
            shutdown = EmitEvent(event=Shutdown(reason="the recording has ended"))
            return [TimerAction(period=SECONDS_AFTER_END, actions=[shutdown])]
        return [LogInfo(msg="the recording has ended; the node goes on until Ctrl-C")]

    player = ExecuteProcess(
        cmd=command,
        name="bag_player",
        # The room for images in shared memory is the sender's.
        additional_env={}
        if profile in ("", "none")
        else {PROFILE_VARIABLE: str(Path(profile).expanduser().absolute())},
        output="screen",
        on_exit=ended,
    )
    return [
        RegisterEventHandler(
            EventHandler(matcher=lambda event: isinstance(event, NodeActive), entities=[player], handle_once=True)
        ),
        OpaqueCoroutine(coroutine=_wait),
    ]


class NodeActive(Event):
    """The node answers frames."""

    name = "mila_ros.NodeActive"


async def _wait(context: LaunchContext) -> None:
    """Ask the node for its state until it is active: its message about that may be sent before we are connected."""
    outer, inner = context.launch_configurations.get("ros_namespace", "").strip("/"), _value(context, "namespace")
    parts = [inner.strip("/")] if inner.startswith("/") else [outer, inner.strip("/")]  # as in perception.launch.py
    service = "/".join(["", *filter(None, parts), "perception", "get_state"])
    node = get_ros_node(context)
    client = node.create_client(GetState, service)
    begin, told = time.monotonic(), 0
    while True:
        if time.monotonic() - begin > SECONDS_TOLD * (told + 1):
            told += 1
            node.get_logger().info(f"the recording waits until {service} says that the node is active")
        if client.service_is_ready():
            future = client.call_async(GetState.Request())
            for _ in range(ANSWER_POLLS):
                if future.done():
                    break
                await asyncio.sleep(POLL_SECONDS)
            if future.done() and future.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
                break
        await asyncio.sleep(POLL_SECONDS)
    await context.emit_event(NodeActive())
