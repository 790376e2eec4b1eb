"""Packed online store in one SQLite file, for a service on the same host.

online_store:
  type: girl_features.store.online_sqlite.PackedSqliteOnlineStore
  path: data/online.db
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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

N_KEYS_A_READ = 1_000
MMAP_BYTES = 0x7FFF0000  # the most SQLite takes; reading mapped pages halves the time of a batch
_NO_CREATED = -(1 << 63)
_STEPS_BETWEEN_LOOKS = 1_000  # of SQLite's machine, some fifty keys, between two looks at the clock


class PackedSqliteOnlineStoreConfig(FeastConfigBaseModel):
    """`online_store:` of feature_store.yaml."""

    type: StrictStr = "girl_features.store.online_sqlite.PackedSqliteOnlineStore"
    path: StrictStr = "data/online.db"
    """ Of the SQLite file; a relative one counts from the repo. """
    busy_timeout_seconds: float = 30.0
    """ How long a writer waits for another one. """
    read_deadline_ms: float = 1000.0
    """ For one read in all, however many views and keys; then DeadlineError. """


class PackedSqliteOnlineStore(PackedOnlineStore):
    """One table a view, one row an entity; any number of processes may read and write."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def _read_places(
        self, config: RepoConfig, wanted: Sequence[tuple[str, Sequence[bytes]]], within_ms: float
    ) -> list[list[bytes | None]]:
        self._local.until = until = time.monotonic() + within_ms / 1000
        while True:
            try:
                connection = self._connection(config, reading=True)
                return [_read_table(connection, _table(place), keys) for place, keys in wanted]
            except sqlite3.DatabaseError as error:
                if time.monotonic() >= until:
                    raise DeadlineError(
                        f"{_path(config)} did not answer for {sum(len(keys) for _, keys in wanted)} keys within "
                        f"{within_ms:g} ms; answer without these features, or raise `read_deadline_ms` under "
                        f"`online_store:`"
                    ) from error
                if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY):
                    raise StoreError(f"SQLite cannot read {_path(config)}: {error}; run `girl doctor`") from error
                time.sleep(0.001)  # readers wait for others only while the file is mended after a crash

    def _write(self, config: RepoConfig, view: FeatureView, rows: Sequence[PackedRow]) -> None:
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

    def _remove(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> int:
        if not self._has_table(config, view):
            return 0
        with self._connection(config) as connection:
            before = connection.total_changes
            connection.execute("PRAGMA secure_delete = ON")
            connection.executemany(
                f"DELETE FROM {_table(view_id(config, view))} WHERE entity_key = ?", [(key,) for key in keys]
            )
            n_rows = connection.total_changes - before
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the deleted bytes leave the log too
        return n_rows

    def keys(self, config: RepoConfig, view: FeatureView) -> Iterator[bytes]:
        """Keys of all rows of a view, for verifying."""
        if self._has_table(config, view):
            for (key,) in self._connection(config).execute(f"SELECT entity_key FROM {_table(view_id(config, view))}"):
                yield key

    def _create(self, config: RepoConfig, view: FeatureView) -> None:
        with self._connection(config) as connection:
            connection.execute(_SCHEMA.format(table=_table(view_id(config, view))))

    def _drop(self, config: RepoConfig, view: FeatureView) -> None:
        with self._connection(config) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {_table(view_id(config, view))}")

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove the file with everything in it."""
        for name in ("reader", "writer"):
            if (held := getattr(self._local, name, None)) is not None:
                held[1].close()
                setattr(self._local, name, None)
        path = _path(config)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)

    def _has_table(self, config: RepoConfig, view: FeatureView) -> bool:
        name = f"packed_{view_id(config, view)}"
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self._connection(config).execute(query, (name,)).fetchone() is not None

    def _connection(self, config: RepoConfig, *, reading: bool = False) -> sqlite3.Connection:
        """This thread's connection; a new one after a fork or where the file was replaced by another repo's."""
        name = "reader" if reading else "writer"
        place = (os.getpid(), config.repo_path, config.online_store.path)
        held: tuple[Any, sqlite3.Connection] | None = getattr(self._local, name, None)
        if held is None or held[0] != place:
            held = (place, self._open(config, reading))
            setattr(self._local, name, held)
        return held[1]

    def _open(self, config: RepoConfig, reading: bool) -> sqlite3.Connection:
        path = _path(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        patience = 0.0 if reading else config.online_store.busy_timeout_seconds
        connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # an acknowledged row survives a power cut
        connection.execute(f"PRAGMA mmap_size = {MMAP_BYTES}")
        if reading:
            connection.set_progress_handler(lambda: time.monotonic() > self._local.until, _STEPS_BETWEEN_LOOKS)
        return connection


def _read_table(connection: sqlite3.Connection, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
    found: dict[bytes, bytes] = {}
    for start in range(0, len(keys), N_KEYS_A_READ):
        part = keys[start : start + N_KEYS_A_READ]
        marks = ",".join("?" * len(part))
        try:
            found.update(
                connection.execute(f"SELECT entity_key, data FROM {table} WHERE entity_key IN ({marks})", part)
            )
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
    return list(map(found.get, keys))


_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS {table} (entity_key BLOB PRIMARY KEY, event INTEGER NOT NULL, "
    "created INTEGER NOT NULL, data BLOB NOT NULL)"
)


def _path(config: RepoConfig) -> Path:
    return Path(config.repo_path or ".", config.online_store.path)


def _table(place: str) -> str:
    return quote_identifier(f"packed_{place}")
