"""Where an input table comes from: Parquet or CSV files, or a query, as a relation DuckDB can read.

Nothing is read here but schemas and CSV headers. Every failure becomes a DataError naming the table, the
place and what to do next; a message never quotes a row, as rows hold people's CVs.
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
from girl_features.schema import INPUT_COLUMNS
from girl_features.sql import file_list, parquet_relation, quote_identifier, quote_literal

FILE_COLUMN = "girl_source_file"  # added to every relation: the file a row came from, NULL for a query
MAX_CSV_LINE_BYTES = 1 << 26  # one CSV record, and the read buffer; longer texts come in as Parquet
MAX_SHOWN = 80  # characters of a foreign value in a message

_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".csv.gz")
_TSV = (".tsv", ".tsv.gz")
_HEADER_CHARS = 1 << 16
_SOURCE_CATALOG = "girl_source"


class Source(NamedTuple):
    """One input table, not read yet."""

    table: str
    place: str  # the path or "the query": how messages call it
    relation: str  # SQL that goes after FROM; has FILE_COLUMN
    columns: dict[str, str]  # our column name -> their quoted identifier
    types: dict[str, str]  # our column name -> DuckDB type
    is_csv: bool
    nanoseconds: frozenset[str]  # our names of Parquet time columns finer than DuckDB keeps


def shown(value: str, limit: int = MAX_SHOWN) -> str:
    """`value` fit for a message: at most `limit` characters, unprintable ones escaped."""
    cut = value[:limit]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return escaped + "…" if len(value) > limit else escaped


@contextmanager
def open_source(connection: duckdb.DuckDBPyConnection, table: str, config: TableConfig, home: str) -> Iterator[Source]:
    """The relation of `config` with its columns checked; errors of reading it inside the block are ours.

    Names in a query with a `database` resolve in that database, which is attached read-only for the block;
    `home` is the catalog to come back to.

    Raises:
        DataError: nothing there, not of a format we read, or columns missing; inside the block, whatever
            DuckDB finds wrong while it reads.
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


def _source(connection: duckdb.DuckDBPyConnection, table: str, config: TableConfig, place: str) -> Source:
    files: list[str] = []
    kind = "query"
    if config.path is not None:
        files, kind = _files(table, config.path)
    if kind == "query":
        assert config.query is not None  # TableConfig: a path or a query
        relation = _query_relation(table, config.query)
    elif kind == "parquet":
        relation = parquet_relation(files, filename=FILE_COLUMN, hive_partitioning=False)
    else:
        relation = _csv_relation(table, files)
    described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    found = {str(row[0]): str(row[1]) for row in described if row[0] != FILE_COLUMN}
    names = _matched_columns(table, place, config.columns, list(found))
    return Source(
        table=table,
        place=place,
        relation=relation,
        columns={ours: quote_identifier(theirs) for ours, theirs in names.items()},
        types={ours: found[theirs] for ours, theirs in names.items()},
        is_csv=kind == "csv",
        nanoseconds=_nanosecond_columns(connection, files, names) if kind == "parquet" else frozenset(),
    )


def _matched_columns(table: str, place: str, mapping: dict[str, str], found: list[str]) -> dict[str, str]:
    """Our column names with theirs, all of them present in `found`."""
    wanted = INPUT_COLUMNS[table]
    unknown = sorted(set(mapping) - set(wanted))
    if unknown:
        raise DataError(
            f"`tables.{table}.columns` maps {', '.join(map(repr, unknown))}, but the columns of {table} are "
            f"{', '.join(wanted)}; write our name on the left and yours on the right"
        )
    names = {ours: mapping.get(ours, ours) for ours in wanted}
    missing = {ours: theirs for ours, theirs in names.items() if theirs not in found}
    if missing:
        held = ", ".join(shown(name) for name in found[:30]) + (", …" if len(found) > 30 else "")
        example = ", ".join(f"{ours}: YOUR_COLUMN" for ours in missing)
        raise DataError(
            f"table {table}: {place} has no column {', '.join(map(repr, missing.values()))}; wanted "
            f"{', '.join(names.values())}, found {held or 'none'}; set `tables.{table}.columns: {{{example}}}`"
        )
    return names


def _files(table: str, path: str) -> tuple[list[str], str]:
    """The files of a path or glob in name order, and their one kind: "parquet" or "csv"."""
    if Path(path).is_dir():
        raise DataError(
            f"table {table}: {path!r} is a folder; give the files in it, as in {path.rstrip('/')}/*.parquet"
        )
    files = (
        [path]
        if Path(path).is_file()
        else sorted(name for name in glob.glob(path, recursive=True) if Path(name).is_file())  # noqa: PTH207
    )
    if not files:
        raise DataError(f"table {table}: no file at {path!r}; set `tables.{table}.path` to one that exists")
    kinds = {_kind(name) for name in files}
    if len(kinds) > 1 or "other" in kinds:
        raise DataError(
            f"table {table}: {path!r} should be Parquet ({', '.join(_PARQUET)}) or CSV "
            f"({', '.join(_CSV + _TSV)}), all files of one kind; rename them, or give a `query`"
        )
    return files, kinds.pop()


def _kind(name: str) -> str:
    lower = name.lower()
    if lower.endswith(_PARQUET):
        return "parquet"
    return "csv" if lower.endswith(_CSV + _TSV) else "other"


def _query_relation(table: str, query: str) -> str:
    statements = duckdb.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise DataError(f"`tables.{table}.query` should be one SELECT; found {shown(query)!r}")
    text = query.encode()
    starts = (start for start, _ in duckdb.tokenize(query))  # in bytes; quoted text and comments are no tokens
    end = next((start for start in starts if text[start : start + 1] == b";"), len(text))
    return f"(SELECT *, NULL::VARCHAR AS {FILE_COLUMN} FROM ({text[:end].decode()}\n))"


def _csv_relation(table: str, files: list[str]) -> str:
    """read_csv with every column as text: ids keep their zeros, and nothing is guessed from the first rows."""
    headers = {name: _csv_header(table, name) for name in files}
    first = headers[files[0]]
    for name, header in headers.items():
        if header != first:
            raise DataError(
                f"table {table}: {name!r} has the columns {', '.join(map(shown, header))}, but {files[0]!r} has "
                f"{', '.join(map(shown, first))}; files of one glob must agree"
            )
    columns = ", ".join(f"{quote_literal(column)}: 'VARCHAR'" for column in first)
    delimiter = r"\t" if files[0].lower().endswith(_TSV) else ","
    return (
        f"read_csv({file_list(files)}, auto_detect = false, header = true, columns = {{{columns}}}, "
        f"delim = '{delimiter}', quote = '\"', escape = '\"', max_line_size = {MAX_CSV_LINE_BYTES}, "
        f"buffer_size = {MAX_CSV_LINE_BYTES}, filename = '{FILE_COLUMN}', hive_partitioning = false)"
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
        raise DataError(f"{problem}, each named once; found {shown(line) or 'none'}")
    return header


def _nanosecond_columns(
    connection: duckdb.DuckDBPyConnection, files: list[str], names: dict[str, str]
) -> frozenset[str]:
    """Time columns stored in nanoseconds: DuckDB cuts zoned ones to microseconds without a word."""
    fine = connection.execute(
        f"SELECT DISTINCT name FROM parquet_schema({file_list(files)}) WHERE logical_type LIKE '%NANOS=Nano%'"
    ).fetchall()
    stored = {str(row[0]) for row in fine}
    return frozenset(ours for ours, theirs in names.items() if theirs in stored)


@contextmanager
def _read_errors(table: str, place: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        reason, advice = _explain(str(error))
        # "from None": DuckDB quotes the offending row, which may be a CV
        raise DataError(f"table {table}: cannot read {place}: {reason}; {advice}") from None


def _explain(message: str) -> tuple[str, str]:
    """DuckDB's message without the row it quotes, and the next step."""
    csv_line = re.search(r"CSV Error on Line: \d+", message)
    if csv_line:
        known = re.search(
            r"^(Expected Number of Columns: \d+ Found: \d+|Value with unterminated quote found"
            r"|Invalid unicode|Maximum line size of \d+ bytes exceeded)",
            message,
            re.MULTILINE,
        )
        reason = csv_line[0] + (f", {known[0]}" if known else "")
        return reason, "wanted UTF-8 text, a header line, and fields with breaks or quotes in double quotes"
    first = shown(message.splitlines()[0], 300)
    if "Invalid string encoding" in message:
        place = first.partition(": value")[0]
        return place, "write the table again with its text as valid UTF-8, lone surrogates replaced"
    if "parquet" in message.lower() or "magic bytes" in message:
        return first, "the file may be cut short or of another format; write it again"
    if "lock" in message.lower():
        return first, "close the program that has the database open, or give a copy of it"
    return first, "check the path, or try the query in DuckDB"
