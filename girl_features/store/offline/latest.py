"""Rows of a folder of parts by time: all, the newest of each key, or the newest of each key that changed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from girl_features.sql import parquet_relation, quote_identifier
from girl_features.store.parts.tombstones import Tombstones


class RowsSelect(NamedTuple):
    """A RowsQuery with its times: SQL conditions on the columns."""

    query: RowsQuery
    where: str  # which rows count
    touching: str | None  # which rows make their key one that is wanted; None for every key
    latest: bool  # one row a key


class RowsQuery(NamedTuple):
    """Columns to read, by their names in the files."""

    keys: list[str]
    features: list[str]
    timestamp: str
    created: str | None

    @property
    def columns(self) -> list[str]:
        """All of them, in the order Feast wants."""
        return [*self.keys, *self.features, self.timestamp, *([self.created] if self.created else [])]

    def between(self, start: datetime | None, end: datetime | None, *, latest: bool) -> RowsSelect:
        """Rows with an event time from `start` to `end`, both included."""
        at = f"CAST({quote_identifier(self.timestamp)} AS TIMESTAMPTZ)"
        terms = [f"{at} >= {_literal(start)}"] if start else []
        terms += [f"{at} <= {_literal(end)}"] if end else []
        return RowsSelect(self, " AND ".join(terms) or "true", None, latest)

    def changed(self, start: datetime, end: datetime) -> RowsSelect:
        """The newest rows up to `end` of keys with a row whose event or created time is `start` or later."""
        at = f"CAST({quote_identifier(self.timestamp)} AS TIMESTAMPTZ)"
        since = f"{at} >= {_literal(start)}"
        if self.created:
            since = f"({since} OR CAST({quote_identifier(self.created)} AS TIMESTAMPTZ) >= {_literal(start)})"
        return RowsSelect(self, f"{at} <= {_literal(end)}", f"{at} <= {_literal(end)} AND {since}", True)


def rows_between(
    connection: duckdb.DuckDBPyConnection,
    files: list[Path],
    select: RowsSelect,
    tombstones: Tombstones,
    batch_rows: int,
) -> pa.RecordBatchReader:
    """A stream of the selected rows. The newest are found on keys and times alone; wide columns are read after."""
    query = select.query
    columns = ", ".join(f"part.{quote_identifier(name)}" for name in query.columns)
    where = f"{select.where} AND {tombstones.condition(query.keys)}"
    if not select.latest:
        every_row = f"SELECT {columns} FROM {parquet_relation(files)} AS part WHERE {where}"
        return connection.execute(every_row).to_arrow_reader(batch_rows)
    keys = ", ".join(map(quote_identifier, query.keys)) or "0"
    created = "'-infinity'::TIMESTAMPTZ"
    if query.created:
        created = f"coalesce(CAST({quote_identifier(query.created)} AS TIMESTAMPTZ), {created})"
    if select.touching is not None:
        where += f" AND ({keys}) IN (SELECT ({keys}) FROM {parquet_relation(files)} WHERE {select.touching})"
    rows = parquet_relation(files, file_row_number=True)
    connection.execute(
        f"CREATE TEMP TABLE newest AS "
        f"SELECT place.file_index AS file_index, place.file_row_number AS file_row_number FROM ("
        f"SELECT arg_max({{file_index: file_index, file_row_number: file_row_number}}, "
        f"(CAST({quote_identifier(query.timestamp)} AS TIMESTAMPTZ), {created}, file_index, file_row_number)) AS place "
        f"FROM {rows} WHERE {where} GROUP BY {keys})"
    )
    return connection.execute(
        f"SELECT {columns} FROM {rows} AS part JOIN newest USING (file_index, file_row_number)"
    ).to_arrow_reader(batch_rows)


def _literal(time: datetime) -> str:
    """A moment as SQL; times without a zone are local, as Feast takes them."""
    return f"TIMESTAMPTZ '{time.astimezone(UTC).isoformat(sep=' ')}'"
