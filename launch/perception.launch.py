"""The node `perception`: camera frames in; segmentation, depth, normals and compute budget out.

    ros2 launch mila_ros perception.launch.py image_topic:=/camera/color/image_raw

`--show-args` lists the arguments. What an argument leaves empty comes from the parameters file, and what that does not
name from the node's defaults.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterFile

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

CONFIG = Path(__file__).parent.parent / "config"
# Fast DDS 3 (ROS 2 Kilted and later) reads the first, and warns of the second, which Fast DDS 2 reads.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
PROFILE_VARIABLE = PROFILE_VARIABLES[os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")]
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
TRUTHS = {"true": True, "True": True, "false": False, "False": False}
TASKS = ("segmentation", "depth", "normals")


def generate_launch_description() -> LaunchDescription:
    """Arguments, the node, and RViz where wanted."""
    profile = "none" if os.environ.get(PROFILE_VARIABLE) else str(CONFIG / "fastdds.xml")
    return LaunchDescription(
        [
            # Cameras.
            _argument("cameras", "", "Names of the cameras with commas between: front,rear. Empty: as in params_file"),
            _argument("image_topic", "", "Pictures of the first camera. Empty: as in params_file"),
            _argument("camera_info_topic", "", "Its calibration. Empty: as in params_file"),
            _argument(
                "transport",
                "",
                "Its kind of pictures: raw (Image), compressed (CompressedImage), or auto: raw, and compressed where "
                "only that is published. Empty: as in params_file",
                choices=("", "auto", "raw", "compressed"),
            ),
            # Network.
            _argument(
                "model_file", "", "Checkpoint (.safetensors) or name of a shipped model. Empty: as in params_file"
            ),
            _argument("device", "", "auto, cpu, cuda or cuda:N. Empty: as in params_file"),
            # Node.
            _argument("params_file", str(CONFIG / "perception.yaml"), "YAML file of the node's parameters"),
            _argument("namespace", "", "Namespace of the node and its topics"),
            _argument(
                "autostart",
                "",
                "Whether the node configures and activates itself, true or false. Empty: as in params_file",
                choices=("", *TRUTHS),
            ),
            _argument(
                "use_sim_time",
                "",
                "Whether time is what /clock says, true or false. Empty: as in params_file",
                choices=("", *TRUTHS),
            ),
            _argument("log_level", "info", "From which level on the node logs", choices=LOG_LEVELS),
            _argument(
                "required",
                "true",
                "Whether everything launched ends, with status 1, when the node fails. Choose false where this file is "
                "a part of a larger launch that can go on without perception",
                choices=tuple(TRUTHS),
            ),
            # Around it.
            _argument(
                "dds_profile",
                profile,
                "XML file of Fast DDS settings with room for images in shared memory, or none (the default where the "
                "environment names one). Give it to the camera's driver, too: the room is the sender's",
            ),
            _argument("rviz", "false", "Whether to start RViz on the first camera's pictures", choices=tuple(TRUTHS)),
            OpaqueFunction(function=_start),
        ]
    )


def _argument(
    name: str, default: str, description: str, choices: tuple[str, ...] | None = None
) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node with what the arguments say."""

    def value(name: str) -> str:
        return context.perform_substitution(LaunchConfiguration(name)).strip()

    params_file = Path(value("params_file")).expanduser()
    named = _words(value("cameras"))
    # Of a group that this file is included in, with the argument's behind it: where the node will be.
    outer = context.launch_configurations.get("ros_namespace", "").strip("/")
    inner = value("namespace")
    namespace = inner.strip("/") if inner.startswith("/") else "/".join(filter(None, [outer, inner.strip("/")]))
    camera = (named or _cameras(params_file, namespace))[0]
    parameters = _overrides(value, named, camera)
    environment = _environment(value("dds_profile"))
    required = TRUTHS[value("required")]

    def ended(event: ProcessExited, _: LaunchContext) -> None:
        # Launch itself would end with status 0. After Ctrl-C the node's status means nothing.
        if required and event.returncode and not context.is_shutdown:
            raise RuntimeError(f"perception ended with status {event.returncode}; its output above says why")

    node = LifecycleNode(
        package="mila_ros",
        executable="perception",
        name="perception",
        namespace=f"/{namespace}",  # whole: it is not put behind the group's once more
        parameters=[ParameterFile(str(params_file), allow_substs=True), *([parameters] if parameters else [])],
        # The node's own level: the debug lines of rcl and the middleware would bury its own.
        ros_arguments=[
            "--log-level",
            ".".join([*filter(None, namespace.split("/")), f"perception:={value('log_level')}"]),
        ],
        additional_env=environment,
        output="screen",
        emulate_tty=True,
        sigterm_timeout="15",  # a model that is being loaded is let finish
        on_exit=ended,
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(CONFIG / "perception.rviz")],
        parameters=[{"use_sim_time": parameters["use_sim_time"]}] if "use_sim_time" in parameters else [],
        # The layout is made for /perception/front.
        remappings=[
            (
                f"/perception/front/{topic}",
                f"{'/' + namespace if namespace else ''}/perception/{camera}/{topic}",
            )
            for topic in (*(f"{task}/view" for task in TASKS), "points")
        ],
        additional_env=environment,
        condition=IfCondition(value("rviz")),
    )
    # RViz first: where it is missing launch gives up, and a node that is just being started would be left behind.
    return [rviz, node]


def _words(text: str) -> list[str]:
    """`front,rear` and `[front, rear]` alike."""
    return [word.strip(" \"'") for word in text.strip("[] ").split(",") if word.strip()]


def _cameras(params_file: Path, namespace: str) -> list[str]:
    """The cameras that a parameters file names for this node; the node's default where it names none."""
    try:
        content = yaml.safe_load(params_file.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RuntimeError(f"params_file: {params_file} cannot be read: {error}") from error
    own = [*filter(None, namespace.split("/")), "perception"]
    found: list[str] = ["front"]
    rank = -1
    blocks: list[tuple[list[str], Any]] = [([], content)]
    while blocks:
        path, block = blocks.pop()
        if not isinstance(block, dict):
            continue
        parameters = block.get("ros__parameters")
        exact = sum(part not in ("*", "**") for part in path)
        if isinstance(parameters, dict) and parameters.get("cameras") and _matches(path, own) and exact > rank:
            found, rank = [str(name) for name in parameters["cameras"]], exact
        blocks += [([*path, *filter(None, str(key).split("/"))], inner) for key, inner in block.items()]
    return found


def _matches(pattern: list[str], name: list[str]) -> bool:
    """Whether a block of a parameters file is this node's: * is one part of a name, ** any number of them."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_matches(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and pattern[0] in ("*", name[0]) and _matches(pattern[1:], name[1:])


def _overrides(value: Callable[[str], str], cameras: list[str], camera: str) -> dict[str, Any]:
    """The parameters that arguments set; they win over the file's. `camera`: the one that the topics belong to."""
    parameters: dict[str, Any] = {"cameras": cameras} if cameras else {}
    for name in ("image_topic", "camera_info_topic", "transport"):
        if value(name):
            parameters[f"{camera}.{name}"] = value(name)
    for argument, name in (("model_file", "model"), ("device", "device")):
        if value(argument):
            parameters[name] = value(argument)
    for name in ("autostart", "use_sim_time"):
        if value(name):
            parameters[name] = TRUTHS[value(name)]
    return parameters


def _environment(profile: str) -> dict[str, str]:
    """What the processes get beside the user's environment."""
    if profile in ("", "none"):
        return {}
    path = Path(profile).expanduser().absolute()
    if not path.is_file():
        raise RuntimeError(f"dds_profile: there is no file {path}; dds_profile:=none starts without one")
    return {PROFILE_VARIABLE: str(path)}
