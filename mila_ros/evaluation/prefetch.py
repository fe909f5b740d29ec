"""Reading and decoding ahead in a thread, while the networks work on what came before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def prefetched(items: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """The same items in the same order, made up to `ahead` of them early; an error comes where it belongs.

    Ends the thread when the iterator is closed, within the time that one item takes.
    """
    done = object()
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            try:
                made.put((item, error), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(done)
        except BaseException as error:  # handed to whoever reads, who knows what it means
            put(done, error)
        finally:
            if isinstance(items, Generator):
                items.close()  # here, where it ran: what it holds may belong to this thread

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is done:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
