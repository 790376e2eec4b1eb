"""Append rows to a Feast source: a new part where it is a folder, a rewritten file where it is a file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.feature_view import FeatureView
from feast.types import Array, Float32, Float64, UnixTimestamp

from girl_features.errors import StoreError
from girl_features.store.feast_sources import created_column, file_column
from girl_features.store.feature_types import ColumnPlace, in_declared_type
from girl_features.store.files import waiting_lock, write_whole
from girl_features.store.parts.part_files import LOCK, commit_part, parquet_bytes, part_files
from girl_features.store.parts.rows import check_vectors
from girl_features.store.parts.tombstones import Tombstones


def append_rows(location: Path, view: FeatureView, table: pa.Table) -> None:
    """Append the rows of `table`, which has the columns of the source in any order; check columns and vectors.

    Raises:
        StoreError: columns are missing or unknown, or a value has no equal in the type of its view or its source.
        InvalidVectorError: a vector is NaN, infinite, all zero or of the wrong dimension.
    """
    table = _in_declared_types(view, table)
    _check_vector_fields(view, table)
    if location.suffix == ".parquet" and not location.is_dir():
        _append_to_file(location, view, table)
        return
    location.mkdir(parents=True, exist_ok=True)
    source_schema = _first_schema(part_files(location))
    if source_schema is not None:
        table = _in_source_schema(table, source_schema, view, location)
    with waiting_lock(location / LOCK, exclusive=False):  # an erasure holds it exclusive
        table = Tombstones.of(location).without_erased(table)
        if table.num_rows:
            commit_part(location, table)


def _first_schema(parts: list[Path]) -> pa.Schema | None:
    for path in parts:
        with suppress(OSError, pa.ArrowException):
            return pq.read_schema(path)
    return None


def _append_to_file(path: Path, view: FeatureView, table: pa.Table) -> None:
    """Rewrite the file with the rows at its end. Writers take turns; readers see the old or the new file."""
    with waiting_lock(path.parent / f".{path.name}.lock", exclusive=True):
        before = pq.read_table(path)
        added = _in_source_schema(table, before.schema, view, path)
        after = pa.concat_tables([before, added], promote_options="permissive")
        write_whole(path, parquet_bytes(Tombstones.of(path.parent).without_erased(after)))


def _in_source_schema(table: pa.Table, wanted: pa.Schema, view: FeatureView, location: Path) -> pa.Table:
    if sorted(table.column_names) != sorted(wanted.names):
        raise StoreError(
            f"rows for {location} have the columns {table.column_names}, but the source has {wanted.names}; "
            f"send just those"
        )
    columns = {}
    for field in wanted:
        column = table[field.name]
        try:
            columns[field.name] = column if _holds_nulls_alone(field.type) else column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise StoreError(
                f"rows for {location} do not fit its column types: view {view.name!r}, column {field.name!r}: it is "
                f"{table[field.name].type}, but the source has {field.type} ({error}); send that type"
            ) from error
    return pa.table(columns)


def _holds_nulls_alone(kind: pa.DataType) -> bool:
    """True for the type of a column in which no row of the source has a value yet."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(pa.types.is_null(kind)) or (is_list and _holds_nulls_alone(kind.value_type))


def _in_declared_types(view: FeatureView, table: pa.Table) -> pa.Table:
    """Return `table`, which has the source's column names, with features and event times in the view's types."""
    source = view.batch_source
    assert source is not None, "a view without a source takes no rows"
    key = next((file_column(source, name) for name in view.join_keys), None)
    ids = table[key] if key in table.column_names else None
    time, created = file_column(source, source.timestamp_field), created_column(source)
    types = {file_column(source, feature.name): feature.dtype for feature in view.features}
    types |= {name: UnixTimestamp for name in (time, created) if name is not None}
    if time in table.column_names and table[time].null_count:
        row = pc.index(table[time].is_null(), True).as_py()
        raise ColumnPlace(view.name, time, ids).refusal("no event time; fill it in or leave the row out", row)
    for i, name in enumerate(table.column_names):
        if name in types:
            column = in_declared_type(table[name], types[name], ColumnPlace(view.name, name, ids))
            table = table.set_column(i, name, column)
    return table


def _check_vector_fields(view: FeatureView, table: pa.Table) -> None:
    """Check the fields with a `vector_length`; other lists of floats may have any values."""
    source = view.batch_source
    assert source is not None, "a view without a source takes no rows"
    key = next((file_column(source, name) for name in view.join_keys), None)
    for field in view.features:
        name = file_column(source, field.name)
        if field.vector_length and field.dtype in (Array(Float32), Array(Float64)) and name in table.column_names:
            ids = table[key] if key in table.column_names else pa.chunked_array([pa.array(range(len(table)))])
            check_vectors(table[name].drop_null(), field.vector_length, ids.filter(table[name].is_valid()), name)
