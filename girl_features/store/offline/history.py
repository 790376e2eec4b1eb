"""Point-in-time joins over Parquet parts with DuckDB: keys and times first, vectors last.

For each feature view two steps: *pick* finds, for every entity row, the place (file and row) of the newest
feature row it may see, reading keys and times alone; *gather* then reads the wide columns of the picked
rows once, straight into arrays in the entity rows' order.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.sql import parquet_relation, quote_identifier
from girl_features.store.parts.tombstones import Tombstones

BATCH_ROWS = 16_384  # of columns that DuckDB puts into order
GATHER_ROWS = 8_192  # of vectors: some 12 MB at 384 dimensions
FEW_VERSIONS = 8  # up to so many rows a key, comparing them all is faster than sorting for an ASOF join
_READ_BYTES = 1 << 20
_MAX_LIST_VALUES = 1 << 30  # an Arrow list array counts its values in 31 bits
_PLACE = "file_index, file_row_number"


class ViewSource(NamedTuple):
    """What a join needs to know of one feature view; column names are those of the files."""

    files: list[Path]
    join_keys: dict[str, str]  # column in the files -> column of the entity rows
    timestamp: str
    created: str | None
    features: dict[str, str]  # column in the files -> name in the result
    ttl: timedelta | None
    tombstones: Tombstones


def join_view(
    connection: duckdb.DuckDBPyConnection,
    entities: pa.Table,
    event_timestamp: str,
    view: ViewSource,
    *,
    created_cutoff: bool,
) -> dict[str, pa.ChunkedArray]:
    """The features of one view for each of n entity rows, by their names in the result, null where none is known.

    A feature row counts for an entity row if its event time is at or before the row's, not older than the time
    to live, and, with `created_cutoff`, created at or before it too. The newest event wins, then the newest
    created (one without created time last), then the row written last.
    """
    keys = list(view.join_keys.values())
    narrow = entities.select([*dict.fromkeys([*keys, event_timestamp])])
    connection.register("entity_rows", narrow)
    try:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE entity AS SELECT row_number() OVER () - 1 AS row, "
            f"CAST({quote_identifier(event_timestamp)} AS TIMESTAMPTZ) AS at, {_aliased(keys, 'e')} FROM entity_rows"
        )
    finally:
        connection.unregister("entity_rows")
    _pick(connection, view, created_cutoff)
    vectors, others = _split_columns(view)
    columns = _gather_vectors(connection, view, vectors, len(entities))
    columns |= _gather_in_order(connection, view, [*others, *(name for name in vectors if name not in columns)])
    return {out: columns[name] for name, out in view.features.items()}


def _aliased(names: list[str], prefix: str) -> str:
    return ", ".join(f"{quote_identifier(name)} AS {prefix}{i}" for i, name in enumerate(names))


def _pick(connection: duckdb.DuckDBPyConnection, view: ViewSource, created_cutoff: bool) -> None:
    """Fill the table `pick` with (row, file_index, file_row_number) of the feature row for each entity row."""
    n_keys = len(view.join_keys)
    created = "'-infinity'::TIMESTAMPTZ"
    if view.created is not None:
        created = f"coalesce(CAST({quote_identifier(view.created)} AS TIMESTAMPTZ), {created})"
    keys = [quote_identifier(name) for name in view.join_keys]
    wanted = " AND ".join(f"{key} IN (SELECT e{i} FROM entity)" for i, key in enumerate(keys))
    alive = view.tombstones.condition(list(view.join_keys))
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE feature AS SELECT {_aliased(list(view.join_keys), 'k') or '0 AS k'}, "
        f"CAST({quote_identifier(view.timestamp)} AS TIMESTAMPTZ) AS known_at, {created} AS created, "
        f"CAST(file_index AS BIGINT) * (1::BIGINT << 40) + CAST(file_row_number AS BIGINT) AS place "
        f"FROM {parquet_relation(view.files, file_row_number=True)} WHERE {wanted or 'true'} AND {alive} "
        f"AND {quote_identifier(view.timestamp)} IS NOT NULL"
    )
    groups = [f"k{i}" for i in range(n_keys)] or ["k"]
    counts = f"SELECT count(*), count(DISTINCT ({', '.join(groups)})) FROM feature"
    n_rows, n_distinct = connection.execute(counts).fetchone() or (0, 0)
    seen = ["feature.known_at <= entity.at"]
    if created_cutoff and view.created is not None:  # one without a created time was never seen created
        seen.append("feature.created <= entity.at AND feature.created > '-infinity'::TIMESTAMPTZ")
    if view.ttl:
        microseconds = view.ttl // timedelta(microseconds=1)
        seen.append(f"feature.known_at + to_microseconds({microseconds}) >= entity.at")
    equal = [f"entity.e{i} = feature.k{i}" for i in range(n_keys)]
    if n_rows == n_distinct:
        query = f"SELECT row, place FROM entity JOIN feature ON {' AND '.join(equal + seen)}"
    elif (created_cutoff and view.created is not None) or n_rows <= FEW_VERSIONS * n_distinct or not n_keys:
        query = (
            f"SELECT row, arg_max(place, (known_at, created, place)) AS place "
            f"FROM entity JOIN feature ON {' AND '.join(equal + seen)} GROUP BY row"
        )
    else:
        query = (
            f"WITH latest AS (SELECT {', '.join(groups)}, known_at, arg_max(place, (created, place)) AS place "
            f"FROM feature GROUP BY ALL) "
            f"SELECT row, place FROM entity ASOF JOIN latest AS feature "
            f"ON {' AND '.join([*equal, 'entity.at >= known_at'])} "
            f"WHERE {' AND '.join(seen)}"
        )
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE pick AS SELECT row, place >> 40 AS file_index, "
        f"place & ((1::BIGINT << 40) - 1) AS file_row_number FROM ({query})"
    )
    connection.execute("DROP TABLE feature")


def _split_columns(view: ViewSource) -> tuple[list[str], list[str]]:
    """Columns that are lists of float32, and the others."""
    schema = pq.read_schema(view.files[0])
    vectors = []
    for name in view.features:
        kind = schema.field(name).type if name in schema.names else pa.null()
        if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_float32(kind.value_type):
            vectors.append(name)
    return vectors, [name for name in view.features if name not in vectors]


def _gather_vectors(
    connection: duckdb.DuckDBPyConnection, view: ViewSource, names: list[str], n: int
) -> dict[str, pa.ChunkedArray]:
    """Columns whose vectors all have one length, each in one array of n rows; columns that are not so are left out.

    Arrow reads them, a few thousand rows at a time into the same memory, as fresh pages cost more than the copy.
    """
    scattered = {name: _Scatter(n) for name in names}
    query = "SELECT row, file_index, file_row_number FROM pick ORDER BY file_index, file_row_number"
    picked = connection.execute(query).fetchnumpy() if names else {}
    for i, path in enumerate(view.files if names else ()):
        start, stop = np.searchsorted(picked["file_index"], [i, i + 1])
        rows, places = picked["row"][start:stop], picked["file_row_number"][start:stop]
        for first, batch in _batches_with(path, names, places):
            low, high = np.searchsorted(places, [first, first + batch.num_rows])
            if low == high:
                continue
            for name, own in scattered.items():
                column = batch.column(name) if name in batch.schema.names else None
                own.put(rows[low:high], column, places[low:high] - first)
    return {name: own.column() for name, own in scattered.items() if own.is_regular}


def _batches_with(path: Path, names: list[str], places: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of the row groups that hold one of the sorted `places`, each with the number of its first row."""
    with pq.ParquetFile(path, buffer_size=_READ_BYTES) as file:  # mapped pages would count as memory
        first = 0
        for group in range(file.metadata.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            if np.searchsorted(places, first) < np.searchsorted(places, first + n_rows):
                at = first
                for batch in file.iter_batches(GATHER_ROWS, row_groups=[group], columns=names, use_threads=False):
                    yield at, batch
                    at += batch.num_rows
            first += n_rows


def _gather_in_order(
    connection: duckdb.DuckDBPyConnection, view: ViewSource, names: list[str]
) -> dict[str, pa.ChunkedArray]:
    """Columns of any type, put into order by DuckDB, which can do it on disk."""
    if not names:
        return {}
    columns = ", ".join(f"part.{quote_identifier(name)}" for name in names)
    rows = parquet_relation(view.files, file_row_number=True)
    query = (
        f"SELECT {columns} FROM entity LEFT JOIN (SELECT * FROM pick JOIN {rows} "
        f"USING ({_PLACE})) AS part ON entity.row = part.row ORDER BY entity.row"
    )
    reader = connection.execute(query).to_arrow_reader(BATCH_ROWS)
    table = pa.Table.from_batches(list(reader), schema=reader.schema)
    return dict(zip(names, table.columns, strict=True))


class _Scatter:
    """A column of n vectors, filled in any order."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._found = np.zeros(n, bool)
        self._vectors: np.ndarray | None = None  # (n, d) float32, once d is known
        self.is_regular = True

    def put(self, rows: np.ndarray, column: pa.ListArray | None, places: np.ndarray) -> None:
        """Set `rows` to the vectors at `places` of the column; gives up where they are not all of one length."""
        if not self.is_regular:
            return
        vectors = None if column is None else _as_matrix(column)
        if vectors is None and column is not None:  # perhaps those that are wanted are
            vectors, places = _as_matrix(column.take(pa.array(places))), np.arange(len(places))
        if vectors is None or (self._vectors is not None and self._vectors.shape[1] != vectors.shape[1]):
            self.is_regular, self._vectors = False, None
            return
        if self._vectors is None:
            memory = pa.allocate_buffer(self._n * vectors.shape[1] * 4)  # of Arrow's pool, which keeps pages
            self._vectors = np.frombuffer(memory, np.float32).reshape(self._n, vectors.shape[1])
        self._vectors[rows] = vectors[places]
        self._found[rows] = True

    def column(self) -> pa.ChunkedArray:
        """All n vectors, null where none was put."""
        kind = pa.list_(pa.float32())
        if self._vectors is None:
            return pa.chunked_array([pa.nulls(self._n, kind)])
        self._vectors[~self._found] = 0
        dimension = self._vectors.shape[1]
        step = max(1, _MAX_LIST_VALUES // dimension)
        return pa.chunked_array([self._chunk(start, start + step) for start in range(0, self._n, step)], kind)

    def _chunk(self, start: int, stop: int) -> pa.ListArray:
        assert self._vectors is not None
        vectors, found = self._vectors[start:stop], self._found[start:stop]
        offsets = pa.array(np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1])
        mask = None if found.all() else pa.array(~found)
        return pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)), mask=mask)


def _as_matrix(column: pa.ListArray) -> np.ndarray | None:
    """(m, d) float32 without a copy; None unless every entry is a list of the same d > 0 floats."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_float32(kind.value_type):
        return None
    values, lengths = column.flatten(), column.value_lengths()
    if column.null_count or values.null_count or not len(column):
        return None
    dimension = lengths[0].as_py()
    if not dimension or not (lengths.to_numpy() == dimension).all():
        return None
    return np.asarray(values.to_numpy().reshape(len(column), dimension))
