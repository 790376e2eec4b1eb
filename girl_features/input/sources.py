"""The source of an input table, Parquet or CSV files or a query, as a relation that DuckDB can read.

This module reads only schemas and CSV headers. Every failure becomes a DataError that names the table, the place
and what to do next. A message never quotes a row, because rows hold people's CVs.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb

from girl_features.config import TableConfig
from girl_features.errors import DataError
from girl_features.schema import INPUT_COLUMNS, SOURCE_FILE
from girl_features.sql import file_list, parquet_relation, quote_identifier, quote_literal

MAX_CSV_LINE_BYTES = 1 << 26  # of one CSV record, and of the read buffer; longer texts need Parquet
MAX_PRINTED = 80  # characters of a foreign value in a message

_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".csv.gz")
_TSV = (".tsv", ".tsv.gz")
_HEADER_CHARS = 1 << 16
_SOURCE_CATALOG = "girl_source"


class Source(NamedTuple):
    """One input table, before its rows are read. Keys are this package's column names."""

    table: str
    place: str  # the path or "the query", for messages
    relation: str  # SQL to put after FROM; has the column SOURCE_FILE
    columns: dict[str, str]  # column -> quoted identifier in the source
    types: dict[str, str]  # column -> DuckDB type
    is_csv: bool
    nanoseconds: set[str]  # Parquet time columns in nanoseconds, which DuckDB cuts to microseconds


def printable(value: str, limit: int = MAX_PRINTED) -> str:
    """Return `value` for a message: at most `limit` characters, unprintable ones escaped."""
    cut = value[:limit]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return escaped + "…" if len(value) > limit else escaped


@contextmanager
def open_source(connection: duckdb.DuckDBPyConnection, table: str, config: TableConfig, home: str) -> Iterator[Source]:
    """Yield the source that `config` describes, with its columns checked.

    A `database` is attached read-only for the block, and names in the query are looked up in it.
    The catalog `home` is current again after the block.

    Raises:
        DataError: there is no such file, its format is not supported, or columns are missing. Errors of DuckDB while
            the block reads the source become a DataError too.
    """
    place = repr(config.path) if config.path is not None else "the query"
    if config.database is not None:
        place += f" on {config.database!r}"
    with _read_errors(table, place):
        if config.database is None:
            yield _source(connection, table, config, place)
            return
        connection.execute(f"ATTACH {quote_literal(config.database)} AS {_SOURCE_CATALOG} (READ_ONLY)")
        try:
            connection.execute(f"USE {_SOURCE_CATALOG}")
            yield _source(connection, table, config, place)
        finally:
            connection.execute(f"USE {home}")
            connection.execute(f"DETACH {_SOURCE_CATALOG}")


@contextmanager
def open_file(table: str, path: str) -> Iterator[str]:
    """Yield the rows of Parquet or CSV files as SQL to put after FROM, with SOURCE_FILE. Columns of CSV are text.

    Raises:
        DataError: as `open_source` does, but no column is asked for.
    """
    with _read_errors(table, repr(path)):
        files, file_type = _files(table, path)
        is_parquet = file_type == "parquet"
        yield parquet_relation(files, filename=SOURCE_FILE) if is_parquet else _csv_relation(table, files)


def _source(connection: duckdb.DuckDBPyConnection, table: str, config: TableConfig, place: str) -> Source:
    files, file_type = _files(table, config.path) if config.path is not None else ([], "none")
    if config.query is not None:
        relation = _query_relation(table, config.query)
    elif file_type == "parquet":
        relation = parquet_relation(files, filename=SOURCE_FILE, hive_partitioning=False)
    else:
        relation = _csv_relation(table, files)
    described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    source_types = {str(row[0]): str(row[1]) for row in described if row[0] != SOURCE_FILE}
    names = _source_names(table, place, config.columns, list(source_types))
    return Source(
        table=table,
        place=place,
        relation=relation,
        columns={column: quote_identifier(name) for column, name in names.items()},
        types={column: source_types[name] for column, name in names.items()},
        is_csv=file_type == "csv",
        nanoseconds=_nanosecond_columns(connection, files, names) if file_type == "parquet" else set(),
    )


def _source_names(table: str, place: str, mapping: dict[str, str], source_columns: list[str]) -> dict[str, str]:
    """Return the source's name of each of our columns, after a check that they exist."""
    wanted = INPUT_COLUMNS[table]
    unknown = sorted(set(mapping) - set(wanted))
    if unknown:
        raise DataError(
            f"`tables.{table}.columns` maps {', '.join(map(repr, unknown))}, but the columns of {table} are "
            f"{', '.join(wanted)}; write our name on the left and yours on the right"
        )
    names = {column: mapping.get(column, column) for column in wanted}
    missing = {column: name for column, name in names.items() if name not in source_columns}
    if missing:
        listed = ", ".join(map(printable, source_columns[:30])) + (", …" if len(source_columns) > 30 else "")
        example = ", ".join(f"{column}: YOUR_COLUMN" for column in missing)
        raise DataError(
            f"table {table}: {place} has no column {', '.join(map(repr, missing.values()))}; wanted "
            f"{', '.join(names.values())}, found {listed or 'none'}; set `tables.{table}.columns: {{{example}}}`"
        )
    return names


def _files(table: str, path: str) -> tuple[list[str], str]:
    """Return the files of a path or glob in name order, and their common type: "parquet" or "csv"."""
    if Path(path).is_dir():
        example = f"{path.rstrip('/')}/*.parquet"
        raise DataError(f"table {table}: {path!r} is a folder; give the files in it, as in {example}")
    names = [path] if Path(path).is_file() else glob.glob(path, recursive=True)  # noqa: PTH207
    files = sorted(name for name in names if Path(name).is_file())
    if not files:
        raise DataError(f"table {table}: no file at {path!r}; set `tables.{table}.path` to one that exists")
    file_types = {_file_type(name) for name in files}
    if len(file_types) > 1 or "other" in file_types:
        raise DataError(
            f"table {table}: {path!r} should be Parquet ({', '.join(_PARQUET)}) or CSV "
            f"({', '.join(_CSV + _TSV)}), all files of one kind; rename them, or give a `query`"
        )
    return files, file_types.pop()


def _file_type(name: str) -> str:
    lower = name.lower()
    if lower.endswith(_PARQUET):
        return "parquet"
    return "csv" if lower.endswith(_CSV + _TSV) else "other"


def _query_relation(table: str, query: str) -> str:
    statements = duckdb.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise DataError(f"`tables.{table}.query` should be one SELECT; found {printable(query)!r}")
    text = query.encode()
    # positions of tokens, in bytes; a semicolon in quoted text or in a comment is no token
    starts = (start for start, _ in duckdb.tokenize(query))
    end = next((start for start in starts if text[start : start + 1] == b";"), len(text))
    return f"(SELECT *, NULL::VARCHAR AS {SOURCE_FILE} FROM ({text[:end].decode()}\n))"


def _csv_relation(table: str, files: list[str]) -> str:
    """Return a read_csv call with every column as text, so that ids keep leading zeros and no type is guessed."""
    headers = {name: _csv_header(table, name) for name in files}
    first = headers[files[0]]
    for name, header in headers.items():
        if header != first:
            raise DataError(
                f"table {table}: {name!r} has the columns {', '.join(map(printable, header))}, but {files[0]!r} has "
                f"{', '.join(map(printable, first))}; files of one glob must agree"
            )
    columns = ", ".join(f"{quote_literal(column)}: 'VARCHAR'" for column in first)
    delimiter = r"\t" if files[0].lower().endswith(_TSV) else ","
    return (
        f"read_csv({file_list(files)}, auto_detect = false, header = true, columns = {{{columns}}}, "
        f"delim = '{delimiter}', quote = '\"', escape = '\"', max_line_size = {MAX_CSV_LINE_BYTES}, "
        f"buffer_size = {MAX_CSV_LINE_BYTES}, filename = '{SOURCE_FILE}', hive_partitioning = false)"
    )


def _csv_header(table: str, name: str) -> list[str]:
    problem = f"table {table}: {name!r} should be UTF-8 CSV with a header line of column names"
    try:
        raw = gzip.open(name) if name.lower().endswith(".gz") else Path(name).open("rb")  # noqa: SIM115
        with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            start = file.read(_HEADER_CHARS)
        delimiter = "\t" if name.lower().endswith(_TSV) else ","
        header = next(csv.reader(io.StringIO(start, newline=""), delimiter=delimiter), [])
    except (OSError, EOFError, csv.Error) as error:
        raise DataError(f"{problem}; {type(error).__name__} while reading it") from None
    line = ",".join(header)
    if not header or "" in header or len(set(header)) < len(header) or re.search("[\0\ud800-\udfff]", line):
        raise DataError(f"{problem}, each named once; found {printable(line) or 'none'}")
    return header


def _nanosecond_columns(connection: duckdb.DuckDBPyConnection, files: list[str], names: dict[str, str]) -> set[str]:
    """Return the time columns stored in nanoseconds; DuckDB silently cuts those with a time zone to microseconds."""
    rows = connection.execute(
        f"SELECT DISTINCT name FROM parquet_schema({file_list(files)}) WHERE logical_type LIKE '%NANOS=Nano%'"
    ).fetchall()
    return {column for column, name in names.items() if (name,) in rows}


@contextmanager
def _read_errors(table: str, place: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        reason, advice = _explain(str(error))
        # "from None", because DuckDB quotes the offending row, which may be a CV
        raise DataError(f"table {table}: cannot read {place}: {reason}; {advice}") from None


def _explain(message: str) -> tuple[str, str]:
    """Return DuckDB's message without the row that it quotes, and the next step."""
    csv_line = re.search(r"CSV Error on Line: \d+", message)
    if csv_line:
        causes = (
            r"^(Expected Number of Columns: \d+ Found: \d+|Value with unterminated quote found"
            r"|Invalid unicode|Maximum line size of \d+ bytes exceeded)"
        )
        cause = re.search(causes, message, re.MULTILINE)
        reason = csv_line[0] + (f", {cause[0]}" if cause else "")
        return reason, "wanted UTF-8 text, a header line, and fields with breaks or quotes in double quotes"
    first = printable(message.splitlines()[0], 300)
    if "Invalid string encoding" in message:
        reason = first.partition(": value")[0]
        return reason, "write the table again with its text as valid UTF-8, lone surrogates replaced"
    if "parquet" in message.lower() or "magic bytes" in message:
        return first, "the file may be cut short or of another format; write it again"
    if "lock" in message.lower():
        return first, "close the program that has the database open, or give a copy of it"
    return first, "check the path, or try the query in DuckDB"
