"""What each thread has of the machine: CPU threads and priority, or a stream of the GPU."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import torch


class Shares:
    """Contexts for the threads that run a model.

    Args:
        device: on which it runs.
        threads: CPU threads of the fast path; 0: the cores that the slow network leaves.
        slow_threads: CPU threads of the slow network in its own thread; 0: half the cores, at least one.
        niceness: how far the slow network's thread gives way on the CPU (0: not, 19: to everything).
        leaving: called by a thread that leaves its context.
    """

    def __init__(
        self, device: torch.device, threads: int, slow_threads: int, niceness: int, leaving: Callable[[], None]
    ) -> None:
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._device, self._niceness, self._leaving = device, niceness, leaving
        self._slow_threads = slow_threads or max(1, self.cores // 2)
        self._threads = threads or max(1, self.cores - self._slow_threads)
        self._fast_stream: Any = None
        self._slow_stream: Any = None
        self._upload_stream: Any = None
        if device.type == "cuda":
            self._fast_stream = torch.cuda.Stream(device, priority=-1)
            self._slow_stream = torch.cuda.Stream(device, priority=0)
            self._upload_stream = torch.cuda.Stream(device, priority=-1)

    @contextmanager
    def fast(self) -> Iterator[None]:
        """For the thread that answers frames."""
        with self._thread(self._threads, self._fast_stream):
            yield

    @contextmanager
    def beside(self) -> Iterator[None]:
        """For a thread that uploads pictures, or judges answers, while others answer the next or the one before."""
        with self._thread(1, self._upload_stream):
            yield

    @contextmanager
    def slow(self) -> Iterator[None]:
        """For the thread that makes keyframes beside them."""
        # Linux only: elsewhere niceness is the whole process's. Threads that this one starts (OpenMP's) inherit it.
        if self._niceness and self._device.type == "cpu" and sys.platform == "linux":
            own = threading.get_native_id()
            nice = min(19, os.getpriority(os.PRIO_PROCESS, own) + self._niceness)
            os.setpriority(os.PRIO_PROCESS, own, nice)
        with self._thread(self._slow_threads, self._slow_stream):
            yield

    @contextmanager
    def _thread(self, threads: int, stream: Any) -> Iterator[None]:
        if stream is not None:
            try:
                with torch.inference_mode(), torch.cuda.device(self._device), torch.cuda.stream(stream):
                    yield
            finally:
                self._leaving()
            return
        torch.get_num_threads()  # this thread's lazy set-up, which would later overwrite the next line
        torch.set_num_threads(threads)  # OpenMP keeps this a calling thread
        cv2.setNumThreads(1)  # its pool would take the other network's cores to shrink a picture
        try:
            with torch.inference_mode():
                yield
        finally:
            self._leaving()

    @contextmanager
    def all(self) -> Iterator[None]:
        """The CPU threads of both networks, for work that nothing runs beside."""
        own = torch.get_num_threads()
        torch.set_num_threads(self._threads + self._slow_threads)
        try:
            yield
        finally:
            torch.set_num_threads(own)

    def weights(self, synchronous: bool) -> tuple[float, float, float]:
        """Which share of the device the fast path, the slow network and one more thread occupy while they run.

        On a GPU each network has all of it, and a thread of the CPU nothing. synchronous: the mode.
        """
        if self._device.type == "cuda":
            return 1.0, 1.0, 0.0
        slow = self._threads + self._slow_threads if synchronous else self._slow_threads
        return min(1.0, self._threads / self.cores), min(1.0, slow / self.cores), 1 / self.cores
