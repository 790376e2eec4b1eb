"""SQLite files that several connections open at the same moment, before the file is in WAL mode."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from girl_features.lookup.generation_queue import GenerationQueue, MissedCV
from girl_features.store.sqlite_files import use_wal


def lock_for(path: Path, seconds: float) -> threading.Thread:
    """Lock the new file `path` for writing, as a connection does that creates it, and free it after `seconds`."""
    locked = threading.Event()

    def hold() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked.set()
            time.sleep(seconds)
            other.execute("ROLLBACK")

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(10)
    return thread


def test_sqlite_itself_does_not_wait_here(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    thread = lock_for(path, 0.5)
    with (
        closing(sqlite3.connect(path, timeout=30)) as connection,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        connection.execute("PRAGMA journal_mode = WAL")
    thread.join()


def test_the_switch_to_wal_waits_for_the_others(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    thread = lock_for(path, 0.3)
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        use_wal(connection, 30)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    thread.join()


def test_the_switch_to_wal_ends_when_its_time_is_over(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    thread = lock_for(path, 0.5)
    with closing(sqlite3.connect(path, timeout=30)) as connection, pytest.raises(sqlite3.OperationalError):
        use_wal(connection, 0.0)
    thread.join()


def test_a_queue_opens_while_another_creates_its_file(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.touch(0o600)
    thread = lock_for(path, 0.3)
    queue = GenerationQueue(path)
    assert queue.add([MissedCV("a" * 12, "s1", "hash", "welder")]) == 1
    thread.join()
