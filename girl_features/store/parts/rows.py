"""What a row must be to enter the store: checked once, here, so that no reader needs to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from girl_features import schema
from girl_features.errors import InvalidVectorError, StoreError
from girl_features.schema import CONTRACT, CREATED_TIMESTAMP, EVENT_TIMESTAMP

N_IDS_NAMED = 5  # so many ids of bad rows go into a message


class ViewSpec(NamedTuple):
    """One folder of parts."""

    schema: pa.Schema
    key: str
    vector: str | None  # the vector column, if it has one
    known_at: str | None  # the event timestamp's copy, added on disk


CV_VECTORS = "cv_vectors"
JD_VECTORS = "jd_vectors"
GENERATED_JDS = "generated_jds"
FAILURES = "failures"

VIEWS: dict[str, ViewSpec] = {
    CV_VECTORS: ViewSpec(schema.CV_VECTORS_SCHEMA, schema.JOB_SEEKER_ID, schema.CV_VECTOR, schema.CV_KNOWN_AT),
    JD_VECTORS: ViewSpec(schema.JD_VECTORS_SCHEMA, schema.JOB_ID, schema.JD_VECTOR, schema.JD_KNOWN_AT),
    GENERATED_JDS: ViewSpec(
        schema.GENERATED_SCHEMA,
        schema.JOB_SEEKER_ID,
        schema.GENERATED_JD_VECTOR,
        schema.GENERATED_JD_KNOWN_AT,
    ),
    FAILURES: ViewSpec(schema.FAILURES_SCHEMA, schema.JOB_SEEKER_ID, None, None),
}


def stored_schema(spec: ViewSpec) -> pa.Schema:
    """The columns of a part on disk: the view's own and the copy of the event timestamp."""
    if spec.known_at is None:
        return spec.schema
    return spec.schema.append(pa.field(spec.known_at, schema.UTC_MICROSECONDS))


def checked(table: pa.Table, spec: ViewSpec, fingerprint: str, dimension: int) -> pa.Table:
    """`table` in the stored schema, fit to be written.

    Args:
        table: the view's columns in any order; 64-bit-offset strings and lists (as polars writes) will do.
        spec: of the view it goes to.
        fingerprint: of the contract every row must name.
        dimension: floats a vector must have.

    Raises:
        StoreError: wrong columns, types, nulls, contract, or two rows that no join could tell apart.
        InvalidVectorError: NaN, infinite, all-zero or wrong-dimension vectors; names the ids.
    """
    table = _in_schema(table, spec.schema)
    for name in table.column_names:
        if n_null := table[name].null_count:
            raise StoreError(f"column {name!r} has {n_null} nulls; every column of a part must be filled in")
    contracts = table[CONTRACT].unique().to_pylist()
    if contracts not in ([], [fingerprint]):
        raise StoreError(f"rows of contract {contracts} were sent to the parts of {fingerprint!r}")
    if spec.vector is None or spec.known_at is None:
        return table
    check_vectors(table[spec.vector], dimension, table[spec.key], spec.vector)
    _check_distinct(table, spec.key)
    return table.append_column(spec.known_at, table[EVENT_TIMESTAMP])


def vectors_of(column: pa.ChunkedArray, dimension: int) -> np.ndarray:
    """The (n, d) float32 array of a list column that `check_vectors` has passed."""
    flat = column.combine_chunks().flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(column), dimension)


def check_vectors(column: pa.ChunkedArray, dimension: int, ids: pa.ChunkedArray, name: str) -> None:
    """Raise InvalidVectorError, naming the ids, unless each of n vectors has `dimension` good floats."""
    array = column.combine_chunks()
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != dimension)
    if wrong.size:
        found = sorted(set(lengths[wrong].tolist()))
        raise InvalidVectorError(
            f"{wrong.size} values of {name!r} have dimension {', '.join(map(str, found))}, wanted {dimension}: "
            f"{_named(ids, wrong)}; encode them with the contract's own encoder"
        )
    vectors = vectors_of(column, dimension)  # nulls inside a list become NaN
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))
    if bad.size:
        raise InvalidVectorError(
            f"{bad.size} values of {name!r} are NaN, infinite or all zero: {_named(ids, bad)}; "
            f"leave those rows out and look at the texts they came from"
        )


def _named(ids: pa.ChunkedArray, rows: np.ndarray) -> str:
    names = [repr(ids[int(row)].as_py()) for row in rows[:N_IDS_NAMED]]
    more = rows.size - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _in_schema(table: pa.Table, wanted: pa.Schema) -> pa.Table:
    if sorted(table.column_names) != sorted(wanted.names):
        raise StoreError(f"a part needs the columns {wanted.names}, found {table.column_names}")
    table = table.select(wanted.names)
    for field, column in zip(wanted, table.columns, strict=True):
        if _plain(column.type) != field.type:
            raise StoreError(f"column {field.name!r} should be {field.type}, found {column.type}")
    return table.cast(wanted)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The 32-bit-offset type of the same values."""
    if pa.types.is_large_list(kind) or pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def _check_distinct(table: pa.Table, key: str) -> None:
    columns = [key, EVENT_TIMESTAMP, CREATED_TIMESTAMP]
    counts = table.group_by(columns).aggregate([([], "count_all")])
    twice = np.flatnonzero(counts["count_all"].to_numpy() > 1)
    if twice.size:
        raise StoreError(
            f"{twice.size} ids have several rows with the same {EVENT_TIMESTAMP} and {CREATED_TIMESTAMP}, "
            f"so no join could say which is newer: {_named(counts[key], twice)}; keep the newest version of each"
        )
