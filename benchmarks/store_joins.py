"""Point-in-time joins for the store benchmark, each kind in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from measuring import new_process, peak_memory_mb, quiet
from store_data import open_store

from girl_features.sql import parquet_relation

SEED = 0
FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)


class JoinRequest(NamedTuple):
    """A point-in-time join of random seekers at random times."""

    folder: Path  # of the parts
    n_seekers: int
    versions: int
    n_rows: int  # to join
    dimension: int


class JoinProcess:
    """A process that does one join at a time."""

    def __init__(self, kind: str, request: JoinRequest) -> None:
        self._executor = new_process()
        self._executor.submit(_prepare, kind, request).result()
        self.peak_mb = 0.0  # memory after the first join

    def __enter__(self) -> JoinProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown()

    def join(self) -> None:
        peak_mb = self._executor.submit(_join).result()
        self.peak_mb = self.peak_mb or peak_mb


class _Prepared(NamedTuple):
    """Work of a join process and what it keeps open for it."""

    run: Callable[[], pa.Table]
    n_rows: int
    root: tempfile.TemporaryDirectory[str]


_prepared: list[_Prepared] = []  # in a join process: its one piece of work


def _prepare(kind: str, request: JoinRequest) -> None:
    root = tempfile.TemporaryDirectory()
    with quiet():
        _prepared.append(_Prepared(_join_of(kind, request, Path(root.name)), request.n_rows, root))


def _join() -> float:
    """Do the join and return the peak memory of this process in MB."""
    work = _prepared[0]
    with quiet():
        n_rows = work.run().num_rows
    assert n_rows == work.n_rows
    return peak_memory_mb()


def _join_of(kind: str, request: JoinRequest, root: Path) -> Callable[[], pa.Table]:
    """Return a function that joins by a Feast store, or by DuckDB alone if `kind` is "limit"."""
    rng = np.random.default_rng(SEED)
    if request.versions == 1:
        seekers = rng.permutation(request.n_seekers)
    else:
        seekers = rng.integers(0, request.n_seekers, request.n_rows)
    days = rng.uniform(0, request.versions, request.n_rows) + 0.5
    times = (pd.to_datetime(FIRST_DAY) + pd.to_timedelta(days, unit="D")).floor("us")
    entities = pd.DataFrame({"seeker": [f"seeker-{i}" for i in seekers], "event_timestamp": times})
    if kind == "limit":
        return lambda: _asof_join(entities, request.folder)
    store = open_store(root / kind, request.folder, request.dimension, kind)
    return lambda: store.get_historical_features(entities, ["facts:vector"]).to_arrow()


def _asof_join(entities: pd.DataFrame, folder: Path) -> pa.Table:
    """Join by DuckDB: find the row of each entity without reading vectors, then fetch the vectors of those rows."""
    files = parquet_relation(sorted(folder.glob("*.parquet")), file_row_number=True)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("frame", pa.Table.from_pandas(entities, preserve_index=False))
        # DuckDB knows the size of a table but not of a registered frame, for which it chooses a slow nested loop
        connection.execute("CREATE TEMP TABLE entity AS FROM frame")
        return connection.execute(
            f"WITH narrow AS (SELECT seeker, event_timestamp, file_index, file_row_number FROM {files}), "
            f"picked AS (SELECT e.*, n.file_index, n.file_row_number FROM entity e ASOF LEFT JOIN narrow n "
            f"ON e.seeker = n.seeker AND e.event_timestamp >= n.event_timestamp) "
            f"SELECT picked.*, f.vector FROM picked LEFT JOIN {files} f USING (file_index, file_row_number)"
        ).to_arrow_table()
