"""One run of the whole path, each part in a process of its own: `mila play` -> `mila node` -> `mila record`."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from mila_ros.errors import UserError
from mila_ros.evaluation.inputs import DemoInput
from mila_ros.evaluation.processes import Child, Team

CAMERA = "front"
NODE = "/perception"
# Generous: on a busy machine PyTorch alone takes half a minute to load.
START_TIMEOUT = 180.0
# After the last frame: its answer, and one more report of the node (each second).
DRAIN = 2.5
STOP_TIMEOUT = 60.0
# Between the player's first word and its first picture: it waits for its subscribers.
_DISCOVERY = 0.5
_SAMPLE_PERIOD = 0.25


@dataclass(frozen=True)
class Usage:
    """What the node's process used at one moment."""

    monotonic_ns: int
    rss_mb: float
    """Resident memory, MiB."""
    cpu_percent: float
    """Of one core, since the sample before."""


@dataclass(frozen=True)
class Session:
    """What a run left behind."""

    recording: Path
    """rosbag2 folder with the node's outputs."""
    published: list[dict[str, Any]]
    """Log of `mila play`: topic, stamp_ns, published_ns (monotonic clock)."""
    played: dict[str, Any]
    """Report of `mila play`."""
    arrivals: dict[str, Any]
    """arrivals.json of `mila record`."""
    usage: list[Usage]
    """From the node's start to its end."""
    stored_every: int
    load_before: float | None
    """Load average of the minute before anything was started; None where it is not known."""
    domain: int
    notes: list[str] = field(default_factory=list)


def mila(*arguments: str) -> list[str]:
    """The command line of `mila ...`, in this very Python."""
    return [sys.executable, "-m", "mila_ros.cli", *arguments]


def environment(domain: int) -> dict[str, str]:
    """For the three programs: this host only, a domain of their own, output at once."""
    values = dict(os.environ)
    values["ROS_DOMAIN_ID"] = str(domain)
    values["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    values["PYTHONUNBUFFERED"] = "1"
    return values


def run_session(
    given: DemoInput,
    model: str,
    tasks: Sequence[str],
    folder: Path,
    *,
    seconds: float | None = None,
    every: int = 1,
    parameters: Sequence[str] = (),
    domain: int | None = None,
    say: Callable[[str], None] = print,
) -> Session:
    """Play the input through the node once.

    Args:
        given: what to play.
        model: name or file of the model.
        tasks: of the model.
        folder: for logs/ and recording/, which must not exist yet.
        seconds: stop playing after about so long; None: at the end.
        every: store the pictures of each n-th frame only (arrivals are noted of all).
        parameters: further ones for the node, NAME:=VALUE.
        domain: ROS_DOMAIN_ID; None: a random one.
        say: takes lines about progress.

    Raises:
        UserError: one of the programs failed (with the end of its log), or nothing was answered.
    """
    domain = domain if domain is not None else random.randint(1, 101)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    recording, play_log, play_report = folder / "recording", folder / "logs/play.jsonl", folder / "logs/play.json"
    live = given.kind != "bag"
    node_parameters = [
        f"model:={model}",
        f"tasks:=[{', '.join(tasks)}]",
        f"cameras:=[{CAMERA}]",
        *given.node_parameters(CAMERA),
        *parameters,
    ]
    record = mila("record", "--out", str(recording), "--node", NODE, "--cameras", CAMERA, "--tasks", *tasks)
    record += ["--wait", "inf", "--keep-empty"]  # it is ended from here; a report says why nothing was answered
    record += ["--every", str(every), *(["--topic", given.image_topic] if live else [])]
    play = mila("play", *given.play_arguments(), "--stamp", "now", "--log", str(play_log))
    # A recording's pictures are read again from it later; others are kept by the recorder, which subscribes, too.
    play += ["--report", str(play_report), "--delay-until-subscribers", "2" if live else "1"]

    words = [word for parameter in node_parameters for word in ("-p", parameter)]
    usage: list[Usage] = []
    with Team(folder / "logs", environment(domain)) as team:
        say(f"starting the node (ROS_DOMAIN_ID={domain} to look in)")
        node = team.start("node", mila("node", *words, *given.node_remappings()))
        meter = _Meter(node, usage)
        recorder = team.start("record", record)
        team.wait(
            lambda: meter.look() or "ready" in recorder.text().split(),
            (node, recorder),
            START_TIMEOUT,
            "the node to load its model and offer its topics",
        )
        player = team.start("play", play)
        say(f"playing {given.source}")
        _play(team, node, recorder, player, meter, seconds)
        drained = time.monotonic() + DRAIN
        team.wait(lambda: meter.look() or time.monotonic() > drained, (node, recorder), 2 * DRAIN, "the last outputs")
        _ended_well(team, recorder)
        notes = _ended_well(team, node, fatal=False)

    played = _json(play_report)
    if played is None:
        raise UserError(f"the player did not start; the end of {player.log}:\n{player.tail()}")
    arrivals = _json(recording / "arrivals.json")
    if arrivals is None:
        raise UserError(f"the recorder left nothing; the end of {recorder.log}:\n{recorder.tail()}")
    if played["truncated"]:
        notes.append(f"The recording is cut off; what is readable was played: {played['truncated']}")
    published = [json.loads(line) for line in play_log.read_text(encoding="utf-8").splitlines()]
    published = [entry for entry in published if entry["topic"] == given.image_topic]
    return Session(
        recording=recording / "outputs",
        published=published,
        played=played,
        arrivals=arrivals,
        usage=usage,
        stored_every=every,
        load_before=load,
        domain=domain,
        notes=notes,
    )


def _play(team: Team, node: Child, recorder: Child, player: Child, meter: _Meter, seconds: float | None) -> None:
    """Returns when the player has finished, or was stopped after about `seconds`."""
    begun: float | None = None
    while player.status is None:
        team.check(node, recorder)
        meter.look()
        if begun is None and "playing" in player.text():
            begun = time.monotonic()
        if seconds is not None and begun is not None and time.monotonic() - begun > seconds + _DISCOVERY:
            team.stop(player, STOP_TIMEOUT)
        time.sleep(0.05)
    # 2 at the end of a recording that is cut off: everything readable was played, and its report says so.
    if player.status != 0 and not (player.status == 2 and "played" in player.text()):
        team.check(player)


def _ended_well(team: Team, child: Child, fatal: bool = True) -> list[str]:
    """Ends a program. One that does not end as it should is an error, or (not fatal) a note."""
    status = team.stop(child, STOP_TIMEOUT)
    if status == 0:
        return []
    if fatal:
        team.check(child)
    return [f"{child.name} {child.ending()} when it was asked to stop; see {child.log}"]


def _json(file: Path) -> dict[str, Any] | None:
    """Content of a file that a program may not have come to write."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


class _Meter:
    """Looks at a process now and then."""

    def __init__(self, child: Child, usage: list[Usage]) -> None:
        self._process = psutil.Process(child.process.pid)
        self._usage = usage
        self._next = 0.0

    def look(self) -> None:
        """Take a sample if it is time for one."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _SAMPLE_PERIOD
        try:
            with self._process.oneshot():
                rss, cpu = self._process.memory_info().rss, self._process.cpu_percent()
        except psutil.Error:  # it has ended; whoever waits for it will say so
            return
        self._usage.append(Usage(time.monotonic_ns(), rss / 2**20, cpu))
