"""Named moments at which a test may kill the process, to see what a crash there leaves behind."""

from __future__ import annotations

import os
import signal

VARIABLE = "GIRL_FAILPOINT"


def failpoint(name: str) -> None:
    """Die by SIGKILL if the environment names this moment; nothing else in any other run."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
