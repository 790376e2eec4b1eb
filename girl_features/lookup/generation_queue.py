"""Which CVs wait to be generated for: a durable, bounded queue in one SQLite file of the workspace.

A ranking service offers what it missed, a worker takes the oldest first and says when it is done. What was taken but
not done is still there after a crash. The file holds CVs, so it is its owner's alone to read, and what leaves it is
overwritten. Services and worker share a disk; SQLite's locks are not to be trusted over NFS.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from girl_features.errors import StoreError
from girl_features.input.checks import MAX_ID_BYTES

OFFER_AGAIN_SECONDS = 60.0  # a seeker asked for every second is offered once in so long
N_REMEMBERED = 100_000
N_BUFFERED = 10_000  # offers on their way to the file
MAX_BYTES = 1 << 30  # of the file, however long the CVs
WRITE_EVERY_SECONDS = 0.05
_NEVER = float("-inf")

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


class Offer(NamedTuple):
    """One CV version without a generated JD."""

    contract: str  # fingerprint of the contract wanted
    job_seeker_id: str
    cv_hash: str  # empty where the CV is not known: the tables have it, or nobody
    cv: str  # cleaned


class Waiting(NamedTuple):
    """An offer in the queue."""

    place: int
    offer: Offer
    offered_at: datetime


class GenerationQueue:
    """The file. Any number of processes and threads may use it at once."""

    def __init__(
        self, path: Path, max_length: int = 100_000, is_erased: Callable[[str], bool] = lambda job_seeker_id: False
    ) -> None:
        """Open the queue, or begin one.

        Args:
            path: of the file.
            max_length: offers that may wait.
            is_erased: whether nothing may be kept of this job seeker.

        Raises:
            StoreError: the file cannot be made, or is not a queue.
        """
        self.path = path
        self._max_length = max_length
        self._is_erased = is_erased
        self._local = threading.local()
        with self._transaction():
            pass

    def add(self, offers: Sequence[Offer]) -> int:
        """Append those that are not waiting yet while there is room, and say how many; the same CV waits once.

        CVs of people who were erased do not wait.

        Raises:
            StoreError: the disk does not take it.
        """
        usable = [offer for offer in offers if _is_usable(offer) and not self._is_erased(offer.job_seeker_id)]
        now = time.time_ns() // 1000
        with self._transaction() as connection:
            before = connection.total_changes
            [(length,)] = connection.execute("SELECT count(*) FROM waiting")
            for i, offer in enumerate(usable):
                if length + connection.total_changes - before >= self._max_length or self._is_full(connection):
                    break
                connection.execute(
                    "INSERT INTO waiting (contract, job_seeker_id, cv_hash, cv, offered_at) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT DO NOTHING",
                    (*offer, now + i),  # two versions of one CV differ in time
                )
            return connection.total_changes - before

    def take(self, contract: str, n: int) -> list[Waiting]:
        """Up to n offers of a contract, oldest first; they stay until `done`."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT place, contract, job_seeker_id, cv_hash, cv, offered_at FROM waiting "
                "WHERE contract = ? ORDER BY place LIMIT ?",
                (contract, n),
            ).fetchall()
        return [Waiting(row[0], Offer(*row[1:5]), datetime.fromtimestamp(row[5] / 1e6, UTC)) for row in rows]

    def done(self, places: Sequence[int]) -> None:
        """Remove what has been seen to."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM waiting WHERE place = ?", [(place,) for place in places])

    def erase(self, job_seeker_id: str) -> int:
        """Remove a seeker's CVs, from the log and free pages too, and say how many there were."""
        with self._transaction() as connection:
            n = connection.execute("DELETE FROM waiting WHERE job_seeker_id = ?", (job_seeker_id,)).rowcount
        self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return n

    def lengths(self) -> dict[str, int]:
        """How many wait, by contract."""
        with self._transaction() as connection:
            return dict(connection.execute("SELECT contract, count(*) FROM waiting GROUP BY 1").fetchall())

    def _is_full(self, connection: sqlite3.Connection) -> bool:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return bool((pages - free) * size >= MAX_BYTES)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the queue {self.path} does not work: {error}; if it is damaged, delete it: services offer again "
                f"what was waiting there"
            ) from error

    def _connection(self) -> sqlite3.Connection:
        """This thread's; a new one after a fork."""
        if getattr(self._local, "pid", None) != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute(_SCHEMA)
            self._local.connection, self._local.pid = connection, os.getpid()
        opened: sqlite3.Connection = self._local.connection
        return opened


class OfferQueue:
    """Hands offers to the queue in a thread of its own: offering takes no time and raises nothing."""

    def __init__(self, queue: GenerationQueue) -> None:
        self.queue = queue
        self.n_dropped = 0  # offers there was no room for, or that the file did not take
        self._waiting: deque[Offer] = deque()
        self._offered: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._changed = threading.Condition()
        self._is_writing = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._write, name="girl-offers", daemon=True)
        self._thread.start()

    def offer(self, offers: Sequence[Offer]) -> None:
        """Pass on those not offered a moment ago."""
        now = time.monotonic()
        with self._changed:
            for offer in offers:
                key = offer[:3]
                if now - self._offered.get(key, _NEVER) < OFFER_AGAIN_SECONDS:
                    continue
                if len(self._waiting) >= N_BUFFERED:
                    self.n_dropped += 1
                    continue
                self._offered[key] = now
                self._offered.move_to_end(key)
                self._waiting.append(offer)
            while len(self._offered) > N_REMEMBERED:
                self._offered.popitem(last=False)
            self._changed.notify_all()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all offers are in the file; False if that took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._is_writing, timeout)

    def close(self) -> None:
        """Write what is left and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(5.0)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                batch = list(self._waiting)
                self._waiting.clear()
                self._is_writing = True
            try:
                n_lost = 0
                self.queue.add(batch)
            except StoreError:
                n_lost = len(batch)
            with self._changed:
                self.n_dropped += n_lost
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_closed, WRITE_EVERY_SECONDS)


def _is_usable(offer: Offer) -> bool:
    """Whether the input tables would take such an id."""
    name = offer.job_seeker_id
    try:
        n_bytes = len(name.encode())
    except UnicodeEncodeError:
        return False
    has_controls = any(c < " " or "\x7f" <= c <= "\x9f" for c in name)
    return bool(name.strip()) and n_bytes <= MAX_ID_BYTES and not has_controls
