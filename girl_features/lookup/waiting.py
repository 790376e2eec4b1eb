"""Limits on how long a caller waits: DeadlineThread for calls that may hang, CircuitBreaker for a store that fails."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

T = TypeVar("T")
_Calls = queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class DeadlineThread:
    """Runs calls in one background thread, in order; each caller waits for its result until a deadline at most.

    The thread stays busy with a call after its caller has stopped waiting. If such calls may never return, as with a
    server that does not answer, set `max_stuck`: up to that many busy threads are abandoned, and a new thread takes
    the next calls. Threads are daemons, so an abandoned one does not keep the process alive.
    """

    def __init__(self, name: str, max_stuck: int = 0) -> None:
        self._name, self._max_stuck = name, max_stuck
        self._n_stuck = 0
        self._calls: _Calls | None = None  # of the current thread
        self._lock = threading.Lock()

    def run(self, call: Callable[[], T], until: float) -> T:
        """Return the result of `call`, or raise its error.

        Args:
            call: function to run. It is skipped if the thread is not free before the deadline.
            until: deadline, as a value of `time.monotonic()`.

        Raises:
            TimeoutError: there was no result before the deadline. A call that has begun goes on.
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
            has_begun = not future.cancel()
            if has_begun and not future.done():
                self._abandon(calls)
            raise

    def close(self) -> None:
        """End the thread after the calls that it was given."""
        with self._lock:
            if self._calls is not None:
                self._calls.put(None)
                self._calls = None

    def _abandon(self, calls: _Calls) -> None:
        with self._lock:
            if self._calls is calls and self._n_stuck < self._max_stuck:
                self._n_stuck += 1
                self._calls = None
                calls.put(None)

    def _work(self, calls: _Calls) -> None:
        while (item := calls.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # raised again in the thread of the caller
                future.set_exception(error)
        with self._lock:
            self._n_stuck = max(0, self._n_stuck - 1)


class CircuitBreaker:
    """Stops requests to a store that fails, so that callers do not wait for it, and lets one try from time to time.

    It opens after `n_failures` failures in a row. After `open_seconds` it is half-open: one caller may try.
    """

    def __init__(
        self, n_failures: int = 3, open_seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._n_failures, self._open_seconds, self._clock = n_failures, open_seconds, clock
        self._lock = threading.Lock()
        self._n_failed = 0  # in a row
        self._opened_at: float | None = None  # time of the last failure or try; None while closed

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """`closed` is the healthy state. `half-open` means that the next caller may try."""
        with self._lock:
            if self._opened_at is None:
                return "closed"
            return "half-open" if self._may_try() else "open"

    def allows(self) -> bool:
        """True if the caller may ask the store now. While the breaker is open, one caller in `open_seconds` may."""
        with self._lock:
            if self._opened_at is None:
                return True
            if not self._may_try():
                return False
            self._opened_at = self._clock()  # the others wait again, even if this caller never reports a result
            return True

    def succeeded(self) -> None:
        """Record that the store answered."""
        with self._lock:
            self._n_failed, self._opened_at = 0, None

    def failed(self) -> None:
        """Record that the store did not answer."""
        with self._lock:
            self._n_failed += 1
            if self._n_failed >= self._n_failures:
                self._opened_at = self._clock()

    def _may_try(self) -> bool:
        assert self._opened_at is not None
        return self._clock() - self._opened_at >= self._open_seconds
