"""Bare SQLite tables and Redis keys that hold vectors: the lower limit for what any online store takes.

They know ids and bytes, and nothing of tiers, times, checks or deadlines. `read` returns (m, d) float32 vectors of each
table, for the m ids it has, in the order of the ids.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RAW_DATABASE = 2  # of the Redis server; the Feast stores use 0 and 1


class RawSqlite:
    """One bare table per kind of vector, read by SELECT ... IN."""

    def __init__(self, path: Path, dimension: int) -> None:
        self._connection, self._dimension = sqlite3.connect(path), dimension
        self._connection.execute("PRAGMA journal_mode = WAL")

    def write(self, table: str, rows: Iterable[tuple[str, bytes]]) -> None:
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (k TEXT PRIMARY KEY, v BLOB)")
        self._connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", rows)
        self._connection.commit()

    def read(self, tables: Sequence[str], ids: Sequence[str]) -> list[np.ndarray]:
        marks = ",".join("?" * len(ids))
        vectors = []
        for table in tables:
            stored = dict(self._connection.execute(f"SELECT k, v FROM {table} WHERE k IN ({marks})", ids))
            vectors.append(_stack([stored[name] for name in ids if name in stored], self._dimension))
        return vectors


class RawRedis:
    """One bare key per vector, all read by one MGET."""

    def __init__(self, server: str, dimension: int) -> None:
        self._client, self._dimension = redis_client(server), dimension

    def write(self, table: str, rows: Iterable[tuple[str, bytes]]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for name, value in rows:
                pipe.set(f"{table}:{name}", value)
            pipe.execute()

    def read(self, tables: Sequence[str], ids: Sequence[str]) -> list[np.ndarray]:
        values = self._client.mget([f"{table}:{name}" for table in tables for name in ids])
        vectors = []
        for start in range(0, len(values), len(ids)):
            stored = [value for value in values[start : start + len(ids)] if value is not None]
            vectors.append(_stack(stored, self._dimension))
        return vectors


def redis_client(server: str) -> Any:
    """Return a client of the database that holds the bare keys."""
    import redis

    host, port = server.split(":")
    return redis.Redis(host=host, port=int(port), db=RAW_DATABASE)


RawStore = RawSqlite | RawRedis


def open_raw(path: Path, redis: str | None, dimension: int) -> RawStore:
    """Return a bare store on the Redis server, or on the SQLite file `path` if no server is given."""
    return RawRedis(redis, dimension) if redis else RawSqlite(path, dimension)


def _stack(rows: list[bytes], dimension: int) -> np.ndarray:
    return np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), dimension)
