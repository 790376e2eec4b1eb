"""Point-in-time joins for the store benchmark, each kind in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from measuring import peak_memory_mb, quiet
from store_data import open_store

from girl_features.sql import parquet_relation

SEED = 0
FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)


class JoinRequest(NamedTuple):
    """A point-in-time join of random seekers at random times."""

    kind: str  # of store; "limit": DuckDB alone
    root: Path  # new folder of the store
    folder: Path  # of the parts
    n_seekers: int
    versions: int
    n_rows: int  # to join
    dimension: int


def prepare_join(request: JoinRequest) -> None:
    """Make the entities and the store, so that the first join takes no longer than the next."""
    _join_of(request)


def join(request: JoinRequest) -> float:
    """Do the join and return the peak memory of this process in MB."""
    with quiet():
        n_rows = _join_of(request)().num_rows
    assert n_rows == request.n_rows
    return peak_memory_mb()


@cache
def _join_of(request: JoinRequest) -> Callable[[], pa.Table]:
    """Return the function that joins. It is made at the first call in a process, and kept."""
    rng = np.random.default_rng(SEED)
    if request.versions == 1:
        seekers = rng.permutation(request.n_seekers)
    else:
        seekers = rng.integers(0, request.n_seekers, request.n_rows)
    days = rng.uniform(0, request.versions, request.n_rows) + 0.5
    times = (pd.to_datetime(FIRST_DAY) + pd.to_timedelta(days, unit="D")).floor("us")
    entities = pd.DataFrame({"seeker": [f"seeker-{i}" for i in seekers], "event_timestamp": times})
    if request.kind == "limit":
        return lambda: _asof_join(entities, request.folder)
    with quiet():
        store = open_store(request.root, request.folder, request.dimension, request.kind)
    return lambda: store.get_historical_features(entities, ["facts:vector"]).to_arrow()


def _asof_join(entities: pd.DataFrame, folder: Path) -> pa.Table:
    """Join by DuckDB: find the row of each entity without reading vectors, then fetch the vectors of those rows."""
    files = parquet_relation(sorted(folder.glob("*.parquet")), file_row_number=True)
    query = f"""
        WITH narrow AS (SELECT seeker, event_timestamp, file_index, file_row_number FROM {files}),
        picked AS (SELECT e.*, n.file_index, n.file_row_number FROM entity e ASOF LEFT JOIN narrow n
            ON e.seeker = n.seeker AND e.event_timestamp >= n.event_timestamp)
        SELECT picked.*, f.vector FROM picked LEFT JOIN {files} f USING (file_index, file_row_number)"""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("frame", pa.Table.from_pandas(entities, preserve_index=False))
        # DuckDB knows the size of a table but not of a registered frame, for which it chooses a slow nested loop
        connection.execute("CREATE TEMP TABLE entity AS FROM frame")
        return connection.execute(query).to_arrow_table()
