"""Parquet files of one path, grouped by their columns, since DuckDB would cast all of them to the types of the first.

A column that holds nothing but nulls has no type of its own: writers make it an integer or a float, for want of better.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import duckdb

from girl_features.input.sources import Source
from girl_features.input.times import INTEGERS
from girl_features.schema import CV, DECIDED_AT, JD, JOB_ID, JOB_SEEKER_ID, MATCHED, POSTED_AT, UPDATED_AT
from girl_features.sql import file_list, parquet_relation

_TEXT, _TIME = ("VARCHAR", "BLOB"), ("VARCHAR", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP", "DATE")
# Beginnings of the types of each column that need no look at its values. A column that holds only
# nulls gets the first of these types.
_USUAL_TYPES = {
    JOB_SEEKER_ID: ("VARCHAR", "UUID", *INTEGERS),
    JOB_ID: ("VARCHAR", "UUID", *INTEGERS),
    CV: _TEXT,
    JD: _TEXT,
    MATCHED: ("BOOLEAN", *INTEGERS),
    UPDATED_AT: _TIME,
    POSTED_AT: _TIME,
    DECIDED_AT: _TIME,
}


class ParquetGroup(NamedTuple):
    """Files that follow each other in name order and have the same columns and types."""

    files: list[str]
    names: list[str]  # of the columns, as the files have them
    types: dict[str, str]  # column -> DuckDB type, in the same order; of columns alike, DuckDB numbers all but one
    nanoseconds: set[str]  # columns of times in nanoseconds


def parquet_groups(connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> list[ParquetGroup]:
    """Return `files`, which are in name order, in groups with the same schema. Only footers are read."""
    schemas = dict(
        connection.execute(
            f"""
            SELECT file_name, md5(list(
                (name, type, type_length, num_children, converted_type, scale, precision, logical_type)
                ORDER BY column_id)::VARCHAR)
            FROM parquet_schema({file_list(files)}) GROUP BY file_name
            """
        ).fetchall()
    )
    known: dict[str, ParquetGroup] = {}
    groups = []
    for schema, same in groupby(files, key=schemas.__getitem__):
        names = list(same)
        if schema not in known:
            known[schema] = _group(connection, names)
        groups.append(known[schema]._replace(files=names))
    return groups


def _group(connection: duckdb.DuckDBPyConnection, files: list[str]) -> ParquetGroup:
    relation = parquet_relation(files[:1], hive_partitioning=False)
    described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    # DuckDB silently cuts nanoseconds with a time zone to microseconds, and calls them by the type of microseconds
    elements = connection.execute(
        f"SELECT name, coalesce(num_children, 0), logical_type FROM parquet_schema({file_list(files[:1])})"
    ).fetchall()
    types = {str(row[0]): str(row[1]) for row in described}
    columns, n_inner = [], 0
    for name, n_children, logical_type in elements[1:]:  # the first is the root; a column's parts follow it
        if n_inner == 0:
            columns.append((str(name), "NANOS=Nano" in (logical_type or "")))
        n_inner = max(n_inner - 1, 0) + n_children
    nanoseconds = {name for name, (_, is_nano) in zip(types, columns, strict=True) if is_nano}
    return ParquetGroup(files, [name for name, _ in columns], types, nanoseconds)


def read_as_nulls(connection: duckdb.DuckDBPyConnection, source: Source, group: ParquetGroup) -> Source:
    """Return `source` with its nanoseconds, and with columns of unusual types that hold only nulls as typed nulls."""
    unusual = [column for column, kind in source.types.items() if not kind.startswith(_USUAL_TYPES[column])]
    columns, types = dict(source.columns), dict(source.types)
    if unusual:
        counts = ", ".join(f"count({source.columns[column]})" for column in unusual)
        row = connection.execute(f"SELECT {counts} FROM {source.relation}").fetchone()
        assert row is not None
        for column, n_values in zip(unusual, row, strict=True):
            if n_values == 0:
                types[column] = _USUAL_TYPES[column][0]
                columns[column] = f"NULL::{types[column]}"
    nanoseconds = {c for c, name in source.columns.items() if name[1:-1].replace('""', '"') in group.nanoseconds}
    return source._replace(columns=columns, types=types, nanoseconds=nanoseconds)
