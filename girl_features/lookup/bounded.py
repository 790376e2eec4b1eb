"""OneThread: work that may hang or take long, done in a thread of its own, so that nobody need wait for it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_Calls = queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class OneThread:
    """Calls one at a time, in the order they came. Threads are daemons: one that hangs keeps no process alive.

    A call that is left behind keeps the thread busy. Where it may hang for good, as on a connection that never
    answers, `max_stuck` such threads are given up, and another takes the calls that follow.
    """

    def __init__(self, name: str, max_stuck: int = 0) -> None:
        self._name, self._max_stuck = name, max_stuck
        self._n_stuck = 0
        self._calls: _Calls | None = None  # of the thread in use
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
            if self._calls is None:
                self._calls = queue.SimpleQueue()
                threading.Thread(target=self._work, args=(self._calls,), name=self._name, daemon=True).start()
            calls = self._calls
            future: Future[T] = Future()
            calls.put((future, call))
        try:
            return future.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            if not future.cancel() and not future.done():  # one that waits for its turn is dropped, this one has begun
                self._give_up(calls)
            raise

    def close(self) -> None:
        """End the thread once it has done what it was given."""
        with self._lock:
            if self._calls is not None:
                self._calls.put(None)
                self._calls = None

    def _give_up(self, calls: _Calls) -> None:
        with self._lock:
            if self._calls is calls and self._n_stuck < self._max_stuck:
                self._n_stuck += 1
                self._calls = None
                calls.put(None)

    def _work(self, calls: _Calls) -> None:
        while (given := calls.get()) is not None:
            future, call = given
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # the caller's to handle
                future.set_exception(error)
        with self._lock:
            self._n_stuck = max(0, self._n_stuck - 1)
