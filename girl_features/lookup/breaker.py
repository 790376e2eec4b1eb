"""CircuitBreaker: stop asking a store that does not answer, and ask again now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal


class CircuitBreaker:
    """Opens after `n_failures` failures in a row; after `open_seconds` one caller may try (half open)."""

    def __init__(
        self, n_failures: int = 3, open_seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._n_failures, self._open_seconds, self._clock = n_failures, open_seconds, clock
        self._lock = threading.Lock()
        self._n_failed = 0  # in a row
        self._opened_at: float | None = None  # or last tried

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """`closed` is the healthy state; half-open means that the next caller may try."""
        with self._lock:
            if self._opened_at is None:
                return "closed"
            return "half-open" if self._may_try() else "open"

    def allows(self) -> bool:
        """Whether the caller may ask now. Of those who wait for an open one, one in `open_seconds` may."""
        with self._lock:
            if self._opened_at is None:
                return True
            if not self._may_try():
                return False
            self._opened_at = self._clock()  # the others wait anew, whatever becomes of this one
            return True

    def succeeded(self) -> None:
        """The store answered."""
        with self._lock:
            self._n_failed, self._opened_at = 0, None

    def failed(self) -> None:
        """The store did not answer."""
        with self._lock:
            self._n_failed += 1
            if self._n_failed >= self._n_failures:
                self._opened_at = self._clock()

    def _may_try(self) -> bool:
        assert self._opened_at is not None
        return self._clock() - self._opened_at >= self._open_seconds
