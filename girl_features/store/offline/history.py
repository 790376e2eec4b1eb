"""Point-in-time joins over Parquet parts with DuckDB, in two steps for each feature view.

*Pick* finds, for every entity row, the place (file and row) of the newest feature row that it may use; it reads keys
and times alone. *Gather* then reads the wide columns of the picked rows once, in the order of the entity rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast.types import Int32, Int64

from girl_features.errors import StoreError
from girl_features.sql import quote_identifier
from girl_features.store.feature_types import ColumnPlace, in_declared_type
from girl_features.store.offline.entity_rows import numbered_keys
from girl_features.store.offline.exact_ids import StoredIds, as_stored_ids, kind_of, whole_texts
from girl_features.store.offline.stored_columns import stored_columns
from girl_features.store.parts.file_types import typed_relation
from girl_features.store.parts.tombstones import Tombstones

BATCH_ROWS = 16_384  # of columns that DuckDB puts into order
GATHER_ROWS = 8_192  # of vectors: about 12 MB at 384 dimensions
FEW_VERSIONS = 8  # with up to this many rows for each key, comparing them all is faster than sorting for an ASOF join
_READ_BYTES = 1 << 20
_MAX_LIST_VALUES = 1 << 30  # an Arrow list array counts its values in 31 bits


class ViewSource(NamedTuple):
    """One feature view to join. Column names are those of the files."""

    location: Path
    join_keys: dict[str, str]  # column in the files -> column of the entity rows
    timestamp: str
    created: str | None
    features: dict[str, str]  # column in the files -> name in the result
    types: dict[str, Any]  # column in the files -> Feast's type, of the join keys and all features
    name: str
    ttl: timedelta | None


def join_view(
    connection: duckdb.DuckDBPyConnection,
    entities: pa.Table,
    event_timestamp: str,
    view: ViewSource,
    files: list[Path],
    *,
    created_cutoff: bool,
) -> dict[str, pa.ChunkedArray]:
    """Return the features of one view for n entity rows, by their names in the result, null where none is known.

    An entity row may use a feature row whose event time is at or before its own and within the time to live. Of
    several, the newest event wins, then the newest created time (a row without one comes last), then the row that was
    written last.

    With `created_cutoff`, it may use only feature rows that were created at or before its own time. Times count in
    microseconds. Features come in the types that the view declares, as online.

    Raises:
        DataError: ids of the entity rows cannot be compared exactly with those of the files.
        StoreError: the files lack a column or cannot be read without changing a value, or a value has no equal in its
            declared type.
    """
    times = [name for name in (view.timestamp, view.created) if name]
    stored = stored_columns(view.location, files, list(view.join_keys), view.timestamp)
    entity_keys = zip(view.join_keys, view.join_keys.values(), stored.ids, strict=True)
    ids = [
        as_stored_ids(_as_text_ids(entities[column], view.types[key], stored_ids, column), stored_ids, column)
        for key, column, stored_ids in entity_keys
    ]
    connection.register("entity_rows", numbered_keys(entities, event_timestamp, ids))
    vector_names, other_names = _split_columns(view, stored.schema)
    rows = typed_relation(files, [*view.join_keys, *view.features, *times], file_row_number=True)
    try:
        connection.execute("CREATE TEMP TABLE entity AS SELECT * FROM entity_rows")
        _select_features(connection, view, rows)
        _pick(connection, view, created_cutoff)
        columns = _gather_vectors(connection, files, vector_names, len(entities))
        other_names += [name for name in vector_names if name not in columns]
        columns |= _gather_in_order(connection, rows, other_names)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"the features in {view.location} cannot be joined: {reason}; check its files") from error
    named = next((entities[column] for column in view.join_keys.values()), None)
    return {
        result_name: in_declared_type(columns[name], view.types[name], ColumnPlace(view.name, name, named))
        for name, result_name in view.features.items()
    }


def _as_text_ids(ids: pa.ChunkedArray, declared: Any, stored: StoredIds, column: str) -> pa.ChunkedArray:
    """Return whole numbers as text where the view declares integer ids and its files hold their digits."""
    is_text = declared in (Int64, Int32) and kind_of(stored.type) == "text"
    return whole_texts(ids, column) if is_text else ids


def _select_features(connection: duckdb.DuckDBPyConnection, view: ViewSource, rows: str) -> None:
    """Fill the table `feature` with keys k0, k1, ..., times and place of the feature rows of the wanted entities.

    `place` packs file_index and file_row_number into one number.
    """
    created = "'-infinity'::TIMESTAMPTZ"
    if view.created is not None:
        created = f"coalesce(CAST(part.{quote_identifier(view.created)} AS TIMESTAMPTZ), {created})"
    keys = [f"part.{quote_identifier(key)}" for key in view.join_keys]
    is_wanted = " AND ".join(f"{key} IN (SELECT entity.e{i} FROM entity)" for i, key in enumerate(keys))
    numbered = ", ".join(f"{key} AS k{i}" for i, key in enumerate(keys))
    timestamp = f"part.{quote_identifier(view.timestamp)}"
    connection.execute(
        f"CREATE TEMP TABLE feature AS SELECT {numbered or '0 AS k'}, "
        f"CAST({timestamp} AS TIMESTAMPTZ) AS known_at, {created} AS created, "
        f"CAST(file_index AS BIGINT) * (1::BIGINT << 40) + CAST(file_row_number AS BIGINT) AS place "
        f"FROM {rows} AS part WHERE {is_wanted or 'true'} "
        f"AND {Tombstones.of(view.location).condition(list(view.join_keys))} AND {timestamp} IS NOT NULL"
    )


def _pick(connection: duckdb.DuckDBPyConnection, view: ViewSource, created_cutoff: bool) -> None:
    """Turn the table `feature` into `pick`: (row, file_index, file_row_number) of the feature row for each entity row.

    Takes the fastest of three queries for the number of rows of each key.
    """
    n_keys = len(view.join_keys)
    has_cutoff = created_cutoff and view.created is not None
    keys = ", ".join(f"k{i}" for i in range(n_keys)) or "k"
    counts = f"SELECT count(*), count(DISTINCT ({keys})) FROM feature"
    n_rows, n_distinct = connection.execute(counts).fetchone() or (0, 0)
    usable = ["feature.known_at <= entity.at"]
    if has_cutoff:  # a row without a created time cannot be shown to have existed
        usable.append("feature.created <= entity.at AND feature.created > '-infinity'::TIMESTAMPTZ")
    if view.ttl:
        microseconds = view.ttl // timedelta(microseconds=1)
        usable.append(f"feature.known_at + to_microseconds({microseconds}) >= entity.at")
    same_keys = [f"entity.e{i} = feature.k{i}" for i in range(n_keys)]
    if n_rows == n_distinct:
        query = f"SELECT row, place FROM entity JOIN feature ON {' AND '.join(same_keys + usable)}"
    elif has_cutoff or n_rows <= FEW_VERSIONS * n_distinct or not n_keys:
        query = (
            f"SELECT row, arg_max(place, (known_at, created, place)) AS place "
            f"FROM entity JOIN feature ON {' AND '.join(same_keys + usable)} GROUP BY row"
        )
    else:
        query = (
            f"WITH latest AS (SELECT {keys}, known_at, arg_max(place, (created, place)) AS place "
            f"FROM feature GROUP BY ALL) "
            f"SELECT row, place FROM entity ASOF JOIN latest AS feature "
            f"ON {' AND '.join([*same_keys, 'entity.at >= known_at'])} "
            f"WHERE {' AND '.join(usable)}"
        )
    connection.execute(
        f"CREATE TEMP TABLE pick AS SELECT row, place >> 40 AS file_index, "
        f"place & ((1::BIGINT << 40) - 1) AS file_row_number FROM ({query})"
    )
    connection.execute("DROP TABLE feature")


def _split_columns(view: ViewSource, schema: pa.Schema) -> tuple[list[str], list[str]]:
    vector_names, other_names = [], []
    for name in view.features:
        column_type = schema.field(name).type if name in schema.names else pa.null()
        is_list = pa.types.is_list(column_type) or pa.types.is_large_list(column_type)
        if is_list and pa.types.is_float32(column_type.value_type):
            vector_names.append(name)
        else:
            other_names.append(name)
    return vector_names, other_names


def _gather_vectors(
    connection: duckdb.DuckDBPyConnection, files: list[Path], names: list[str], n: int
) -> dict[str, pa.ChunkedArray]:
    """Return those columns whose vectors all have one dimension, each as one array of n rows.

    Arrow reads a few thousand rows at a time into the same memory, because fresh pages cost more than the copy.
    """
    if not names:
        return {}
    columns = {name: _VectorColumn(n) for name in names}
    query = "SELECT row, file_index, file_row_number FROM pick ORDER BY file_index, file_row_number"
    picked = connection.execute(query).fetchnumpy()
    for i, path in enumerate(files):
        start, stop = np.searchsorted(picked["file_index"], [i, i + 1])
        rows, places = picked["row"][start:stop], picked["file_row_number"][start:stop]
        for first, batch in _batches_with(path, names, places):
            low, high = np.searchsorted(places, [first, first + batch.num_rows])
            if low == high:
                continue
            for name, column in columns.items():
                values = batch.column(name) if name in batch.schema.names else None
                column.put(rows[low:high], values, places[low:high] - first)
    return {name: column.to_arrow() for name, column in columns.items() if column.is_regular}


def _batches_with(path: Path, names: list[str], places: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Read the row groups with one of the sorted `places`, in batches, each with the number of its first row."""
    with pq.ParquetFile(path, buffer_size=_READ_BYTES) as file:  # mapped pages would count as memory
        group_start = 0
        for group in range(file.metadata.num_row_groups):
            group_end = group_start + file.metadata.row_group(group).num_rows
            if np.searchsorted(places, group_start) < np.searchsorted(places, group_end):
                batch_start = group_start
                for batch in file.iter_batches(GATHER_ROWS, row_groups=[group], columns=names, use_threads=False):
                    yield batch_start, batch
                    batch_start += batch.num_rows
            group_start = group_end


def _gather_in_order(connection: duckdb.DuckDBPyConnection, rows: str, names: list[str]) -> dict[str, pa.ChunkedArray]:
    """Return columns of any type, put into order by DuckDB, which can sort on disk."""
    if not names:
        return {}
    # numbered, as the files may have a column of any name
    columns = ", ".join(f"part.{quote_identifier(name)} AS f{i}" for i, name in enumerate(names))
    wanted = ", ".join(f"found.f{i}" for i in range(len(names)))
    query = (
        f"SELECT {wanted} FROM entity LEFT JOIN (SELECT pick.row AS row, {columns} FROM pick JOIN {rows} AS part "
        f"USING (file_index, file_row_number)) AS found ON entity.row = found.row ORDER BY entity.row"
    )
    table = connection.execute(query).to_arrow_reader(BATCH_ROWS).read_all()
    return dict(zip(names, table.columns, strict=True))


class _VectorColumn:
    """A column of n vectors of one dimension d, filled in any order."""

    def __init__(self, n: int) -> None:
        self._n, self._is_set = n, np.zeros(n, bool)
        self._vectors: np.ndarray | None = None  # (n, d) float32, once d is known
        self.is_regular = True  # False once a vector of another dimension was put

    def put(self, rows: np.ndarray, column: pa.ListArray | None, places: np.ndarray) -> None:
        """Set `rows` to the vectors at `places` of `column`. Clears `is_regular` if they differ in dimension."""
        if not self.is_regular:
            return
        vectors = None if column is None else _as_matrix(column)
        if vectors is None and column is not None:  # the wanted vectors alone may still have one dimension
            vectors, places = _as_matrix(column.take(pa.array(places))), np.arange(len(places))
        if vectors is None or (self._vectors is not None and self._vectors.shape[1] != vectors.shape[1]):
            self.is_regular, self._vectors = False, None
            return
        if self._vectors is None:
            memory = pa.allocate_buffer(self._n * vectors.shape[1] * 4)  # from Arrow's pool, which reuses pages
            self._vectors = np.frombuffer(memory, np.float32).reshape(self._n, vectors.shape[1])
        self._vectors[rows] = vectors[places]
        self._is_set[rows] = True

    def to_arrow(self) -> pa.ChunkedArray:
        """Return all n vectors, null where none was put."""
        list_type = pa.list_(pa.float32())
        if self._vectors is None:
            return pa.chunked_array([pa.nulls(self._n, list_type)])
        self._vectors[~self._is_set] = 0
        step = max(1, _MAX_LIST_VALUES // self._vectors.shape[1])
        slices = [self._slice(start, start + step) for start in range(0, self._n, step)]
        return pa.chunked_array(slices, list_type)

    def _slice(self, start: int, stop: int) -> pa.ListArray:
        assert self._vectors is not None
        vectors, is_set = self._vectors[start:stop], self._is_set[start:stop]
        offsets = pa.array(np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1])
        mask = None if is_set.all() else pa.array(~is_set)
        return pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)), mask=mask)


def _as_matrix(column: pa.ListArray) -> np.ndarray | None:
    """Return (m, d) float32 without a copy; None unless every entry is a list of the same number d > 0 of floats."""
    column_type = column.type
    is_list = pa.types.is_list(column_type) or pa.types.is_large_list(column_type)
    if not is_list or not pa.types.is_float32(column_type.value_type):
        return None
    values, lengths = column.flatten(), column.value_lengths()
    if column.null_count or values.null_count or not len(column):
        return None
    dimension = lengths[0].as_py()
    if not dimension or not (lengths.to_numpy() == dimension).all():
        return None
    return np.asarray(values.to_numpy().reshape(len(column), dimension))
