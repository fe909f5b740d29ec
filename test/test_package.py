"""One package, three ways to have it: source tree, colcon install space, pip. Each must be whole.

The install space is the one in .venv (`make setup` built it); the wheel is built here from the tracked files.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest
import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

import mila_ros
from mila_ros import paths
from mila_ros.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("mila", "perception", "player", "recorder")


def manifest() -> ET.Element:
    return ET.parse(ROOT / "package.xml").getroot()


# One truth ------------------------------------------------------------------------------------------------------------


def test_versions_agree():
    assert manifest().findtext("version") == mila_ros.__version__


def test_licence_is_there_and_named():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and len(text) > 11000
    assert manifest().findtext("license") == "Apache-2.0"


def test_pip_and_lock_want_the_same():
    def names(lines):
        return {re.split(r"[=<>\[ ]", line)[0].lower().replace("_", "-") for line in lines}

    project = pyproject()["project"]
    lines = [line for line in (ROOT / "requirements.in").read_text().splitlines() if line[:1].isalpha()]
    extras = project["optional-dependencies"]
    assert names(lines) == names(project["dependencies"]) | {name for extra in extras.values() for name in names(extra)}


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def imported_modules() -> set[str]:
    """Top-level names of everything that the Python code and the launch files import."""
    found = set()
    for folder in ("mila_ros", "launch"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"mila_ros", "compression"}  # the latter: from Python 3.14 on


# Module -> where package.xml or pyproject.toml declares it, where the names differ.
ROS_NAMES = {"launch_xml": "launch"}
PIP_NAMES = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "PIL": "pillow", "backports": "backports.zstd"}


def test_every_import_is_declared():
    declared = {node.text for node in manifest() if node.tag.endswith("depend")}
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for name, extra in extras.items() if name != "dev" for line in extra]
    pip = {re.split(r"[=<>\[ ]", line)[0].replace("-", "_") for line in lines}
    missing = set()
    for module in imported_modules():
        ros = ROS_NAMES.get(module, module) in declared
        if not ros and PIP_NAMES.get(module, module).replace("-", "_") not in pip:
            missing.add(module)
    assert not missing


# Files ----------------------------------------------------------------------------------------------------------------


def test_config_is_found_from_the_source_tree():
    assert paths.config_path("fastdds.xml") == ROOT / "config" / "fastdds.xml"


@pytest.mark.parametrize(
    ("package", "config"),
    [
        ("src/mila_ros", "src/config"),
        ("env/lib/python3.12/site-packages/mila_ros", "env/lib/python3.12/site-packages/mila_ros/config"),
        ("ws/install/lib/python3.12/site-packages/mila_ros", "ws/install/share/mila_ros/config"),
        (
            "ws/install/mila_ros/local/lib/python3.10/dist-packages/mila_ros",
            "ws/install/mila_ros/share/mila_ros/config",
        ),
    ],
)
def test_config_is_found_in_every_installation(tmp_path, package, config):
    (tmp_path / package).mkdir(parents=True)
    (tmp_path / config).mkdir(parents=True)
    if config == "src/config":
        (tmp_path / "src" / "package.xml").touch()
    assert paths.config_dir(tmp_path / package) == tmp_path / config


def test_someone_elses_config_is_not_taken(tmp_path):
    """site-packages may hold a folder `config` of another package."""
    package = tmp_path / "site-packages" / "mila_ros"
    package.mkdir(parents=True)
    (tmp_path / "site-packages" / "config").mkdir()
    with pytest.raises(UserError, match="config of mila_ros is missing"):
        paths.config_dir(package)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"labels/nothing\.yaml is missing"):
        paths.config_path("labels/nothing.yaml")


@pytest.mark.parametrize("file", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda p: p.name)
def test_config_files_are_yaml(file):
    assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict)


def test_dds_profile_has_room_for_several_images():
    space = {"d": "http://www.eprosima.com"}
    root = ET.parse(ROOT / "config" / "fastdds.xml").getroot()
    transports = {t.findtext("d:type", None, space): t for t in root.iterfind(".//d:transport_descriptor", space)}
    assert set(transports) == {"SHM", "UDPv4"}, "other machines must stay in reach"
    size = int(transports["SHM"].findtext("d:segment_size", "0", space))
    assert size >= 4 * 1920 * 1080 * 3 and size >= 4 * 640 * 480 * 12
    used = [node.text for node in root.iterfind(".//d:userTransports/d:transport_id", space)]
    assert sorted(used) == sorted(t.findtext("d:transport_id", None, space) for t in transports.values())


# The install space ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def install() -> Path:
    folder = ROOT / ".venv" / "ros" / "install"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: `make setup` builds it")
    return folder


def test_messages_join_the_source_tree():
    pytest.importorskip("rclpy", reason="no ROS 2 here")
    from mila_ros.msg import CameraBudget, ComputeBudget, StageTiming

    budget = ComputeBudget(stages=[StageTiming(name="slow", count=1)], cameras=[CameraBudget(camera="front")])
    assert budget.stages[0].name == "slow" and budget.cameras[0].camera == "front"
    assert Path(paths.__file__).is_relative_to(ROOT / "mila_ros")


def test_install_space_is_whole(install):
    """As `ros2 launch` sees it, without the source tree on the path: messages, Python, config, programs."""
    (site,) = {p.parent.parent.parent for p in install.glob("**/mila_ros/msg/__init__.py")}
    code = (
        "import sys; sys.path = [p for p in sys.path if p != sys.argv[1]]; sys.path.insert(0, sys.argv[2])\n"
        "import mila_ros, mila_ros.msg, mila_ros.cli\n"
        "from mila_ros import paths\n"
        "print(mila_ros.__file__, mila_ros.msg.__file__, paths.config_path('fastdds.xml'), paths.checkpoints_dir())"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(site)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in done.stdout.split():
        assert Path(path).is_relative_to(install), path
    share = install / "share" / "mila_ros"
    for folder in ("config", "launch", "msg"):
        assert [p.name for p in share.glob(f"{folder}/*")], folder
    assert (share / "package.xml").is_file()
    assert (install / "share" / "ament_index" / "resource_index" / "packages" / "mila_ros").is_file()
    python = {p.relative_to(ROOT / "mila_ros") for p in (ROOT / "mila_ros").rglob("*.py")}
    installed = {p.relative_to(site / "mila_ros") for p in (site / "mila_ros").rglob("*.py")}
    assert python <= installed, f"run `make setup` again: {python - installed}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_start(install, program):
    """`ros2 run mila_ros PROGRAM` starts these; --help must come without a camera, a model or a robot."""
    pytest.importorskip("rclpy", reason="no ROS 2 here")
    path = install / "lib" / "mila_ros" / program
    assert os.access(path, os.X_OK)
    done = subprocess.run([str(path), "--help"], cwd="/", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr


def test_mila_needs_nothing_sourced(install):
    environ = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/tmp")}
    code = "import os, rclpy, mila_ros.msg; print(os.environ['FASTDDS_DEFAULT_PROFILES_FILE'])"
    launcher = (ROOT / ".venv" / "bin" / "mila").read_text().splitlines()
    assert launcher[1].startswith(". ") and launcher[1].endswith("mila-env")
    mila = subprocess.run(
        [ROOT / ".venv" / "bin" / "mila", "--version"], env=environ, cwd="/", capture_output=True, text=True
    )
    assert mila.stdout == f"mila_ros {mila_ros.__version__}\n", mila.stderr
    command = ["sh", "-c", f'{launcher[1]}; exec python -c "$0"', code]
    done = subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True)
    assert done.stdout == f"{ROOT}/config/fastdds.xml\n", done.stderr


# pip ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the files that git tracks or would track."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "src" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    done = subprocess.run(command, cwd=folder / "src", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_what_the_code_reads(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, target in (("mila_ros", "mila_ros"), ("config", "mila_ros/config")):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("."):
                assert f"{target}/{file.relative_to(ROOT / folder)}" in names
    assert not [name for name in names if name.startswith(("test", "tools", "benchmarks"))]


def test_wheel_works_without_ros(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from mila_ros import paths, cli\n"
        "print(paths.config_path('labels/nyu40.yaml'))\n"
        "sys.modules['rclpy'] = None\n"
        "sys.exit(cli.main(['node']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "site")], cwd="/", capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "site" / "mila_ros" / "config" / "labels" / "nyu40.yaml")
    assert done.returncode == 2 and "needs ROS 2" in done.stderr
