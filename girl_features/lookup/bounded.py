"""OneThread: work that may hang or take long, done in a thread of its own, so that nobody need wait for it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class OneThread:
    """Calls one at a time, in the order they came. The thread is a daemon: one that hangs keeps no process alive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(self, call: Callable[[], T], until: float) -> T:
        """What `call` returns or raises.

        Args:
            call: not begun, if its turn has not come by then.
            until: `time.monotonic()` at which to give up; the call, once begun, goes on unheard.

        Raises:
            TimeoutError: there was no result by then.
        """
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
        future: Future[T] = Future()
        self._calls.put((future, call))
        try:
            return future.result(max(0.0, until - time.monotonic()))
        finally:
            future.cancel()  # one that waits for its turn is dropped; any other is left alone

    def close(self) -> None:
        """End the thread once it has done what it was given."""
        self._calls.put(None)

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            future, call = given
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # the caller's to handle
                future.set_exception(error)
