"""Programs that the demo starts never outlive it, whatever happens, and their last words are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mila_ros.errors import UserError
from mila_ros.evaluation.processes import Team

SLEEP = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('here', flush=True)\ntime.sleep(60)",
]


def _gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _up(team, *children):
    team.wait(lambda: all("here" in child.text() for child in children), children, 20, "the test's programs")


def test_all_are_ended_after_an_error(tmp_path):
    """Also one that does not listen to SIGINT."""
    with pytest.raises(RuntimeError, match="mine"), Team(tmp_path, os.environ) as team:
        children = [team.start("polite", SLEEP), team.start("stubborn", STUBBORN)]
        _up(team, *children)
        raise RuntimeError("mine")
    assert all(_gone(child.process.pid) for child in children)


def test_last_words_of_one_that_failed(tmp_path):
    with Team(tmp_path, os.environ) as team:
        child = team.start("node", [sys.executable, "-c", "import sys; print('no such device'); sys.exit(2)"])
        with pytest.raises(UserError, match=r"node ended with status 2.*node\.log:\n +no such device"):
            team.wait(lambda: False, [child], 20, "it")


def test_waiting_ends(tmp_path):
    with Team(tmp_path, os.environ) as team:
        child = team.start("node", SLEEP)
        _up(team, child)
        with pytest.raises(UserError, match=r"waited 0\.2 s for the model"):
            team.wait(lambda: False, [child], 0.2, "the model")


def test_a_program_that_does_not_exist(tmp_path):
    with Team(tmp_path, os.environ) as team, pytest.raises(UserError, match="cannot be started"):
        team.start("node", [str(tmp_path / "nothing")])


def test_ended_in_order_and_by_signal(tmp_path):
    with Team(tmp_path, os.environ) as team:
        polite, stubborn = team.start("polite", SLEEP), team.start("stubborn", STUBBORN)
        _up(team, polite, stubborn)
        assert team.stop(polite) != 0  # KeyboardInterrupt
        assert team.stop(stubborn, patience=0.2) == -signal.SIGTERM
        assert stubborn.ending() == "was ended by SIGTERM"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's end")
def test_they_end_even_when_we_are_killed(tmp_path):
    """SIGKILL leaves no time to tidy up."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom mila_ros.evaluation.processes import Team\n"
        f"team = Team(Path({str(tmp_path)!r}), os.environ)\n"
        f"print(team.start('child', {SLEEP!r}).process.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not _gone(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while not _gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _gone(pid)
