"""Training in several processes: killed at any moment, the same command ends where an undisturbed run ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from mila_ros.models.checkpoint import load_model

from .test_training import SMALL, TINY

STEPS = 24


def test_a_killed_run_of_two_processes_ends_like_one_that_was_not(tree: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = tmp_path / "train.py"  # a file, since the other process is started by running it again
    script.write_text("import sys\nfrom mila_ros.cli import main\nsys.exit(main())\n")

    small = [item for item in SMALL if not item.startswith(("batch", "steps", "validate_every"))]
    values = [f"data=nyuv2:{tree}", "rendered_clips=0", *small, TINY, "batch=4", f"steps={STEPS}", "save_every=3"]

    def start(out: Path) -> subprocess.Popen[bytes]:
        arguments = ["train", "slow", *values, "--out", str(out), "--device", "cpu", "--processes", "2"]
        command = [sys.executable, str(script), *arguments]
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)

    first = start(killed)
    state = killed / "state.ckpt"
    deadline = time.monotonic() + 120
    while not state.exists():
        assert first.poll() is None and time.monotonic() < deadline, "training did not reach its first state"
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    reached = torch.load(state, weights_only=True)["step"]
    assert 0 < reached < STEPS
    assert start(killed).wait(180) == 0
    assert start(whole).wait(180) == 0
    resumed, undisturbed = load_model(killed / "model.safetensors"), load_model(whole / "model.safetensors")
    for name, tensor in undisturbed.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
