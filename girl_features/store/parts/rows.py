"""Checks of rows before they enter the store, so that no reader has to repeat them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from girl_features import schema
from girl_features.errors import InvalidVectorError, StoreError
from girl_features.schema import CONTRACT, CREATED_TIMESTAMP, EVENT_TIMESTAMP

N_IDS_NAMED = 5  # ids of bad rows that a message names


class ViewSpec(NamedTuple):
    """One kind of row; each has its own folders of parts."""

    schema: pa.Schema
    key: str  # the id column
    vector: str | None  # the vector column, if there is one
    known_at: str | None  # the copy of the event timestamp that parts have besides

    @property
    def stored_schema(self) -> pa.Schema:
        """Columns of a part on disk: those of the view, and the copy of the event timestamp."""
        if self.known_at is None:
            return self.schema
        return self.schema.append(pa.field(self.known_at, schema.UTC_MICROSECONDS))


CV_VECTORS = "cv_vectors"
JD_VECTORS = "jd_vectors"
GENERATED_JDS = "generated_jds"
FAILURES = "failures"

VIEWS: dict[str, ViewSpec] = {
    CV_VECTORS: ViewSpec(schema.CV_VECTORS_SCHEMA, schema.JOB_SEEKER_ID, schema.CV_VECTOR, schema.CV_KNOWN_AT),
    JD_VECTORS: ViewSpec(schema.JD_VECTORS_SCHEMA, schema.JOB_ID, schema.JD_VECTOR, schema.JD_KNOWN_AT),
    GENERATED_JDS: ViewSpec(
        schema.GENERATED_SCHEMA, schema.JOB_SEEKER_ID, schema.GENERATED_JD_VECTOR, schema.GENERATED_JD_KNOWN_AT
    ),
    FAILURES: ViewSpec(schema.FAILURES_SCHEMA, schema.JOB_SEEKER_ID, None, None),
}


def validated_rows(table: pa.Table, spec: ViewSpec, fingerprint: str, dimension: int) -> pa.Table:
    """Check `table` and return it in the stored schema.

    Its columns may have any order. Strings and lists may have 64-bit offsets, as polars writes them. Every row must
    name the contract `fingerprint`, and every vector must have `dimension` floats.

    Raises:
        StoreError: wrong columns, types, nulls or contract, or two rows of which no join could tell the newer.
        InvalidVectorError: NaN, infinite, all-zero or wrong-dimension vectors; names the ids.
    """
    table = _in_schema(table, spec.schema)
    for name in table.column_names:
        if n_null := table[name].null_count:
            raise StoreError(f"column {name!r} has {n_null} nulls; every column of a part must be filled in")
        if name != spec.vector and pa.types.is_list(table[name].type):
            lists = table[name].combine_chunks()
            if n_null := lists.flatten().null_count:
                raise StoreError(f"the lists of column {name!r} have {n_null} missing entries; leave them out")
    contracts = table[CONTRACT].unique().to_pylist()
    if contracts not in ([], [fingerprint]):
        raise StoreError(f"rows of contract {contracts} were sent to the parts of {fingerprint!r}")
    if spec.vector is None or spec.known_at is None:
        return table
    check_vectors(table[spec.vector], dimension, table[spec.key], spec.vector)
    _check_distinct(table, spec.key)
    return table.append_column(spec.known_at, table[EVENT_TIMESTAMP])


def vectors_of(column: pa.ChunkedArray, dimension: int) -> np.ndarray:
    """Return a list column that passed `check_vectors` as an (n, d) float32 array."""
    flat = column.combine_chunks().flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(column), dimension)


def check_vectors(column: pa.ChunkedArray, dimension: int, ids: pa.ChunkedArray, name: str) -> None:
    """Check that each of the n vectors of the column `name` has `dimension` finite floats that are not all zero.

    Raises:
        InvalidVectorError: some vectors are not so; names those of the n `ids`.
    """
    array = column.combine_chunks()
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    wrong_rows = np.flatnonzero(lengths != dimension)
    if wrong_rows.size:
        dimensions = sorted(set(lengths[wrong_rows].tolist()))
        raise InvalidVectorError(
            f"{wrong_rows.size} values of {name!r} have dimension {', '.join(map(str, dimensions))}, wanted "
            f"{dimension}: {_named_ids(ids, wrong_rows)}; encode them with the contract's own encoder"
        )
    vectors = vectors_of(column, dimension)  # nulls inside a list become NaN
    bad_rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))
    if bad_rows.size:
        raise InvalidVectorError(
            f"{bad_rows.size} values of {name!r} are NaN, infinite or all zero: {_named_ids(ids, bad_rows)}; "
            f"leave those rows out and look at the texts they came from"
        )


def _named_ids(ids: pa.ChunkedArray, rows: np.ndarray) -> str:
    names = ", ".join(repr(ids[int(row)].as_py()) for row in rows[:N_IDS_NAMED])
    n_more = rows.size - N_IDS_NAMED
    return f"{names} and {n_more} more" if n_more > 0 else names


def _in_schema(table: pa.Table, wanted: pa.Schema) -> pa.Table:
    if sorted(table.column_names) != sorted(wanted.names):
        raise StoreError(f"a part needs the columns {wanted.names}, found {table.column_names}")
    table = table.select(wanted.names)
    for field, column in zip(wanted, table.columns, strict=True):
        if _with_32_bit_offsets(column.type) != field.type:
            raise StoreError(f"column {field.name!r} should be {field.type}, found {column.type}")
    return table.cast(wanted)


def _with_32_bit_offsets(column_type: pa.DataType) -> pa.DataType:
    if pa.types.is_large_list(column_type) or pa.types.is_list(column_type) or pa.types.is_fixed_size_list(column_type):
        return pa.list_(_with_32_bit_offsets(column_type.value_type))
    if pa.types.is_large_string(column_type) or pa.types.is_string_view(column_type):
        return pa.string()
    return column_type


def _check_distinct(table: pa.Table, key: str) -> None:
    columns = [key, EVENT_TIMESTAMP, CREATED_TIMESTAMP]
    counts = table.group_by(columns).aggregate([([], "count_all")])
    repeated = np.flatnonzero(counts["count_all"].to_numpy() > 1)
    if repeated.size:
        raise StoreError(
            f"{repeated.size} ids have several rows with the same {EVENT_TIMESTAMP} and {CREATED_TIMESTAMP}, "
            f"so no join could say which is newer: {_named_ids(counts[key], repeated)}; "
            f"keep the newest version of each"
        )
