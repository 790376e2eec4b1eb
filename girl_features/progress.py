"""Progress on stderr: a bar with rate and remaining time on a terminal, otherwise a plain line every ten seconds."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

LINE_INTERVAL_S = 10.0


def announce(step: str) -> None:
    """Say on stderr which step begins, in one line, as it may take a while. One of several processes says it."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{step} ...", file=sys.stderr, flush=True)


class Progress:
    """Counter of `unit`s done out of `total` (0: not known). A context manager.

    Args:
        label: what is done.
        total: number of units, or 0.
        unit: plural noun.
        quiet: print nothing, as for all but one of several processes.
        beside: another progress, open for longer than this one; both are shown in one block on a terminal.
    """

    def __init__(
        self, label: str, total: int, unit: str, *, quiet: bool = False, beside: Progress | None = None
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._quiet, self._beside = quiet, beside
        self._display: RichProgress = beside._display if beside is not None else _new_display(quiet)

    def __enter__(self) -> Progress:
        self._display.start()
        self._task_id = self._display.add_task(
            self._label, total=self._total or None, unit=self._unit, share=None, n_before=0, share_before=0.0
        )
        self._last_line = time.monotonic()
        return self

    def begin_at(self, n_done: int, share: float | None = None) -> None:
        """Say what an earlier run has done, so that rate and remaining time are those of this run.

        `n_done` units were done, and `share` of all work, if units take unequal time.
        """
        share_before = _share(n_done, self._total) if share is None else share
        self._display.update(
            self._task_id, completed=n_done, share=share, n_before=n_done, share_before=share_before or 0.0
        )

    def advance(self, n: int = 1, share: float | None = None) -> None:
        """Add `n` units to those done. If units take unequal time, `share` of all work is done now."""
        self._display.update(self._task_id, advance=n, share=share)
        if self._display.disable and time.monotonic() - self._last_line >= LINE_INTERVAL_S:
            self._last_line = time.monotonic()
            left = _seconds_left(self._task)
            remaining = "" if left is None else f", {left:.0f} s left"
            self._print_line(f"{_pace(self._task)}{remaining}")

    def reach(self, n_done: int) -> None:
        """Set the number of units done."""
        self.advance(n_done - int(self._task.completed))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._beside is None:
            self._display.stop()
        if self._display.disable and self._task.completed and kind is None:
            self._print_line(f"{self._task.elapsed or 0:.1f} s")

    @property
    def _task(self) -> Task:
        return self._display.tasks[self._display.task_ids.index(self._task_id)]

    def _print_line(self, tail: str) -> None:
        if not self._quiet:
            n_done = f"{int(self._task.completed)}/{self._total}" if self._total else f"{int(self._task.completed)}"
            print(f"{self._label}: {n_done} {self._unit}, {tail}", file=sys.stderr, flush=True)


class _RateColumn(ProgressColumn):
    """Units per second, or seconds for each of them."""

    def render(self, task: Task) -> Text:
        return Text(_pace(task))


class _RemainingColumn(ProgressColumn):
    """Remaining time."""

    max_refresh = 0.5  # seconds

    def render(self, task: Task) -> Text:
        left = _seconds_left(task)
        return Text("-:--:--" if left is None else str(timedelta(seconds=round(left))))


def _rate(task: Task) -> float:
    """Return the units that this run has done in a second."""
    return float((task.completed - task.fields["n_before"]) / max(task.elapsed or 0, 1e-9))


def _pace(task: Task) -> str:
    """Return the rate in words. If a unit takes longer than a second, that is the time of each."""
    rate = _rate(task)
    return f"{1 / rate:.1f} s each" if 0 < rate < 1 else f"{rate:.1f} {task.fields['unit']}/s"


def _share(n_done: float, total: float | None) -> float | None:
    return n_done / total if total else None


def _seconds_left(task: Task) -> float | None:
    """Return the seconds that the remaining work takes at the speed of this run; None if that is not known yet."""
    share = task.fields["share"]
    if share is None:
        share = _share(task.completed, task.total)
    if share is None or share <= task.fields["share_before"]:
        return None
    return float((task.elapsed or 0) * max(0.0, 1 - share) / (share - task.fields["share_before"]))


def _new_display(quiet: bool) -> RichProgress:
    """Return rich's display, which only counts, and prints nothing, if it is quiet or stderr is not a terminal."""
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        _RemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )
