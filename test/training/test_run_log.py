"""A run that is resumed writes down each step once."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from mila_ros.training.run_log import RunLog

RESULTS = {"slow": {"depth": {"rmse": 0.5, "iou": [1.0]}, "gflops": 3.0}}


def rows(log: RunLog) -> list[dict[str, str]]:
    with log.losses.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_was_written_behind_the_step_it_is_resumed_at_is_left_out(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.forget_after(0)  # nothing there yet
    for step in (50, 100, 150):
        log.add_losses({"step": step, "seconds_a_step": 2.5, "depth": step / 7, "temporal": 0.25})
        log.add_validation(step, RESULTS)
    before = rows(log)
    with log.losses.open("a") as file:
        file.write("2")  # killed while it wrote
    with log.validation.open("a") as file:
        file.write('{"step": 2')
    log.forget_after(100)
    log.add_losses({"step": 150, "depth": 1.0})
    log.add_validation(150, RESULTS)
    assert rows(log)[:2] == before[:2]
    assert [row["step"] for row in rows(log)] == ["50", "100", "150"] and rows(log)[2]["segmentation"] == ""
    kept = [json.loads(line) for line in log.validation.read_text().splitlines()]
    assert kept == [{"step": step, "slow.depth.rmse": 0.5} for step in (50, 100, 150)]


def test_a_step_is_validated_once_and_older_columns_are_kept(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for _ in range(2):  # a finished run that is started again
        log.add_validation(150, RESULTS)
    assert len(log.validation.read_text().splitlines()) == 1
    log.losses.write_text("step,seconds_a_step,depth,critic\r\n50,2.0,0.5,0.25\r\n")
    log.forget_after(50)
    log.add_losses({"step": 100, "temporal": 0.75})
    before, after = rows(log)
    assert (before["critic"], before["temporal"]) == ("0.25", "") and after["temporal"] == "0.75"
    log.forget_after(0)
    assert rows(log) == [] and log.validation.read_text() == ""
