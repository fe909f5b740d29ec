"""Launch files and the parameters file: they agree with the node, and make the commands that they promise.

The launch files are looked at, not run: no process is started. Without ROS 2's launch only their syntax is checked.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
PARAMETERS = ROOT / "config" / "perception.yaml"
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


def flat(block: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"view": {"opacity": 1.0}} -> {"view.opacity": 1.0}."""
    values: dict[str, Any] = {}
    for name, value in block.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


def parameters() -> dict[str, Any]:
    return flat(yaml.safe_load(PARAMETERS.read_text())["/**"]["ros__parameters"])


def declared() -> dict[str, Any]:
    """Parameter -> Setting, for the default camera."""
    pytest.importorskip("rclpy", reason="the node's parameters need rclpy (. .venv/bin/mila-env)")
    from mila_ros.ros.parameters import SETTINGS, camera_settings

    return {setting.name: setting for setting in (*SETTINGS, *camera_settings("front", first=True))}


def comments() -> dict[str, str]:
    """Parameter -> the comment above it, by the file's order and indents."""
    said: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    lines: list[str] = []
    for line in PARAMETERS.read_text().splitlines():
        text = line.strip()
        if text.startswith("#"):
            lines.append(text.lstrip("# "))
            continue
        found = re.match(r"( *)([\w/*]+):", line)
        if found:
            indent, name = len(found[1]), found[2]
            path = [(depth, part) for depth, part in path if depth < indent] + [(indent, name)]
            said[".".join(part for _, part in path[2:])] = " ".join(lines)
        lines = []
    return said


# Parameters file ------------------------------------------------------------------------------------------------------


def test_parameters_file_has_every_parameter_with_its_default():
    settings = declared()
    values = parameters()
    assert sorted(values) == sorted(settings)
    wrong = {
        name: (values[name], setting.default) for name, setting in settings.items() if values[name] != setting.default
    }
    assert not wrong, f"perception.yaml and the node disagree (file, node): {wrong}"
    # rcl refuses a whole number for a floating point parameter.
    kinds = {
        name: type(values[name])
        for name, setting in settings.items()
        if type(values[name]) is not type(setting.default)
    }
    assert not kinds


def test_parameters_file_explains_every_parameter():
    said = comments()
    short = [name for name in parameters() if len(said[name]) < 40]
    assert not short, f"no explanation above {short}"


def test_parameters_file_tells_what_is_fixed_and_what_is_possible():
    said = comments()
    for name, setting in declared().items():
        assert ("[fixed]" in said[name]) == setting.fixed, name
        missing = [choice for choice in setting.choices if choice not in said[name]]
        assert not missing, f"{name}: {missing} not mentioned"


# Launch files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_compiles(path):
    code = compile(path.read_text(), str(path), "exec")
    assert "generate_launch_description" in code.co_names


def test_both_launch_files_are_there():
    assert [path.name for path in LAUNCH_FILES] == ["perception.launch.py", "replay.launch.py"]


@pytest.fixture
def ros_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """ROS 2's launch, and an environment that names no profile. The folder `launch` here is no substitute for it."""
    for module in ("launch.actions", "launch_ros.actions"):
        pytest.importorskip(module, reason="launch and launch_ros come with a ROS 2 installation")
    for name in (*PROFILES, "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def told(ros_launch: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Executable -> what the launch files give to its node action; it stands in for ROS 2's own."""
    import launch.actions
    import launch_ros.actions

    given: dict[str, dict[str, Any]] = {}

    class Recorded(launch.actions.LogInfo):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(msg=arguments["executable"], condition=arguments.get("condition"))
            self.arguments = arguments

        def execute(self, context: Any) -> None:
            given[self.arguments["executable"]] = self.arguments

    monkeypatch.setattr(launch_ros.actions, "LifecycleNode", Recorded)
    monkeypatch.setattr(launch_ros.actions, "Node", Recorded)
    return given


def description(name: str):
    """The launch description of a file, as ros2 launch loads it."""
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), ROOT / "launch" / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def expand(name: str, arguments: dict[str, str]) -> tuple[list[Any], Any]:
    """All actions that the file comes to with these arguments, and their context; processes are not started."""
    import launch.actions as kinds

    import launch

    context = launch.LaunchContext()
    context.launch_configurations.update(arguments)
    actions: list[Any] = []

    def visit(entity: Any) -> None:
        if isinstance(entity, launch.LaunchDescription):
            for child in entity.entities:
                visit(child)
            return
        actions.append(entity)
        if not isinstance(entity, (kinds.ExecuteProcess, kinds.RegisterEventHandler, kinds.OpaqueCoroutine)):
            for child in entity.visit(context) or []:
                visit(child)

    visit(description(name))
    return actions, context


def overrides(told: dict[str, dict[str, Any]], name: str = "perception.launch.py", **arguments: str) -> dict[str, Any]:
    """The parameters that win over the file's."""
    expand(name, arguments)
    _, *over = told["perception"]["parameters"]
    return over[0] if over else {}


def profile(told: dict[str, dict[str, Any]], **arguments: str) -> dict[str, str]:
    """What the launch file adds to the node's environment."""
    expand("perception.launch.py", arguments)
    return told["perception"]["additional_env"]


def test_arguments_are_described_and_complete(ros_launch):
    arguments = {argument.name: argument for argument in description("perception.launch.py").get_launch_arguments()}
    wanted = "params_file namespace cameras image_topic camera_info_topic transport model_file device use_sim_time"
    wanted += " autostart log_level dds_profile rviz required"
    assert set(arguments) == set(wanted.split())
    for argument in arguments.values():
        assert argument.default_value is not None and len(argument.description) > 20, argument.name


def test_replay_takes_its_own_arguments_and_those_of_perception(ros_launch):
    arguments = {argument.name for argument in description("replay.launch.py").get_launch_arguments()}
    assert {"bag", "rate", "loop", "clock"} <= arguments
    assert {argument.name for argument in description("perception.launch.py").get_launch_arguments()} <= arguments


def test_it_makes_a_lifecycle_node_of_the_package(ros_launch):
    from launch_ros.actions import LifecycleNode, Node

    actions, _ = expand("perception.launch.py", {"namespace": "robot", "device": "cpu"})
    nodes = [action for action in actions if isinstance(action, Node)]
    assert [type(node) for node in nodes] == [Node, LifecycleNode]
    assert [(node.node_package, node.node_executable) for node in nodes] == [
        ("rviz2", "rviz2"),
        ("mila_ros", "perception"),
    ]


def test_without_arguments_the_file_decides(told):
    assert overrides(told) == {}
    assert told["perception"]["additional_env"] == {PROFILES[0]: str(ROOT / "config" / "fastdds.xml")}
    assert told["perception"]["ros_arguments"] == ["--log-level", "perception:=info"]
    assert "rviz2" not in told


def test_arguments_become_parameters_of_their_type(told):
    values = overrides(
        told,
        cameras="left, right",
        image_topic="/l/image",
        camera_info_topic="/l/info",
        transport="compressed",
        model_file="my.safetensors",
        device="cpu",
        autostart="false",
        use_sim_time="True",
    )
    assert values == {
        "cameras": ["left", "right"],
        "left.image_topic": "/l/image",
        "left.camera_info_topic": "/l/info",
        "left.transport": "compressed",
        "model": "my.safetensors",
        "device": "cpu",
        "autostart": False,
        "use_sim_time": True,
    }
    assert overrides(told, cameras="[left, 'right']") == {"cameras": ["left", "right"]}


def test_topics_belong_to_the_first_camera_of_the_parameters_file(told, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "/robot/perception: {ros__parameters: {cameras: [rear, front]}}\n"
        "/**/perception: {ros__parameters: {cameras: [any]}}\n"
        "another: {node: {ros__parameters: {cameras: [nose]}}}\n"
        "/other/perception: {ros__parameters: {cameras: [mouth]}}\n"
        "perception: {ros__parameters: {model: indoor}}\n"
    )
    assert overrides(told, params_file=str(file), image_topic="/r", namespace="robot") == {"rear.image_topic": "/r"}
    assert overrides(told, params_file=str(file), image_topic="/r", namespace="r2") == {"any.image_topic": "/r"}
    file.write_text("nose: {ros__parameters: {cameras: [nose]}}\n")
    assert overrides(told, params_file=str(file), image_topic="/r") == {"front.image_topic": "/r"}


@pytest.mark.parametrize(
    ("argument", "namespace"), [("", "/fleet/a"), ("r1", "/fleet/a/r1"), ("/alone", "/alone")], ids=str
)
def test_in_a_group_that_has_a_namespace(told, argument, namespace):
    expand("perception.launch.py", {"ros_namespace": "/fleet/a", "namespace": argument, "rviz": "true"})
    assert told["perception"]["namespace"] == namespace
    assert told["perception"]["ros_arguments"][1] == f"{namespace[1:].replace('/', '.')}.perception:=info"
    assert ("/perception/front/depth/view", f"{namespace}/perception/front/depth/view") in told["rviz2"]["remappings"]


def test_log_level_is_the_node_s_in_its_namespace(told):
    expand("perception.launch.py", {"namespace": "/robots/r1/", "log_level": "debug"})
    assert told["perception"]["ros_arguments"] == ["--log-level", "robots.r1.perception:=debug"]


def test_rviz_looks_at_the_topics_of_the_first_camera(told):
    expand("perception.launch.py", {"namespace": "r1", "cameras": "left", "rviz": "true"})
    layout = Path(told["rviz2"]["arguments"][1])
    shown = set(re.findall(r"Value: (/perception/\S+)", layout.read_text()))
    assert shown and shown == {topic for topic, _ in told["rviz2"]["remappings"]}
    assert ("/perception/front/depth/view", "/r1/perception/left/depth/view") in told["rviz2"]["remappings"]


@pytest.mark.parametrize(("variable", "distribution"), [(PROFILES[0], "kilted"), (PROFILES[1], "jazzy")])
def test_the_user_s_own_profile_is_left_alone(told, monkeypatch, variable, distribution):
    monkeypatch.setenv("ROS_DISTRO", distribution)
    monkeypatch.setenv(variable, "/their/own.xml")
    assert profile(told) == {}


def test_a_variable_that_the_distribution_does_not_read_is_no_profile(told, monkeypatch):
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv(PROFILES[0], "/their/own.xml")
    assert list(profile(told)) == [PROFILES[1]]


def test_no_profile_on_request_and_the_old_name_for_old_fast_dds(told, monkeypatch):
    assert profile(told, dds_profile="none") == {}
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert list(profile(told)) == [PROFILES[1]]


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"params_file": "/nowhere.yaml"}, "params_file: /nowhere.yaml cannot be read"),
        ({"dds_profile": "/nowhere.xml"}, "dds_profile: there is no file /nowhere.xml"),
        ({"transport": "theora"}, "transport"),
        ({"autostart": "maybe"}, "autostart"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(ros_launch, arguments, reason):
    with pytest.raises(RuntimeError, match=re.escape(reason)):
        expand("perception.launch.py", arguments)


@pytest.mark.parametrize("required, status, ends", [("true", 2, True), ("true", 0, False), ("false", 2, False)])
def test_a_required_node_that_fails_ends_the_launch(told, required, status, ends):
    from types import SimpleNamespace

    _, context = expand("perception.launch.py", {"required": required})
    on_exit = told["perception"]["on_exit"]
    event = SimpleNamespace(returncode=status)
    if ends:
        with pytest.raises(RuntimeError, match="perception ended with status 2"):
            on_exit(event, context)
    else:
        assert on_exit(event, context) is None


def player(arguments: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Command and additional environment of `ros2 bag play`, found in the handler that waits for the node."""
    from launch.actions import ExecuteProcess, RegisterEventHandler

    actions, context = expand("replay.launch.py", arguments)
    assert not [action for action in actions if type(action) is ExecuteProcess], "it does not wait for the node"
    handlers = [action.event_handler for action in actions if isinstance(action, RegisterEventHandler)]
    (process,) = [entity for handler in handlers for entity in handler.entities if isinstance(entity, ExecuteProcess)]

    def text(parts: Any) -> str:
        return "".join(context.perform_substitution(part) for part in parts)

    environ = {text(name): text(value) for name, value in process.additional_env or []}
    return [text(word) for word in process.cmd], environ


def test_replay_s_command(told, tmp_path):
    command, environ = player({"bag": str(tmp_path)})
    assert command == ["ros2", "bag", "play", str(tmp_path), "--rate", "1.0", "--clock"]
    assert environ == {PROFILES[0]: str(ROOT / "config" / "fastdds.xml")}
    more = {"rate": "0.5", "loop": "true", "clock": "false", "play_arguments": "--remap /image:=/camera/image"}
    command, _ = player({"bag": str(tmp_path), "dds_profile": "none", **more})
    assert command[4:] == ["--rate", "0.5", "--loop", "--remap", "/image:=/camera/image"]


def test_the_node_lives_in_the_bag_s_time_with_clock_only(told, tmp_path):
    assert overrides(told, "replay.launch.py", bag=str(tmp_path)) == {"use_sim_time": True}
    assert overrides(told, "replay.launch.py", bag=str(tmp_path), clock="false") == {}
    assert overrides(told, "replay.launch.py", bag=str(tmp_path), use_sim_time="false") == {"use_sim_time": False}


@pytest.mark.parametrize(
    "arguments, reason", [({"bag": "/nowhere"}, "bag: there is no file or folder /nowhere"), ({"rate": "0"}, "rate is")]
)
def test_replay_refuses_what_cannot_be_played(ros_launch, tmp_path, arguments, reason):
    with pytest.raises(RuntimeError, match=reason):
        expand("replay.launch.py", {"bag": str(tmp_path), **arguments})
