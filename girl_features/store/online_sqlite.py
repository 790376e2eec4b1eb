"""Packed online store in one SQLite file, for a service on the same host.

online_store:
  type: girl_features.store.online_sqlite.PackedSqliteOnlineStore
  path: data/online.db
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import StrictStr

from girl_features.errors import DeadlineError, StoreError
from girl_features.sql import quote_identifier
from girl_features.store.failpoints import failpoint
from girl_features.store.online.packed_rows import PackedRow
from girl_features.store.online.packed_store import PackedOnlineStore
from girl_features.store.online.plans import view_id
from girl_features.store.sqlite_files import use_wal

N_KEYS_A_READ = 1_000
MMAP_BYTES = 0x7FFF0000  # the maximum of SQLite; reading mapped pages takes half the time
_NO_CREATED = -(1 << 63)
_STEPS_PER_CHECK = 1_000  # of SQLite's virtual machine, about fifty keys, between two checks of the deadline
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS {table} (entity_key BLOB PRIMARY KEY, event INTEGER NOT NULL, "
    "created INTEGER NOT NULL, data BLOB NOT NULL)"
)


class PackedSqliteOnlineStoreConfig(FeastConfigBaseModel):
    """`online_store:` of feature_store.yaml."""

    type: StrictStr = "girl_features.store.online_sqlite.PackedSqliteOnlineStore"
    path: StrictStr = "data/online.db"
    """ The SQLite file; a relative path counts from the repo. """
    busy_timeout_seconds: float = 30.0
    """ Seconds that a writer waits for another writer. """
    read_deadline_ms: float = 1000.0
    """ Milliseconds for one whole read of any number of views and keys; DeadlineError after that. """


class PackedSqliteOnlineStore(PackedOnlineStore):
    """One table for each view, one row for each entity; any number of processes may read and write."""

    def __init__(self) -> None:
        super().__init__()
        self._read = threading.local()  # `deadline` of this thread's read, on the monotonic clock

    def read_packed(
        self, config: RepoConfig, wanted: Sequence[tuple[str, Sequence[bytes]]], deadline_ms: float
    ) -> list[list[bytes | None]]:
        """Read packed rows, None for a miss."""
        self._read.deadline = deadline = time.monotonic() + deadline_ms / 1000
        while True:
            try:
                connection = self._connection(config, reading=True)
                return [_read_table(connection, _table(stored_view), keys) for stored_view, keys in wanted]
            except sqlite3.DatabaseError as error:
                if time.monotonic() >= deadline:
                    raise DeadlineError(
                        f"{_sqlite_path(config)} did not answer for {sum(len(keys) for _, keys in wanted)} keys within "
                        f"{deadline_ms:g} ms; answer without these features, or raise `read_deadline_ms` under "
                        f"`online_store:`"
                    ) from error
                if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY):
                    raise StoreError(
                        f"SQLite cannot read {_sqlite_path(config)}: {error}; run `girl doctor`"
                    ) from error
                time.sleep(0.001)  # readers meet a lock only while another process recovers the file after a crash

    def write_packed(self, config: RepoConfig, view: FeatureView, rows: Sequence[PackedRow]) -> None:
        """Store each row unless a newer one is there."""
        connection, table = self._connection(config), _table(view_id(config, view))
        values = [(row.key, row.event, _NO_CREATED if row.created is None else row.created, row.data) for row in rows]
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            connection.execute(_SCHEMA.format(table=table))
            connection.executemany(
                f"INSERT INTO {table} (entity_key, event, created, data) VALUES (?, ?, ?, ?) "
                f"ON CONFLICT (entity_key) DO UPDATE SET event = excluded.event, created = excluded.created, "
                f"data = excluded.data WHERE (excluded.event, excluded.created) >= (event, created)",
                values,
            )
            failpoint("online.before_commit")
        failpoint("online.committed")

    def remove_packed(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> int:
        """Delete rows and their bytes in the file, and return how many there were."""
        if not self._has_table(config, view):
            return 0
        with self._connection(config) as connection:
            before = connection.total_changes
            connection.execute("PRAGMA secure_delete = ON")
            connection.executemany(
                f"DELETE FROM {_table(view_id(config, view))} WHERE entity_key = ?", [(key,) for key in keys]
            )
            n_rows = connection.total_changes - before
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # removes the deleted bytes from the log too
        return n_rows

    def keys(self, config: RepoConfig, view: FeatureView) -> Iterator[bytes]:
        """List the keys of all rows of a view."""
        if self._has_table(config, view):
            for (key,) in self._connection(config).execute(f"SELECT entity_key FROM {_table(view_id(config, view))}"):
                yield key

    def create_view(self, config: RepoConfig, view: FeatureView) -> None:
        """Create the table of a view."""
        with self._connection(config) as connection:
            connection.execute(_SCHEMA.format(table=_table(view_id(config, view))))

    def drop_view(self, config: RepoConfig, view: FeatureView) -> None:
        """Remove the table of a view."""
        with self._connection(config) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {_table(view_id(config, view))}")

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove the file."""
        for _, connection in self._connections.opened.values():
            connection.close()
        self._connections.opened.clear()
        path = _sqlite_path(config)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)

    def _has_table(self, config: RepoConfig, view: FeatureView) -> bool:
        name = f"packed_{view_id(config, view)}"
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self._connection(config).execute(query, (name,)).fetchone() is not None

    def _connection(self, config: RepoConfig, *, reading: bool = False) -> sqlite3.Connection:
        file = (config.repo_path, config.online_store.path)
        return self._connections.get("reader" if reading else "writer", file, lambda: self._open(config, reading))

    def _open(self, config: RepoConfig, reading: bool) -> sqlite3.Connection:
        path = _sqlite_path(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        timeout = 0.0 if reading else config.online_store.busy_timeout_seconds
        connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
        use_wal(connection, timeout)
        connection.execute("PRAGMA synchronous = FULL")  # an acknowledged row survives a power cut
        connection.execute(f"PRAGMA mmap_size = {MMAP_BYTES}")
        if reading:
            connection.set_progress_handler(lambda: time.monotonic() > self._read.deadline, _STEPS_PER_CHECK)
        return connection


def _read_table(connection: sqlite3.Connection, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
    rows: dict[bytes, bytes] = {}
    for start in range(0, len(keys), N_KEYS_A_READ):
        batch = keys[start : start + N_KEYS_A_READ]
        marks = ",".join("?" * len(batch))
        query = f"SELECT entity_key, data FROM {table} WHERE entity_key IN ({marks})"
        try:
            rows.update(connection.execute(query, batch))
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
    return list(map(rows.get, keys))


def _sqlite_path(config: RepoConfig) -> Path:
    return Path(config.repo_path or ".", config.online_store.path)


def _table(stored_view: str) -> str:
    return quote_identifier(f"packed_{stored_view}")
