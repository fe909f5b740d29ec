"""`make setup`: virtual environment, pinned dependencies, ROS 2 (a sourced one or wheels), colcon build.

Every step leaves a key of what it depended on in .venv/mila-setup.json and is skipped while the key holds, so
running it again costs a fraction of a second. Run as `python3 -m tools.setup` from the repository root.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools import environment
from tools.machine import (
    Interpreter,
    SetupError,
    check_disk,
    check_platform,
    check_tools,
    choose_python,
    sourced_ros,
)

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.9"
ABOVE = "what the command said is above"
LOCKS = ("requirements.lock", "requirements-ros.lock", "constraints-cuda.lock")
COLCON = (
    "colcon-cmake",
    "colcon-core",
    "colcon-defaults",
    "colcon-library-path",
    "colcon-metadata",
    "colcon-output",
    "colcon-parallel-executor",
    "colcon-ros",
    "cmake",
)
# Bound to a distribution's own compiled modules (cv_bridge): a second, newer copy would break those.
DISTRIBUTION_OWN = {"numpy": "numpy", "cv2": "opencv-python-headless"}
GIGABYTES = {"cuda": 7.0, "cpu": 2.5}


class Setup:
    """One environment, made step by step. `say` gets one line a step that has work to do."""

    def __init__(self, root: Path, environ: Mapping[str, str], say=print) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.before = root / ".venv-before"
        self._set_aside = False
        self.ros_folder = self.venv / "ros"
        self.install = self.ros_folder / "install"
        self.environ = environ
        self.say = say
        self.ros = sourced_ros(environ, root)
        self.marker = self.venv / "mila-setup.json"
        self.done: dict[str, str] = self._read_marker()

    # What each step depends on --------------------------------------------------------------------

    def keys(self) -> dict[str, str]:
        """Key of every step, in order; a step's key holds the keys before it."""
        base = getattr(sys, "_base_executable", None) or sys.executable
        asked = self.environ.get("PYTHON", "")
        # The environment stands on the ROS installation; workspaces over it matter to the build alone.
        prefixes = environment.without(self.environ.get("AMENT_PREFIX_PATH", ""), self.root) if self.ros else ""
        underlay = next((p for p in prefixes.split(":") if (Path(p) / "share" / "rclpy").is_dir()), "")
        venv = _digest([str(self.root), os.path.realpath(base), sys.version, asked, self.ros, underlay])
        backend = self.environ.get("UV_TORCH_BACKEND", "")
        tools = [p for p in sorted((self.root / "tools").glob("*.py")) if p.name != "lock.py"]
        dependencies = _digest([venv, backend, UV], [*(self.root / name for name in LOCKS), *tools])
        built = [self.root / "CMakeLists.txt", self.root / "package.xml"]
        built += sorted((self.root / "msg").glob("*.msg")) + sorted((self.root / "cmake").glob("*"))
        # Python, launch and config files are linked, not copied: only which there are matters.
        names = [str(p.relative_to(self.root)) for p in _files(self.root, ("mila_ros", "launch", "config"))]
        return {"venv": venv, "dependencies": dependencies, "build": _digest([dependencies, prefixes, *names], built)}

    # Steps ----------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Do what is not done yet; returns whether there was anything. SetupError says what stands in the way."""
        keys = self.keys()
        if not self.program.exists():  # `make clean`
            self.done.pop("build", None)
        todo = [step for step, key in keys.items() if self.done.get(step) != key]
        if not todo:
            return False
        check_platform(self.ros)
        python = choose_python(self.environ, self.ros)
        check_tools(python)
        if "venv" in todo or ("dependencies" in todo and "dependencies" not in self.done):
            check_disk(self._room())
        try:
            for step, work in (
                ("venv", self._make_venv),
                ("dependencies", self._install),
                ("build", self._build),
            ):
                if step in todo:
                    work(python)
                    self.done[step] = keys[step]
                    self._write_marker()
        except BaseException:
            if self._set_aside and "dependencies" not in self.done:
                shutil.rmtree(self.venv, ignore_errors=True)
                self.before.rename(self.venv)
                self.say("the former environment is left as it was")
            raise
        if (self.before / self.marker.name).exists():  # else it is not ours
            shutil.rmtree(self.before, ignore_errors=True)
        return True

    def _make_venv(self, python: Interpreter) -> None:
        version = ".".join(str(n) for n in python.version)
        self.say(f"virtual environment .venv with Python {version}" + (f" on ROS 2 {self.ros}" if self.ros else ""))
        if self.venv.exists():
            if not self.marker.exists():
                raise SetupError(
                    ".venv is there, but `make setup` did not make it; `mv .venv .venv-old` and run it again"
                )
            self._put_aside()
        # The marker comes first: an interrupted set-up must be told from somebody else's environment.
        self.venv.mkdir()
        self.done = {}
        self._write_marker()
        command = [python.executable, "-m", "venv", str(self.venv)]
        self._call(command + (["--system-site-packages"] if self.ros else []), "the virtual environment was not made")

    def _put_aside(self) -> None:
        """Keep an environment that works until there is another; one that was never finished goes."""
        if "dependencies" not in self.done:
            shutil.rmtree(self.venv)  # a set-up was killed: what worked before it may be aside already
        elif self.before.exists() and not (self.before / self.marker.name).exists():
            raise SetupError(f"{self.before.name} is there, but `make setup` did not make it; move it away")
        else:
            shutil.rmtree(self.before, ignore_errors=True)
            self.venv.rename(self.before)
        self._set_aside = self.before.exists()

    def _install(self, python: Interpreter) -> None:
        self.say("dependencies (the first time up to 2.5 GB to download: PyTorch with CUDA)")
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV]
        self._call(pip, "the installer (uv) could not be installed")
        command = [str(self.venv / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(self.python)]
        command += ["-r", "requirements.lock", "-c", "constraints-cuda.lock"]
        if self.ros:
            command += self._sourced_arguments(python)
        else:
            command += ["-r", "requirements-ros.lock"]
        self._call(command, "the dependencies could not be installed")
        if not self.ros:
            code = "import sys; from pathlib import Path; from tools.wheels import main; main(Path(sys.argv[1]))"
            self._call([str(self.python), "-c", code, str(self.venv)], "the ROS 2 wheels could not be made usable")
        # Python compiles a module when it is first imported, 15 s for these: better here than in the first run.
        code = "import cv2, torch, torchvision, timm, matplotlib.pyplot, rosbags.highlevel, lightning.fabric"
        self._call([str(self.python), "-c", code], "the installed packages do not work together")

    def _sourced_arguments(self, python: Interpreter) -> list[str]:
        """Beside a ROS 2 installation: keep its NumPy and OpenCV, bring colcon only where there is none."""
        overrides = []
        if python.numpy:
            overrides.append(f"numpy=={python.numpy}")
        if python.cv2:
            overrides.append(f"{DISTRIBUTION_OWN['cv2']} ; sys_platform == 'never'")
        arguments = []
        if overrides:
            arguments += ["--override", self._listed("overrides.txt", overrides)]
        if not shutil.which("colcon", path=self._path_outside()):
            pins = (self.root / "requirements-ros.lock").read_text(encoding="utf-8").splitlines()
            pins = [line for line in pins if not line.startswith(("numpy==", "ros-"))]
            arguments += ["-c", self._listed("colcon.txt", pins), *COLCON]
        return arguments

    def _listed(self, name: str, lines: list[str]) -> str:
        """Path of a new requirements file with these lines."""
        path = self.ros_folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(path)

    def _build(self, python: Interpreter) -> None:
        self.say("colcon build of the package")
        environ = dict(self.environ)
        environ.update(
            environment.variables(self.venv, self.ros_folder / "none", self.site_packages, self.ros, environ)
        )
        environ["AMENT_PREFIX_PATH"] = environ["AMENT_PREFIX_PATH"].split(":", 1)[-1]
        environ["CMAKE_PREFIX_PATH"] = environ["AMENT_PREFIX_PATH"]
        environ["PATH"] = f"{self.venv / 'bin'}:{environ.get('PATH', os.defpath)}"
        folder = self.ros_folder.relative_to(self.root)
        command = f"colcon --log-base {folder}/log build --paths . --packages-select mila_ros --merge-install".split()
        command += f"--build-base {folder}/build --install-base {folder}/install --symlink-install".split()
        command += ["--cmake-args", "-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={self.python}"]
        self._call(command, "the package could not be built", environ)
        for link in self.install.rglob("*"):
            if link.is_symlink() and not link.exists():  # the file was removed or renamed since the last build
                link.unlink()
        environment.write(self.root, self.venv, self.install, self.site_packages, self.ros, self.environ)

    # Help -----------------------------------------------------------------------------------------

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def program(self) -> Path:
        return self.install / "lib" / "mila_ros" / "mila"

    @property
    def site_packages(self) -> Path:
        return next(self.venv.glob("lib/python3*/site-packages"))

    def _room(self) -> dict[str, tuple[Path, float]]:
        size = GIGABYTES["cpu" if self.environ.get("UV_TORCH_BACKEND") == "cpu" else "cuda"]
        home = Path(self.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = Path(self.environ.get("UV_CACHE_DIR") or home / "uv")
        return {"the virtual environment": (self.venv, size), "the installer's cache": (cache, size)}

    def _path_outside(self) -> str:
        """PATH without this environment's own commands."""
        parts = self.environ.get("PATH", os.defpath).split(":")
        return ":".join(p for p in parts if Path(p) != self.venv / "bin")

    def _call(self, command: list[str], failure: str, environ: Mapping[str, str] | None = None) -> None:
        """Run a command quietly; on failure show the end of what it said and raise SetupError."""
        clean = {
            k: v for k, v in (environ or self.environ).items() if k not in ("PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
        }
        clean["VIRTUAL_ENV"] = str(self.venv)
        done = subprocess.run(command, cwd=self.root, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            text = done.stdout.decode(errors="replace")
            sentence = explained(failure, text)
            if sentence.endswith(ABOVE):
                sys.stderr.write("\n".join(text.splitlines()[-30:]) + "\n")
            raise SetupError(sentence)

    def _read_marker(self) -> dict[str, str]:
        try:
            return json.loads(self.marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _write_marker(self) -> None:
        self.marker.write_text(json.dumps(self.done, indent=1) + "\n", encoding="utf-8")


def explained(failure: str, output: str) -> str:
    """One sentence for a command that failed with this output: the cause, if it is known, and what to do."""
    text = output.lower()
    if "no space left on device" in text or "disk quota exceeded" in text:
        return f"{failure}: the disk is full; make room (`.venv/bin/uv cache clean` frees the cache) and run it again"
    if "certificate" in text:
        return (
            f"{failure}: the package index's certificate is not trusted; behind a company's proxy run "
            "`SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt make setup`"
        )
    network = (
        "dns error",
        "failed to fetch",
        "failed to establish a new connection",
        "name resolution",
        "timed out",
        "connection refused",
        "network is unreachable",
        "client error (connect)",
    )
    if any(sign in text for sign in network):
        return (
            f"{failure}: the package index was not reached; check the network or proxy (HTTPS_PROXY) and run it again"
        )
    return f"{failure}; {ABOVE}"


def _digest(texts: Iterable[str], files: Iterable[Path] = ()) -> str:
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode() + b"\0")
    for file in files:
        total.update(str(file.name).encode() + b"\0" + (file.read_bytes() if file.is_file() else b"") + b"\0")
    return total.hexdigest()


def _files(root: Path, folders: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        for place, inner, names in os.walk(root / folder):
            inner[:] = [name for name in inner if name != "__pycache__"]
            found += [Path(place) / name for name in names if not name.endswith((".pyc", ".new"))]
    return sorted(found)


def main() -> int:
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[setup] {text}", flush=True)

    try:
        with open(__file__, "rb") as lock:  # a second set-up waits and then finds everything done
            fcntl.flock(lock, fcntl.LOCK_EX)
            if Setup(ROOT, os.environ, say).run():
                say(f"done in {time.monotonic() - start:.0f} s; `. .venv/bin/mila-env` to use it in a shell")
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {explained(str(error), str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
