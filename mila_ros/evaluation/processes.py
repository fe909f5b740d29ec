"""Programs that run beside this one: each with a log, watched, and ended by process id whatever happens."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from mila_ros.errors import UserError

TAIL_LINES = 15
# Looked up here: between fork and exec as little as possible may happen.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Child:
    """One program and its log."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def status(self) -> int | None:
        """Exit status; negative: the signal that ended it; None: it runs."""
        return self.process.poll()

    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tail(self) -> str:
        """The last lines of its log, indented."""
        lines = self.text().splitlines()[-TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"

    def ending(self) -> str:
        """How it ended, in words."""
        status = self.status
        if status is None:
            return "is still running"
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"


class Team:
    """Starts programs and makes sure that none outlives it. A context manager.

    Args:
        logs: folder for NAME.log files; made if needed.
        environment: of the programs.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = dict(environment)
        self.children: list[Child] = []

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a program.

        Raises:
            UserError: it cannot be started.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        try:
            # A Ctrl-C that came between the start and our noting it would leave a program that nobody ends.
            with log.open("wb") as sink, _deaf():
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    # A session of its own: Ctrl-C in the terminal reaches only us, and we end things in order.
                    start_new_session=True,
                    preexec_fn=_begin,
                )
                child = Child(name, process, log)
                self.children.append(child)
        except OSError as error:
            raise UserError(f"{name} cannot be started ({command[0]}): {error.strerror}") from error
        return child

    def check(self, *children: Child) -> None:
        """Raises UserError, with the end of its log, if one of these is not running."""
        for child in children:
            if child.status is not None:
                raise UserError(f"{child.name} {child.ending()}; the end of {child.log}:\n{child.tail()}")

    def wait(self, done: Callable[[], bool], watched: Sequence[Child], timeout: float, what: str) -> None:
        """Returns when `done()` is true, while all `watched` run.

        Raises:
            UserError: one of them ended, or `timeout` seconds passed (`what`: what was waited for).
        """
        deadline = time.monotonic() + timeout
        while not done():
            self.check(*watched)
            if time.monotonic() > deadline:
                tails = "\n".join(f"  {child.log}:\n{child.tail()}" for child in watched)
                raise UserError(f"waited {timeout:g} s for {what}; the ends of the logs:\n{tails}")
            time.sleep(0.05)

    def stop(self, child: Child, patience: float = 20.0) -> int:
        """End a program in order (SIGINT), then by SIGTERM, then by SIGKILL; returns its exit status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if child.process.poll() is not None:
                break
            child.process.send_signal(number)
            try:
                child.process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        return child.process.wait()

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave half of them behind.
        with _deaf():
            running = [child for child in self.children if child.status is None]
            for child in running:
                child.process.send_signal(signal.SIGINT)
            for child in running:
                self.stop(child, patience=5.0)


def _begin() -> None:
    """In the child: hear signals, and (on Linux) be told to end when the parent is killed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _deaf() -> Iterator[None]:
    """Signals that would end this process wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def orderly_end() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as Ctrl-C does, so that everything that was started is ended."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
