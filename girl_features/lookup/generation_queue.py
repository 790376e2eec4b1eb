"""GenerationQueue: CVs that wait for a generated JD, in one SQLite file of the workspace with a limited length.

A ranking service adds CVs that have no current generated JD. A worker takes the oldest ones and removes them when it
is done, so that a crash loses none. The file holds CVs: only its owner may read it, and deleted rows are overwritten.
Services and workers must share a local disk, because SQLite's locks do not work reliably over NFS.
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from girl_features.errors import StoreError
from girl_features.input.checks import MAX_ID_BYTES
from girl_features.store.sqlite_files import use_wal

REPEAT_SECONDS = 60.0  # a CV that is missed again within this time is not added again
N_REMEMBERED = 100_000  # CVs whose last addition is remembered
MAX_BUFFERED = 10_000  # CVs in memory that are not yet in the file
MAX_BYTES = 1 << 30  # size of the file
WRITE_EVERY_SECONDS = 0.05
WAIT_SECONDS = 30.0  # how long a transaction waits for the others

# One thread of a process opens a connection at a time. Closing a file drops all locks of the process on that file, and
# so may a thread that creates the file beside one that has locked it.
_opening = threading.Lock()

_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    contract TEXT NOT NULL,
    job_seeker_id TEXT NOT NULL,
    cv_hash TEXT NOT NULL,
    cv TEXT NOT NULL,
    offered_at INTEGER NOT NULL,
    UNIQUE (contract, job_seeker_id, cv_hash)
)
"""
_ADD = """
INSERT INTO waiting (contract, job_seeker_id, cv_hash, cv, offered_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_USED_BYTES = """
SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""
_BAD_IN_ID = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and halves of characters


class MissedCV(NamedTuple):
    """One CV version without a current generated JD."""

    contract: str  # fingerprint of the contract that the JD is needed for
    job_seeker_id: str
    cv_hash: str  # empty if the request had no CV; the worker then reads it from the input tables
    cv: str  # cleaned


class QueuedCV(NamedTuple):
    """A missed CV in the queue."""

    place: int  # primary key of its row
    missed: MissedCV
    queued_at: datetime


class GenerationQueue:
    """The queue in its file. Any number of processes and threads may use it at the same time."""

    def __init__(
        self, path: Path, max_length: int = 100_000, is_erased: Callable[[str], bool] = lambda job_seeker_id: False
    ) -> None:
        """Open the queue in the file `path` for at most `max_length` CVs, and create the file if needed.

        `is_erased` is True for the id of a job seeker whose data was erased and must not be kept.

        Raises:
            StoreError: the file cannot be created, or is not a queue.
        """
        self.path = path
        self._max_length = max_length
        self._is_erased = is_erased
        self._local = threading.local()
        with self._transaction():
            pass

    def add(self, missed: Sequence[MissedCV]) -> int:
        """Add CVs while the queue has room, and return the number added.

        CVs that are already in the queue, CVs of erased seekers and CVs with invalid ids are skipped.

        Raises:
            StoreError: the file cannot be written.
        """
        usable = [cv for cv in missed if _has_valid_id(cv) and not self._is_erased(cv.job_seeker_id)]
        now = time.time_ns() // 1000
        with self._transaction() as connection:
            n_added = 0
            [(length,)] = connection.execute("SELECT count(*) FROM waiting")
            for i, cv in enumerate(usable):
                [(n_bytes,)] = connection.execute(_USED_BYTES)
                if length + n_added >= self._max_length or n_bytes >= MAX_BYTES:
                    break
                # `now + i`, so that two versions of one CV differ in time
                n_added += connection.execute(_ADD, (*cv, now + i)).rowcount
            return n_added

    def take(self, contract: str, n: int) -> list[QueuedCV]:
        """Return up to n CVs of a contract, oldest first. They stay in the queue until `done` is called."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT place, contract, job_seeker_id, cv_hash, cv, offered_at FROM waiting "
                "WHERE contract = ? ORDER BY place LIMIT ?",
                (contract, n),
            ).fetchall()
        return [QueuedCV(row[0], MissedCV(*row[1:5]), datetime.fromtimestamp(row[5] / 1e6, UTC)) for row in rows]

    def done(self, places: Sequence[int]) -> None:
        """Remove finished CVs from the queue by their places."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM waiting WHERE place = ?", [(place,) for place in places])

    def erase(self, job_seeker_id: str) -> int:
        """Remove all CVs of a seeker, also from the write-ahead log and from free pages, and return their number."""
        with self._transaction() as connection:
            n = connection.execute("DELETE FROM waiting WHERE job_seeker_id = ?", (job_seeker_id,)).rowcount
        self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return n

    def lengths(self) -> dict[str, int]:
        """Return the number of CVs in the queue by contract."""
        with self._transaction() as connection:
            return dict(connection.execute("SELECT contract, count(*) FROM waiting GROUP BY 1").fetchall())

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the queue {self.path} cannot be used: {error}; if it is damaged, delete it: services offer again "
                f"the CVs that waited there"
            ) from error

    def _connection(self) -> sqlite3.Connection:
        """The connection of this thread. After a fork, a new one is opened."""
        if getattr(self._local, "pid", None) != os.getpid():
            with _opening:
                self._local.connection = self._open()
            self._local.pid = os.getpid()
        opened: sqlite3.Connection = self._local.connection
        return opened

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)
        use_wal(connection, WAIT_SECONDS)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(_SCHEMA)
        return connection


class BackgroundQueue:
    """Adds CVs to a GenerationQueue in a background thread, so that a request neither waits nor fails."""

    def __init__(self, queue: GenerationQueue) -> None:
        self.queue = queue
        self.n_dropped = 0  # CVs that did not fit into the buffer or could not be written
        self._buffer: deque[MissedCV] = deque()
        self._added_at: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._changed = threading.Condition()
        self._is_writing = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._write, name="girl-queue", daemon=True)
        self._thread.start()

    def add(self, missed: Sequence[MissedCV]) -> None:
        """Add CVs that were not added within the last REPEAT_SECONDS."""
        now = time.monotonic()
        with self._changed:
            for cv in missed:
                key = (cv.contract, cv.job_seeker_id, cv.cv_hash)
                if now - self._added_at.get(key, -math.inf) < REPEAT_SECONDS:
                    continue
                if len(self._buffer) >= MAX_BUFFERED:
                    self.n_dropped += 1
                    continue
                self._added_at[key] = now
                self._added_at.move_to_end(key)
                self._buffer.append(cv)
            while len(self._added_at) > N_REMEMBERED:
                self._added_at.popitem(last=False)
            self._changed.notify_all()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all CVs are in the file. Return False if it takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._buffer and not self._is_writing, timeout)

    def close(self) -> None:
        """Write the remaining CVs and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(5.0)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._buffer or self._is_closed)
                if not self._buffer:
                    return
                batch = list(self._buffer)
                self._buffer.clear()
                self._is_writing = True
            n_lost = 0
            try:
                self.queue.add(batch)
            except StoreError:
                n_lost = len(batch)
            with self._changed:
                self.n_dropped += n_lost
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_closed, WRITE_EVERY_SECONDS)


def _has_valid_id(cv: MissedCV) -> bool:
    """True if the input tables would accept the seeker's id."""
    name = cv.job_seeker_id
    return bool(name.strip()) and _BAD_IN_ID.search(name) is None and len(name.encode()) <= MAX_ID_BYTES
