"""The command `mila`: its verbs, its exit statuses, its manners."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mila_ros import __version__, cli
from mila_ros.errors import UserError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mila_ros.cli", *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def verb(monkeypatch):
    """A verb `probe` whose main is the function that the test gives."""

    def make(main):
        module = types.ModuleType("mila_ros_probe")
        module.main = main
        monkeypatch.setitem(sys.modules, "mila_ros_probe", module)
        monkeypatch.setitem(cli.VERBS, "probe", ("mila_ros_probe", "for a test"))

    return make


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_names_every_verb(flag, capsys):
    assert cli.main([flag]) == 0
    text = capsys.readouterr().out
    for name, (_, line) in cli.VERBS.items():
        assert f"  {name} " in text and line in text


def test_nothing_asked_shows_usage_and_fails(capsys):
    assert cli.main([]) == 2
    assert "usage: mila" in capsys.readouterr().err


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mila_ros {__version__}\n"


def test_unknown_verb_is_named(capsys):
    assert cli.main(["nodes"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "'nodes'" in error and "node" in error and error.count("\n") == 1


def test_arguments_and_status_pass_through(verb):
    seen = []
    verb(lambda argv: seen.append(argv) or 3)
    assert cli.main(["probe", "--a", "b"]) == 3
    assert seen == [["--a", "b"]]


def test_user_error_is_one_line_and_status_2(verb, capsys):
    def main(argv):
        raise UserError("no such bag: x; name a folder")

    verb(main)
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr() == ("", "error: no such bag: x; name a folder\n")


def test_other_errors_are_not_hidden(verb):
    def main(argv):
        raise RuntimeError("a bug")

    verb(main)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["probe"])


def test_interrupt(verb):
    def main(argv):
        raise KeyboardInterrupt

    verb(main)
    assert cli.main(["probe"]) == 130


@pytest.mark.parametrize("module", ["rclpy", "sensor_msgs.msg", "mila_ros.msg"])
def test_missing_ros_is_explained(verb, monkeypatch, capsys, module):
    def without(name):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    verb(None)
    monkeypatch.setattr(cli.importlib, "import_module", without)
    assert cli.main(["probe"]) == 2
    error = capsys.readouterr().err
    assert module in error and "source" in error


def test_missing_module_of_our_own_is_a_bug(verb, monkeypatch):
    def without(name):
        raise ModuleNotFoundError("No module named 'mila_ros.modles'", name="mila_ros.modles")

    verb(None)
    monkeypatch.setattr(cli.importlib, "import_module", without)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["probe"])


def test_closed_pipe_is_quiet():
    code = (
        "import sys, types; from mila_ros import cli; m = types.ModuleType('m')\n"
        "def main(argv):\n    for i in range(100000): print(i)\n    return 0\n"
        "m.main = main; sys.modules['m'] = m; cli.VERBS['m'] = ('m', ''); sys.exit(cli.main(['m']))"
    )
    command = f'{sys.executable} -c "$CODE" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "CODE": code})
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 141)


def test_as_a_process():
    assert run("--version").stdout.strip() == f"mila_ros {__version__}"
    done = run("nodes")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_help_imports_nothing_heavy():
    """Help and errors come at once: neither PyTorch nor ROS is imported for them."""
    code = "import sys; from mila_ros import cli; cli.main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ast.literal_eval(done.stdout.splitlines()[-1])
    assert not {"torch", "rclpy", "numpy", "cv2"} & set(modules)


@pytest.mark.parametrize("name", sorted(cli.VERBS))
def test_every_verb_has_a_module_with_main(name):
    """Read, not imported: the modules of ROS would need one."""
    spec = importlib.util.find_spec(cli.VERBS[name][0])
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    imported = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert "main" in functions or "main" in imported
