"""Many recordings: one after another, in processes of this machine, or on a Ray cluster; none takes another along."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mila_ros.errors import UserError
from mila_ros.evaluation.replay import ReplaySettings, evaluate_bag, finished, run_key

Named = Mapping[str, tuple[Path, Path]]
"""Name -> recording and the folder of its results."""
Outcome = dict[str, Any] | str
"""What stands in metrics.json, or in words why there is nothing."""


def evaluate_one(bag: Path, out: Path, settings: ReplaySettings, again: bool) -> Outcome:
    """Evaluate a recording, unless that was done; again: even then."""
    try:
        key = run_key(bag, settings)
        done = None if again else finished(out, key)
        if done is not None:
            print(f"{bag} is evaluated already, on {done['time']}; --again does it anew", flush=True)
            return done
        return evaluate_bag(bag, out, settings, key)
    except UserError as error:
        return str(error)
    except Exception as error:  # a full disk, the device's memory: the other recordings have their turn
        return f"{type(error).__name__}: {error}"


def evaluate_many(
    named: Named, settings: ReplaySettings, jobs: int, again: bool, ray: str | None = None
) -> Iterator[tuple[str, Outcome]]:
    """Name and outcome of each, as they are done.

    Args:
        named: what to evaluate.
        settings: how.
        jobs: how many at a time, each in a process of its own.
        again: also what is done already.
        ray: address of a Ray cluster that takes them instead, "local" for one of this machine; all of its machines must
            see recordings and results at the same paths.

    Raises:
        UserError: the cluster cannot be reached, or Ray is not installed.
    """
    if ray is not None:
        yield from _on_cluster(named, settings, jobs, again, ray)
        return
    if jobs == 1 or len(named) == 1:
        for name, (bag, out) in named.items():
            yield name, evaluate_one(bag, out, settings, again)
        return
    left = dict(named)
    for workers in (min(jobs, len(named)), 1):  # a process that is killed takes its pool along: the rest one by one
        for name in list(left) if workers == 1 else [None]:
            batch = dict(left) if name is None else {name: left[name]}
            for done, outcome in _pooled(batch, settings, workers, again):
                if outcome is not None:
                    del left[done]
                    yield done, outcome
                elif workers == 1:
                    del left[done]
                    yield done, "its process was killed, perhaps for want of memory"


def _pooled(named: Named, settings: ReplaySettings, workers: int, again: bool) -> Iterator[tuple[str, Outcome | None]]:
    """As `evaluate_many`; None for those that were lost with their pool."""
    # Not forked: a copy of a process whose libraries have threads may hang.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        running = {pool.submit(evaluate_one, bag, out, settings, again): name for name, (bag, out) in named.items()}
        for future in as_completed(running):
            try:
                yield running[future], future.result()
            except BrokenProcessPool:
                yield running[future], None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C must not go on to the next recordings


def _on_cluster(
    named: Named, settings: ReplaySettings, jobs: int, again: bool, address: str
) -> Iterator[tuple[str, Outcome]]:
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs the package ray: pip install ray") from error
    # A machine of its own per recording where real time is measured, is the cluster's matter: a task asks for a core.
    local = {"num_cpus": jobs, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster can be reached at {address}: {str(error).splitlines()[0]}") from error
    try:
        task = ray.remote(max_retries=1)(evaluate_one)
        waiting = {
            task.remote(bag.resolve(), out.resolve(), settings, again): name for name, (bag, out) in named.items()
        }
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            name = waiting.pop(done)
            try:
                yield name, ray.get(done)
            except ray.exceptions.RayError as error:  # its machine or its process is gone
                yield name, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    finally:
        ray.shutdown()
        sys.stdout.flush()
