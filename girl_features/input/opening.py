"""Open the source of an input table: Parquet, CSV or TSV files, or a query.

Only schemas and headers are read here, and a compressed file or one of tabs once in bytes. Files of one path
that have other columns or types are read one after the other, so that each means what it would mean alone.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from girl_features.config import TableConfig
from girl_features.errors import DataError
from girl_features.input.advice import columns_advice, delimiter_advice, folder_advice, parquet_advice, query_body
from girl_features.input.database_text import register_database_text
from girl_features.input.delimiters import DELIMITERS, other_delimiter
from girl_features.input.parquet_files import parquet_groups, read_as_nulls
from girl_features.input.sources import CSV, PARQUET, TSV, Source, printable, read_errors
from girl_features.input.text_files import NONE, TextGroup, csv_relation, text_groups
from girl_features.schema import INPUT_COLUMNS, SOURCE_FILE
from girl_features.sql import parquet_relation, quote_identifier, quote_literal

_SOURCE_CATALOG = "girl_source"


@contextmanager
def open_sources(
    connection: duckdb.DuckDBPyConnection, table: str, config: TableConfig, home: str
) -> Iterator[list[Source]]:
    """Yield the sources of the table that `config` describes, in the order of its rows, with their columns checked.

    There is one source, or one for every run of files that have the same columns and types.
    A `database` is attached read-only for the block, and names in the query are looked up in it.
    The catalog `home` is current again after the block.

    Raises:
        DataError: there is no such file, its format is not supported, or columns are missing. Errors of DuckDB while
            the block reads the source become a DataError too.
    """
    place = repr(config.path) if config.path is not None else "the query"
    if config.database is not None:
        place += f" on {config.database!r}"
    failures: list[DataError] = []
    with read_errors(table, place, failures), ExitStack() as stack:
        if config.query is not None:
            if config.database is not None:
                stack.enter_context(_attached(connection, config.database, home))
            yield [_query_source(connection, table, config, config.query, place)]
            return
        files = _files(table, config.path or "")
        if files[0].lower().endswith(PARQUET):
            yield _parquet_sources(connection, table, config, place, files)
        else:
            yield _text_sources(connection, table, config, place, files, failures, stack)


def read_text_file(
    connection: duckdb.DuckDBPyConnection, table: str, path: str, quoting: str | None, *, option: str, n_columns: int
) -> pa.Table:
    """Return all rows of a CSV or TSV file, in their order, with its columns as text.

    Args:
        connection: reads the file.
        table: name of the table in messages.
        path: the file.
        quoting: the setting of that name.
        option: how messages write that setting before its value.
        n_columns: number of columns that the table has at least.

    Raises:
        DataError: the file cannot be read, or it could be read in two ways.
    """
    failures: list[DataError] = []
    with read_errors(table, repr(path), failures):
        [group] = text_groups(table, [path], quoting, option)
        delimiter = other_delimiter([path], group.delimiter, n_columns) if len(group.header) < n_columns else None
        if delimiter is not None:
            raise DataError(
                f"table {table}: the fields of {path!r} are separated by {DELIMITERS[delimiter]}, but its ending "
                f"stands for {DELIMITERS[group.delimiter]}; write it as Parquet, as in Python: "
                f"{parquet_advice(path, delimiter)}"
            )
        relations = ["girl_database_text"]
        if group.quoting == NONE:
            register_database_text(connection, relations[0], table, group, failures)
        else:  # DuckDB cannot always tell where a row begins in the middle of a file
            relations = [csv_relation(group, parallel=True), csv_relation(group, parallel=False)]
        for relation in relations:
            try:
                rows = connection.execute(f"SELECT * EXCLUDE ({SOURCE_FILE}) FROM {relation}").to_arrow_table()
            except duckdb.NotImplementedException:
                continue
            return rows.rename_columns(list(group.header))
        raise DataError(f"table {table}: DuckDB cannot read {path!r}; write it as Parquet")


@contextmanager
def _attached(connection: duckdb.DuckDBPyConnection, database: str, home: str) -> Iterator[None]:
    connection.execute(f"ATTACH {quote_literal(database)} AS {_SOURCE_CATALOG} (READ_ONLY)")
    try:
        connection.execute(f"USE {_SOURCE_CATALOG}")
        yield
    finally:
        connection.execute(f"USE {home}")
        connection.execute(f"DETACH {_SOURCE_CATALOG}")


def _files(table: str, path: str) -> list[str]:
    """Return the files of a path or glob in name order, all of them Parquet, or all of them text."""
    if Path(path).is_dir():
        raise DataError(f"table {table}: {path!r} is a folder; {folder_advice(path)}")
    names = [path] if Path(path).is_file() else glob.glob(path, recursive=True)  # noqa: PTH207
    files = sorted(name for name in names if Path(name).is_file())
    if not files:
        raise DataError(f"table {table}: no file at {path!r}; set `tables.{table}.path` to one that exists")
    for endings in (PARQUET, CSV + TSV):
        if all(name.lower().endswith(endings) for name in files):
            return files
    raise DataError(
        f"table {table}: {path!r} should be Parquet ({', '.join(PARQUET)}) or CSV "
        f"({', '.join(CSV + TSV)}), all files of one kind; rename them, or give a `query`"
    )


def _query_source(
    connection: duckdb.DuckDBPyConnection, table: str, config: TableConfig, query: str, place: str
) -> Source:
    statements = duckdb.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise DataError(f"`tables.{table}.query` should be one SELECT; found {printable(query)!r}")
    inner = query_body(query)
    described = connection.execute(f"DESCRIBE SELECT * FROM ({inner})").fetchall()
    types = {str(row[0]): str(row[1]) for row in described}
    names = tuple(types)
    with suppress(duckdb.ParserException):  # a SHOW or SUMMARIZE cannot be described, and names no column twice
        names = tuple(str(row[0]) for row in connection.execute(f"DESCRIBE {inner}").fetchall())
    relation = f"(SELECT *, NULL::VARCHAR AS {SOURCE_FILE} FROM ({inner}))"
    return _typed_source(table, place, place, config, relation, names, types)


def _parquet_sources(
    connection: duckdb.DuckDBPyConnection, table: str, config: TableConfig, place: str, files: Sequence[str]
) -> list[Source]:
    if config.quoting is not None:
        raise DataError(f"`tables.{table}.quoting` is for CSV and TSV files, but {place} is Parquet; remove it")
    groups = parquet_groups(connection, files)
    sources = []
    for group in groups:
        relation = parquet_relation(group.files, filename=SOURCE_FILE, hive_partitioning=False)
        group_place = place if len(groups) == 1 else repr(group.files[0])
        source = _typed_source(table, place, group_place, config, relation, group.names, group.types)
        sources.append(read_as_nulls(connection, source._replace(files=files), group))
    disagreements: dict[str, str] = {}
    for column in INPUT_COLUMNS[table]:
        first = sources[0].types[column]
        for source, group in zip(sources, groups, strict=True):
            if source.types[column] != first:
                two = f"{first} in {groups[0].files[0]!r} and {source.types[column]} in {group.files[0]!r}"
                disagreements.setdefault(column, two)
    return [source._replace(disagreements=disagreements) for source in sources]


def _typed_source(
    table: str,
    place: str,
    group_place: str,
    config: TableConfig,
    relation: str,
    given: Sequence[str],
    types: dict[str, str],
) -> Source:
    """Return a source with the column names `given`, which stand in the order of `types`.

    The keys of `types` are DuckDB's names: it numbers names that are alike.
    """
    names = _source_names(table, group_place, config.columns, given)
    for name in names.values():
        alike = [other for other in given if other.encode().lower() == name.encode().lower()]  # as DuckDB compares
        if len(alike) > 1:
            raise DataError(
                f"table {table}: {group_place} has the columns {' and '.join(repr(printable(n)) for n in alike)}, "
                f"which differ only in upper and lower case, so that DuckDB cannot tell them apart; rename one"
            )
    numbered = dict(zip(given, types, strict=True))
    names = {column: numbered[name] for column, name in names.items()}
    return Source(
        table=table,
        place=place,
        relation=relation,
        columns={column: quote_identifier(name) for column, name in names.items()},
        types={column: types[name] for column, name in names.items()},
        is_csv=False,
        nanoseconds=set(),
        disagreements={},
        files=(),
        one_thread_relation=None,
    )


def _text_sources(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    config: TableConfig,
    place: str,
    files: Sequence[str],
    failures: list[DataError],
    stack: ExitStack,
) -> list[Source]:
    sources = []
    for number, group in enumerate(text_groups(table, files, config.quoting)):
        _check_delimiter(table, config, files, group)
        names = _source_names(table, repr(group.files[0]), config.columns, group.header)
        one_thread = None
        if group.quoting == NONE:
            relation = f"girl_database_text_{number}"
            register_database_text(connection, relation, table, group, failures)
            stack.callback(connection.unregister, relation)
        else:
            relation, one_thread = csv_relation(group, parallel=True), csv_relation(group, parallel=False)
        sources.append(
            Source(
                table=table,
                place=place,
                relation=relation,
                columns={column: f"c{group.header.index(name)}" for column, name in names.items()},
                types=dict.fromkeys(names, "VARCHAR"),
                is_csv=True,
                nanoseconds=set(),
                disagreements={},
                files=files,
                one_thread_relation=one_thread,
            )
        )
    return sources


def _check_delimiter(table: str, config: TableConfig, files: Sequence[str], group: TextGroup) -> None:
    wanted = [config.columns.get(column, column) for column in INPUT_COLUMNS[table]]
    if set(wanted) <= set(group.header):
        return
    delimiter = other_delimiter(files, group.delimiter, len(wanted))
    if delimiter is not None:
        raise DataError(
            f"table {table}: the fields of {group.files[0]!r} are separated by {DELIMITERS[delimiter]}, but its ending "
            f"stands for {DELIMITERS[group.delimiter]}; {delimiter_advice(table, config, files, delimiter)}"
        )


def _source_names(table: str, place: str, mapping: dict[str, str], source_columns: Sequence[str]) -> dict[str, str]:
    """Return the source's name of each of our columns, after a check that each exists once."""
    wanted = INPUT_COLUMNS[table]
    unknown = sorted(set(mapping) - set(wanted))
    if unknown:
        raise DataError(
            f"`tables.{table}.columns` maps {', '.join(map(repr, unknown))}, but the columns of {table} are "
            f"{', '.join(wanted)}; write our name on the left and yours on the right"
        )
    names = {column: mapping.get(column, column) for column in wanted}
    twice = [name for name in names.values() if source_columns.count(name) > 1]
    if twice:
        raise DataError(f"table {table}: {place} has the column {twice[0]!r} more than once; wanted each named once")
    if SOURCE_FILE in map(str.lower, source_columns):
        raise DataError(f"table {table}: {place} has a column {SOURCE_FILE!r}, a name that we use; rename it")
    missing = {column: name for column, name in names.items() if name not in source_columns}
    if missing:
        listed = ", ".join(map(printable, source_columns[:30])) + (", …" if len(source_columns) > 30 else "")
        raise DataError(
            f"table {table}: {place} has no column {', '.join(map(repr, missing.values()))}; wanted "
            f"{', '.join(names.values())}, found {listed or 'none'}; {columns_advice(table, list(missing), mapping)}"
        )
    return names
