"""Opening SQLite files that several processes and threads create at the same time."""

from __future__ import annotations

import sqlite3
import time

_PAUSE_SECONDS = 0.01


def use_wal(connection: sqlite3.Connection, wait_seconds: float) -> None:
    """Switch a file to write-ahead logging, and wait up to `wait_seconds` for others that are doing the same.

    SQLite's own timeout does not cover this step: while another connection switches the same file, it answers
    "database is locked" at once.

    Raises:
        sqlite3.OperationalError: the file is still locked when the time is over, or cannot be used.
    """
    end = time.monotonic() + wait_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(_PAUSE_SECONDS)
