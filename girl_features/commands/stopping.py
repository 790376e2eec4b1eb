"""The way a command ends on Ctrl-C or SIGTERM: at once before its work has begun, and after the chunk at work later."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from girl_features.sql import was_interrupted

_BOTH = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """The signal that asked for a stop, if one came, and what is at work."""

    def __init__(self, unit: str, resume: str) -> None:
        self.signal: int | None = None
        self._unit, self._resume = unit, resume
        self._asked_at: float | None = None
        self._longest_s = 0.0

    def is_made(self) -> bool:
        """True once a signal has come. Whoever works asks this before each unit; the first time, the work begins."""
        now = time.monotonic()
        if self._asked_at is not None:
            self._longest_s = max(self._longest_s, now - self._asked_at)
        self._asked_at = now
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, as shells report it."""
        return 128 + (self.signal or 0)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle the first signal; the next one ends the process at once.

        Raises:
            KeyboardInterrupt: no work has begun, so there is nothing to finish.
        """
        self.signal = number
        for either in _BOTH:
            signal.signal(either, signal.SIG_DFL)
        if self._asked_at is None:
            raise KeyboardInterrupt
        left_s = self._longest_s - (time.monotonic() - self._asked_at)
        duration = f", about {left_s:.0f} s" if left_s >= 1 else ""
        print(
            f"finishing {self._unit}{duration}; Ctrl-C again to stop at once; resume with: {self._resume}",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def stop_on_signal(unit: str, resume: str) -> Iterator[StopRequest]:
    """Let Ctrl-C and SIGTERM ask for a stop after the unit at work. A second signal ends the process at once.

    Before the block first asks for a stop, the first signal ends it, too: it raises typer.Exit.

    Args:
        unit: what is finished after a signal, as `this chunk of 256 CVs`.
        resume: the command that resumes, which is shown when a stop is asked for.
    """
    stop = StopRequest(unit, resume)
    before = {number: signal.signal(number, stop.receive) for number in _BOTH}
    try:
        yield stop
    except (KeyboardInterrupt, RuntimeError) as error:
        if not was_interrupted(error):
            raise
        print("stopped before the work began: there was nothing to finish", file=sys.stderr)
        raise typer.Exit(stop.exit_code) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
