"""Progress on stderr: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

LINE_INTERVAL_S = 10.0


class Progress:
    """Counts `unit`s done out of `total` (0: not known); use as a context manager and call `advance`.

    A quiet one prints nothing: for all but one of several processes. One `beside` another, which must outlive it,
    is a second line under that one's bar.
    """

    def __init__(
        self, label: str, total: int, unit: str, *, quiet: bool = False, beside: Progress | None = None
    ) -> None:
        self._quiet, self._beside = quiet, beside
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._beside is not None and self._beside._bar is not None:
            self._bar = self._beside._bar
            self._task = self._bar.add_task(self._label, total=self._total or None, rate="")
        elif sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._total or None, rate="")
        return self

    def advance(self, n: int = 1) -> None:
        """Note that `n` more units are done."""
        self._done += n
        now = time.monotonic()
        rate = self._done / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, rate=f"{rate:.1f} {self._unit}/s")
        elif now - self._last_line >= LINE_INTERVAL_S:
            self._last_line = now
            left = f", {(self._total - self._done) / rate:.0f} s left" if self._total and rate else ""
            self._line(f"{rate:.1f} {self._unit}/s{left}")

    def reach(self, n_done: int) -> None:
        """Note that `n_done` units are done in all."""
        self.advance(n_done - self._done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None and self._beside is None:
            self._bar.stop()
        elif self._bar is None and self._done and kind is None:
            self._line(f"{time.monotonic() - self._started:.1f} s")

    def _line(self, tail: str) -> None:
        if self._quiet:
            return
        of = f"/{self._total}" if self._total else ""
        print(f"{self._label}: {self._done}{of} {self._unit}, {tail}", file=sys.stderr, flush=True)
