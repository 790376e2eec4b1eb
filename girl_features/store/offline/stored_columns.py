"""Columns of a view's Parquet files, checked before DuckDB reads them: it ignores case, and casts files to one type."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from girl_features.errors import StoreError
from girl_features.store.offline.exact_ids import StoredIds, kind_of, plain_type
from girl_features.store.parts.file_types import file_schema


class StoredColumns(NamedTuple):
    """Columns of the files of one view."""

    schema: pa.Schema  # of all files; a column that several have is of the type in the first of them
    ids: list[StoredIds]  # of each join key


def stored_columns(location: Path, files: Sequence[Path], keys: list[str], timestamp: str) -> StoredColumns:
    """Read the schemas of `files`, and return the types of the ids in `keys`.

    Every file has the columns `keys` and `timestamp`. Any other column may be missing in a file; it is null there.

    Raises:
        StoreError: a column is missing, or one holds ids of two kinds.
    """
    schemas = [file_schema(file) for file in files]
    for i, (file, schema) in enumerate(zip(files, schemas, strict=True)):
        if i == 0 or schema.names != schemas[0].names:
            _check_names(file, schema, [*keys, timestamp])
    types = [[plain_type(schema.field(_place(schema, key)).type) for schema in schemas] for key in keys]
    ids = [StoredIds(_common(key, files, found), str(location)) for key, found in zip(keys, types, strict=True)]
    return StoredColumns(_whole(schemas), ids)


def _check_names(file: Path, schema: pa.Schema, wanted: Collection[str]) -> None:
    names = {name.lower() for name in schema.names}
    for name in wanted:
        if name.lower() not in names:
            raise StoreError(f"{file} has no column {name!r}; it has {', '.join(map(repr, schema.names))}")


def _whole(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return the columns of all files by their names in the first file that has them."""
    columns: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            columns.setdefault(field.name.lower(), field)
    return pa.schema(list(columns.values()))


def _place(schema: pa.Schema, name: str) -> int:
    return [found.lower() for found in schema.names].index(name.lower())


def _common(key: str, files: Sequence[Path], types: list[pa.DataType]) -> pa.DataType:
    """Return the type of ids that DuckDB reads from files with these types."""
    known = [(file, found) for file, found in zip(files, types, strict=True) if not pa.types.is_null(found)]
    if not known:
        return pa.null()
    first_file, first = known[0]
    if all(found == first for _, found in known):
        return first
    kind = kind_of(first)
    for file, found in known:
        is_wide = found == pa.uint64() or first == pa.uint64()
        is_unlike = found != first and (kind not in ("text", "bytes", "whole numbers") or is_wide)
        if kind_of(found) != kind or is_unlike:
            raise StoreError(
                f"the ids {key!r} are {first} in {first_file}, but {found} in {file}; write all files with one type"
            )
    return {"text": pa.string(), "bytes": pa.binary()}.get(kind or "", pa.int64())
