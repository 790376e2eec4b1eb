"""Read rows of Parquet files by time: all rows, the newest of each key, or the newest of each key that changed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from girl_features.sql import quote_identifier
from girl_features.store.feast_sources import SourceColumns
from girl_features.store.parts.file_types import typed_relation
from girl_features.store.parts.tombstones import Tombstones


class RowSelection(NamedTuple):
    """The rows to read, as SQL conditions on columns of the files."""

    columns: SourceColumns
    where: str  # rows that count
    touching: str | None  # only keys with a row of this condition are wanted; None for every key
    latest: bool  # only the newest row of each key


def rows_between(columns: SourceColumns, start: datetime | None, end: datetime | None, *, latest: bool) -> RowSelection:
    """Select rows with an event time from `start` to `end`, both included."""
    event_time = _as_timestamp(columns.timestamp)
    terms = []
    if start:
        terms.append(f"{event_time} >= {_time_literal(start)}")
    if end:
        terms.append(f"{event_time} <= {_time_literal(end)}")
    return RowSelection(columns, " AND ".join(terms) or "true", None, latest)


def rows_changed(columns: SourceColumns, start: datetime, end: datetime) -> RowSelection:
    """Select the newest row up to `end` of each key that has a row with event or created time from `start` on."""
    event_time = _as_timestamp(columns.timestamp)
    until = f"{event_time} <= {_time_literal(end)}"
    since = f"{event_time} >= {_time_literal(start)}"
    if columns.created:
        since = f"({since} OR {_as_timestamp(columns.created)} >= {_time_literal(start)})"
    return RowSelection(columns, until, f"{until} AND {since}", True)


def read_rows(
    connection: duckdb.DuckDBPyConnection,
    files: list[Path],
    selection: RowSelection,
    tombstones: Tombstones,
    batch_rows: int,
    touching_files: list[Path] | None = None,
) -> pa.RecordBatchReader:
    """Stream the selected rows of people who were not erased, `batch_rows` at a time.

    The newest row of a key has the latest event time, then created time, then file and place in the file. It is found
    on keys and times alone and the wide columns are read afterwards, so that memory does not grow with the size of the
    vectors. Rows of `selection.touching` are looked for in `touching_files`, or in all files if that is left out.
    """
    columns = selection.columns
    wanted = ", ".join(f"part.{quote_identifier(name)}" for name in columns.names)
    where = f"{selection.where} AND {tombstones.condition(columns.keys)}"
    if not selection.latest:
        query = f"SELECT {wanted} FROM {typed_relation(files, columns.names)} AS part WHERE {where}"
        return connection.execute(query).to_arrow_reader(batch_rows)
    keys = ", ".join(map(quote_identifier, columns.keys)) or "0"
    created = "'-infinity'::TIMESTAMPTZ"
    if columns.created:
        created = f"coalesce({_as_timestamp(columns.created)}, {created})"
    if selection.touching is not None:
        touching = typed_relation(touching_files or files, columns.names)
        where += f" AND ({keys}) IN (SELECT ({keys}) FROM {touching} WHERE {selection.touching})"
    rows = typed_relation(files, columns.names, file_row_number=True)
    connection.execute(
        f"CREATE TEMP TABLE newest AS "
        f"SELECT place.file_index AS file_index, place.file_row_number AS file_row_number FROM ("
        f"SELECT arg_max({{file_index: file_index, file_row_number: file_row_number}}, "
        f"({_as_timestamp(columns.timestamp)}, {created}, file_index, file_row_number)) AS place "
        f"FROM {rows} WHERE {where} GROUP BY {keys})"
    )
    return connection.execute(
        f"SELECT {wanted} FROM {rows} AS part JOIN newest USING (file_index, file_row_number)"
    ).to_arrow_reader(batch_rows)


def _as_timestamp(column: str) -> str:
    return f"CAST({quote_identifier(column)} AS TIMESTAMPTZ)"


def _time_literal(time: datetime) -> str:
    """Return a time as SQL; one without a zone is local time, as in Feast."""
    return f"TIMESTAMPTZ '{time.astimezone(UTC).isoformat(sep=' ')}'"
