"""The set-up's decisions and its sentences. What it builds is tested by everything else that runs in .venv."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from tools import environment, machine
from tools.lock import simplified
from tools.machine import Interpreter, SetupError
from tools.setup import ROOT, Setup, explained
from tools.wheels import rewrite_build_paths

GOOD = Interpreter("/usr/bin/python3", (3, 11, 2), True, True, False, "", "")
APT = re.compile(r"`sudo apt-get install -y ([^`]+)`")


# The machine ---------------------------------------------------------------------------------------------------------


def test_probe_tells_the_truth_about_this_python():
    found = machine.probe(sys.executable)
    assert found is not None
    assert found.version == sys.version_info[:3] and found.supported
    assert Path(found.executable).exists()


def test_probe_of_what_does_not_run(tmp_path):
    assert machine.probe(str(tmp_path / "python3")) is None
    assert machine.probe("/bin/false") is None


@pytest.mark.parametrize(
    ("version", "supported"), [((3, 9, 20), False), ((3, 10, 0), True), ((3, 13, 9), True), ((3, 14, 0), False)]
)
def test_supported_versions(version, supported):
    assert GOOD._replace(version=version).supported is supported


@pytest.fixture
def pythons(monkeypatch):
    """Give the machine these interpreters, command -> Interpreter."""

    def make(**found):
        names = {name.replace("_", "."): value for name, value in found.items()}
        monkeypatch.setattr(machine.shutil, "which", lambda name: name if Path(name).name in names else None)
        monkeypatch.setattr(machine, "probe", lambda name: names[Path(name).name])

    return make


def choose(ros="", running="python3", **environ):
    return machine.choose_python(environ, ros, running)


def test_the_running_python_comes_first(pythons):
    pythons(python3=GOOD, python3_12=GOOD._replace(version=(3, 12, 1)))
    assert choose() == GOOD


def test_another_python_where_the_running_one_is_too_new(pythons):
    fits = GOOD._replace(version=(3, 13, 0))
    pythons(python3=GOOD._replace(version=(3, 14, 0)), python3_13=fits)
    assert choose() == fits


def test_no_supported_python(pythons):
    pythons(python3=GOOD._replace(version=(3, 9, 2)))
    with pytest.raises(SetupError, match=r"3\.10 to 3\.13 is needed, found: 3\.9") as error:
        choose()
    assert "make setup PYTHON=" in str(error.value) and APT.search(str(error.value))


def test_a_named_python_is_not_replaced(pythons):
    pythons(python3=GOOD, python3_9=GOOD._replace(version=(3, 9, 2)))
    with pytest.raises(SetupError, match=r"found: 3\.9"):
        choose(PYTHON="python3.9")
    with pytest.raises(SetupError, match="PYTHON=python4 does not run"):
        choose(PYTHON="python4")


def test_a_sourced_ros_decides_the_python(pythons):
    """The first python3 may be pyenv's or conda's; ROS's modules are built for the distribution's."""
    with_ros = GOOD._replace(version=(3, 12, 3), rclpy=True)
    pythons(python3=GOOD, python3_12=with_ros)
    assert choose(ros="jazzy") == with_ros


def test_a_sourced_ros_without_rclpy(pythons):
    pythons(python3=GOOD)
    with pytest.raises(SetupError, match="jazzy") as error:
        choose(ros="jazzy")
    assert "ros-jazzy-rclpy" in str(error.value)


def test_ros_1_is_refused(pythons):
    pythons(python3=GOOD)
    with pytest.raises(SetupError, match="ROS 1 is sourced"):
        choose(ROS_VERSION="1", ROS_DISTRO="noetic")


@pytest.mark.parametrize(
    ("environ", "ros"),
    [
        ({}, ""),
        ({"ROS_DISTRO": "jazzy"}, ""),  # a container's variable, nothing sourced
        ({"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": "/opt/ros/jazzy"}, "jazzy"),
        ({"AMENT_PREFIX_PATH": "/src/mila/.venv/ros/install:/src/mila/.venv"}, ""),  # mila-env, sourced earlier
        ({"ROS_DISTRO": "kilted", "AMENT_PREFIX_PATH": "/src/mila/.venv/ros/install:/opt/ros/kilted"}, "kilted"),
    ],
)
def test_sourced_ros(environ, ros):
    assert machine.sourced_ros(environ, Path("/src/mila")) == ros


def test_the_environment_of_another_copy_is_refused(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mila-env").touch()
    with pytest.raises(SetupError, match="of another copy; open a new one"):
        machine.sourced_ros({"AMENT_PREFIX_PATH": f"{tmp_path}/ros/install:{tmp_path}"}, Path("/src/mila"))


def test_platforms():
    machine.check_platform("", "linux", "x86_64")
    machine.check_platform("jazzy", "linux", "aarch64")  # a Jetson with ROS installed
    with pytest.raises(SetupError, match="aarch64; install ROS 2"):
        machine.check_platform("", "linux", "aarch64")
    with pytest.raises(SetupError, match="darwin"):
        machine.check_platform("jazzy", "darwin", "arm64")


def test_missing_tools_are_named_with_one_command():
    machine.check_tools(GOOD, lambda name: f"/usr/bin/{name}")
    with pytest.raises(SetupError) as error:
        machine.check_tools(GOOD._replace(headers=False, venv=False), lambda name: None)
    found = APT.search(str(error.value))
    assert found is not None
    assert found.group(1).split() == ["g++", "make", "python3.11-dev", "python3.11-venv"]
    with pytest.raises(SetupError, match=r"missing: a C\+\+ compiler; run `sudo apt-get install -y g\+\+`"):
        machine.check_tools(GOOD, lambda name: None if "++" in name else name)


def test_disk(tmp_path):
    free = namedtuple("free", "free")
    places = {"the environment": (tmp_path / "a" / ".venv", 7.0), "the cache": (tmp_path / "cache", 7.0)}
    machine.check_disk(places, lambda folder: free(7.1e9))  # one file system: the room is not needed twice
    with pytest.raises(SetupError, match=r"6\.9 GB free, 7\.0 GB are needed") as error:
        machine.check_disk(places, lambda folder: free(6.9e9))
    assert "the environment and the cache" in str(error.value)


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("error: failed to write: No space left on device (os error 28)", "the disk is full"),
        ("cause: dns error: failed to lookup address", "check the network"),
        ("cause: client error (Connect)\ncause: invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE="),
        ("ReadTimeoutError: Read timed out.", "check the network"),
        ("CMake Error at CMakeLists.txt:5", "what the command said is above"),
    ],
)
def test_failures_are_explained(output, cause):
    assert explained("it failed", output).startswith("it failed: ") or cause.startswith("what")
    assert cause in explained("it failed", output)


# The steps ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A small copy of the repository: what the keys depend on."""
    root = tmp_path / "a tree"
    for folder in ("msg", "tools", "cmake", "launch", "config", "mila_ros"):
        (root / folder).mkdir(parents=True)
    for name in (
        "CMakeLists.txt",
        "package.xml",
        "requirements.lock",
        "requirements-ros.lock",
        "constraints-cuda.lock",
    ):
        shutil.copy(ROOT / name, root / name)
    (root / "msg" / "A.msg").write_text("int8 a\n")
    (root / "mila_ros" / "__init__.py").touch()
    return root


def test_keys_follow_what_a_step_depends_on(tree):
    base = Setup(tree, {}).keys()
    assert Setup(tree, {}).keys() == base

    def changed(environ=None):
        return [step for step, key in Setup(tree, environ or {}).keys().items() if key != base[step]]

    assert changed({"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": "/opt/ros/jazzy"}) == ["venv", "dependencies", "build"]
    assert changed({"UV_TORCH_BACKEND": "cpu"}) == ["dependencies", "build"]
    (tree / "mila_ros" / "__init__.py").write_text("a = 1\n")
    assert changed() == []  # linked into the install space, so nothing is to be built
    (tree / "mila_ros" / "new.py").touch()
    assert changed() == ["build"]
    (tree / "mila_ros" / "new.py").unlink()
    (tree / "msg" / "A.msg").write_text("int8 b\n")
    assert changed() == ["build"]
    (tree / "requirements.lock").write_text("numpy==0\n")
    assert changed() == ["dependencies", "build"]


def test_the_environment_stays_when_workspaces_are_sourced_over_the_same_ros(tree, tmp_path):
    ros = tmp_path / "ros"
    (ros / "share" / "rclpy").mkdir(parents=True)

    def key(prefixes, step="venv"):
        return Setup(tree, {"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": prefixes}).keys()[step]

    own, workspace = f"{tree}/.venv/ros/install:{ros}", f"/ws/install/mila_ros:{ros}"
    assert key(own) == key(str(ros)) == key(workspace)
    assert key("/another/ros") != key(str(ros))
    assert key(own, "build") == key(str(ros), "build") != key(workspace, "build")


def test_done_steps_are_not_repeated(tree):
    setup = Setup(tree, {})
    setup.program.parent.mkdir(parents=True)
    setup.program.touch()
    setup.done = setup.keys()
    setup._write_marker()
    assert Setup(tree, {}).run() is False


def test_what_was_cleaned_is_built_again(tree, monkeypatch):
    monkeypatch.setattr("tools.setup.choose_python", lambda environ, ros: GOOD)
    monkeypatch.setattr("tools.setup.check_tools", lambda python: None)
    built = []
    monkeypatch.setattr(Setup, "_build", lambda self, python: built.append(python))
    setup = Setup(tree, {})
    setup.venv.mkdir()
    setup.done = setup.keys()
    setup._write_marker()
    assert Setup(tree, {}).run() is True
    assert built == [GOOD]


@pytest.fixture
def working(tree, monkeypatch):
    """An environment of ours that stands on another Python than the one that is found now."""
    monkeypatch.setattr("tools.setup.choose_python", lambda environ, ros: GOOD)
    monkeypatch.setattr("tools.setup.check_tools", lambda python: None)
    monkeypatch.setattr("tools.setup.check_disk", lambda room: None)
    monkeypatch.setattr(Setup, "_call", lambda self, command, failure, environ=None: None)
    monkeypatch.setattr(Setup, "_build", lambda self, python: None)
    setup = Setup(tree, {"PYTHON": "another"})
    setup.program.parent.mkdir(parents=True)
    setup.program.write_text("works")
    setup.done = setup.keys()
    setup._write_marker()
    return setup


@pytest.mark.parametrize("error", [SetupError("no network"), KeyboardInterrupt()])
def test_a_working_environment_is_kept_until_there_is_another(tree, working, monkeypatch, error):
    def failing(self, python):
        assert not working.program.exists()
        raise error

    monkeypatch.setattr(Setup, "_install", failing)
    said = []
    with pytest.raises(type(error)):
        Setup(tree, {}, said.append).run()
    assert working.program.read_text() == "works" and not working.before.exists()
    assert said[-1] == "the former environment is left as it was"
    assert Setup(tree, {"PYTHON": "another"}).run() is False
    monkeypatch.setattr(Setup, "_install", lambda self, python: None)
    assert Setup(tree, {}, said.append).run() is True
    assert not working.program.exists() and not working.before.exists()


def test_what_set_up_did_not_make_is_never_removed(tree, working, monkeypatch):
    shutil.move(working.venv, working.before)  # killed, or moved away by hand; and somebody's own in its place
    (tree / ".venv").mkdir()
    (tree / ".venv" / "mine").touch()
    with pytest.raises(SetupError, match="make setup` did not make it"):
        Setup(tree, {}).run()
    assert (tree / ".venv" / "mine").exists() and working.before.exists()
    shutil.rmtree(tree / ".venv")
    shutil.rmtree(working.before)
    working.before.mkdir()
    (working.before / "mine").touch()
    monkeypatch.setattr(Setup, "_install", lambda self, python: None)
    assert Setup(tree, {}).run() is True
    assert (working.before / "mine").exists()


def test_a_set_up_that_was_killed_does_not_cost_the_environment_that_works(tree, working, monkeypatch):
    def killed(self, python):
        raise KeyboardInterrupt

    shutil.move(working.venv, working.before)
    (tree / ".venv").mkdir()
    (tree / ".venv" / "mila-setup.json").write_text("{}")  # begun, not finished
    monkeypatch.setattr(Setup, "_install", killed)
    with pytest.raises(KeyboardInterrupt):
        Setup(tree, {}).run()
    assert working.program.read_text() == "works" and not working.before.exists()


def test_a_foreign_environment_is_left_alone(tree):
    (tree / ".venv").mkdir()
    with pytest.raises(SetupError, match="mv .venv .venv-old"):
        Setup(tree, {})._make_venv(GOOD)
    assert (tree / ".venv").is_dir()


def test_a_broken_marker_is_no_marker(tree):
    (tree / ".venv").mkdir()
    (tree / ".venv" / "mila-setup.json").write_text("{")
    assert Setup(tree, {}).done == {}


def test_beside_ros_its_numpy_and_opencv_stay(tree):
    setup = Setup(tree, {"AMENT_PREFIX_PATH": "/opt/ros/jazzy", "ROS_DISTRO": "jazzy", "PATH": "/nowhere"})
    assert setup.ros == "jazzy"
    setup.venv.mkdir()
    arguments = setup._sourced_arguments(GOOD._replace(numpy="1.26.4", cv2="4.6.0"))
    overrides = Path(arguments[arguments.index("--override") + 1]).read_text().splitlines()
    assert overrides == ["numpy==1.26.4", "opencv-python-headless ; sys_platform == 'never'"]
    assert "colcon-core" in arguments and "ros-kilted-rclpy" not in arguments


def test_rewriting_spares_the_installers_cache(tmp_path):
    """The installer links files out of its cache: the cached file must keep its text."""
    cached, place = tmp_path / "cached.cmake", tmp_path / "env" / "share" / "a" / "cmake"
    place.mkdir(parents=True)
    host = "/opt/python/cp311-cp311"
    old = f'INCLUDES "{host}/include/python3.11;{host}/lib/python3.11/site-packages/numpy"'
    cached.write_text(old)
    os.link(cached, place / "aExport.cmake")
    assert rewrite_build_paths(tmp_path / "env", "/inc", r"/odd\1/site") == 1
    assert (place / "aExport.cmake").read_text() == r'INCLUDES "/inc;/odd\1/site/numpy"'
    assert cached.read_text() == old
    assert rewrite_build_paths(tmp_path / "env", "/inc", r"/odd\1/site") == 0


# The files it writes --------------------------------------------------------------------------------------------------


def sourced(shell: str, file: Path, **environ: str) -> dict[str, str]:
    """The variables of a shell that sourced the file twice."""
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    code = f'set -eu; . "$FILE"; . "$FILE"; exec {sys.executable} -c "{show}"'
    base = {"PATH": "/usr/bin:/bin", "FILE": str(file), "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    done = subprocess.run([shell, "-c", code], env={**base, **environ}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def wheels(tmp_path):
    """An environment on the wheels, in a folder with a space and a quote: its root."""
    root = tmp_path / "it's a tree"
    site = root / ".venv" / "lib" / "python3.11" / "site-packages"
    (site / "ros_rcl.libs").mkdir(parents=True)
    (root / ".venv" / "bin").mkdir()
    install = root / ".venv" / "ros" / "install"
    message = install / "lib" / "python3.11" / "site-packages" / "mila_ros" / "msg" / "__init__.py"
    message.parent.mkdir(parents=True)
    message.touch()
    environment.write(root, root / ".venv", install, site, "", {})
    return root


@pytest.mark.parametrize("shell", [s for s in ("sh", "bash", "dash", "zsh") if shutil.which(s)])
def test_mila_env(wheels, shell):
    venv = wheels / ".venv"
    found = sourced(shell, venv / "bin" / "mila-env", LD_LIBRARY_PATH="/mine")
    assert found["PATH"] == f"{venv}/bin:/usr/bin:/bin"
    assert found["AMENT_PREFIX_PATH"] == f"{venv}/ros/install:{venv}"
    libraries = [f"{venv}/ros/install/lib", f"{venv}/lib", f"{venv}/lib/python3.11/site-packages/ros_rcl.libs", "/mine"]
    assert found["LD_LIBRARY_PATH"].split(":") == libraries
    assert found["RMW_IMPLEMENTATION"] == "rmw_fastrtps_cpp"
    assert found["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert found["FASTDDS_DEFAULT_PROFILES_FILE"] == f"{wheels}/config/fastdds.xml"
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" not in found  # Fast DDS 3 reads it, too, but complains


def test_mila_env_names_the_profile_as_the_distribution_reads_it(tmp_path):
    text = environment.script(tmp_path, tmp_path / ".venv", {}, "jazzy")
    assert "export FASTRTPS_DEFAULT_PROFILES_FILE=" in text
    assert "export FASTDDS_DEFAULT_PROFILES_FILE=" not in text


def test_mila_env_keeps_what_the_user_chose(wheels):
    library = wheels / ".venv" / "lib" / "librmw_zenoh_cpp.so"
    library.parent.mkdir(exist_ok=True)
    library.touch()
    own = {"RMW_IMPLEMENTATION": "rmw_zenoh_cpp", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    found = sourced("sh", wheels / ".venv" / "bin" / "mila-env", FASTRTPS_DEFAULT_PROFILES_FILE="/my.xml", **own)
    assert {name: found[name] for name in own} == own
    assert "FASTDDS_DEFAULT_PROFILES_FILE" not in found
    library.unlink()
    found = sourced("sh", wheels / ".venv" / "bin" / "mila-env", **own)
    assert found["RMW_IMPLEMENTATION"] == "rmw_fastrtps_cpp"  # what is chosen but not installed cannot start


def test_mila_env_on_wheels_is_not_shadowed_by_another_ros(wheels):
    other = {"ROS_DISTRO": "jazzy", "PYTHONPATH": "/opt/ros/jazzy/lib/python3.12/site-packages"}
    found = sourced("sh", wheels / ".venv" / "bin" / "mila-env", AMENT_PREFIX_PATH="/opt/ros/jazzy", **other)
    assert "PYTHONPATH" not in found and "jazzy" not in found["AMENT_PREFIX_PATH"]


def test_mila_env_on_a_ros_installation(tmp_path):
    """It brings the installation along, so that `.venv/bin/mila` works in a shell that did not source it."""
    site = tmp_path / ".venv" / "lib" / "python3.12" / "site-packages"
    site.mkdir(parents=True)
    (tmp_path / ".venv" / "bin").mkdir()
    install = tmp_path / ".venv" / "ros" / "install"
    at_setup = {
        "ROS_DISTRO": "jazzy",
        "AMENT_PREFIX_PATH": f"{install}:/opt/ros/jazzy",
        "LD_LIBRARY_PATH": "/opt/ros/jazzy/lib",
        "PYTHONPATH": "/opt/ros/jazzy/lib/python3.12/site-packages",
    }
    environment.write(tmp_path, tmp_path / ".venv", install, site, "jazzy", at_setup)
    found = sourced("sh", tmp_path / ".venv" / "bin" / "mila-env")
    assert found["ROS_DISTRO"] == "jazzy"
    assert found["AMENT_PREFIX_PATH"] == f"{install}:/opt/ros/jazzy"
    assert found["LD_LIBRARY_PATH"] == f"{install}/lib:/opt/ros/jazzy/lib"
    assert found["PYTHONPATH"] == at_setup["PYTHONPATH"]
    # A robot talks to other machines with the middleware that its owner chose.
    assert "RMW_IMPLEMENTATION" not in found and "ROS_AUTOMATIC_DISCOVERY_RANGE" not in found


def test_the_source_tree_comes_before_the_install_space(wheels):
    (path,) = wheels.glob(".venv/lib/*/site-packages/mila_ros.pth")
    install = wheels / ".venv" / "ros" / "install" / "lib" / "python3.11" / "site-packages"
    assert path.read_text().splitlines() == [str(wheels), str(install)]


# The lock files -------------------------------------------------------------------------------------------------------


def test_markers_that_say_nothing_go():
    always = "python_full_version < '3.14' and platform_machine == 'x86_64' and sys_platform == 'linux'"
    assert simplified(f"a==1 ; {always}") == "a==1"
    assert simplified(f"a==1 ; python_full_version >= '3.11' and {always}") == "a==1 ; python_full_version >= '3.11'"
    assert simplified("a==1 ; x or y") == "a==1 ; x or y"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-ros.lock", "constraints-cuda.lock"])
def test_locks_pin_everything_and_name_no_host(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 10
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][\w.]*( ; python_full_version .+| ; platform_python.+)?", line), (
            line
        )
    assert "://" not in (ROOT / name).read_text()


def test_every_requirement_is_locked():
    def names(file):
        lines = (ROOT / file).read_text().splitlines()
        return {re.sub(r"[._]", "-", re.split(r"[=<>]", line)[0].lower()) for line in lines if line[:1].isalnum()}

    for name in ("requirements", "requirements-ros"):
        assert names(f"{name}.in") <= names(f"{name}.lock"), names(f"{name}.in") - names(f"{name}.lock")


def test_make_says_what_it_can_do():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "bench", "setup", "lint", "lock", "clean", "distclean"):
        assert target in done.stdout
