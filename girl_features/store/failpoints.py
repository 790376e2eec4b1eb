"""Named moments at which a test can kill the process, to check the state that a crash leaves behind."""

from __future__ import annotations

import os
import signal

VARIABLE = "GIRL_FAILPOINT"


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL if the environment variable names this moment; otherwise do nothing."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
