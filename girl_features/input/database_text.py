r"""Text files as databases write them: MySQL's INTO OUTFILE and `mysql --batch`, and the text format of Postgres COPY.

Quotation marks mean nothing in them. A backslash begins an escape: \t, \n, \\, an escaped delimiter or line end, or a
byte in octal or hexadecimal. A field that is \N, or NULL as `mysql --batch` writes it, is missing. A \r that ends no
line is a part of its field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import duckdb
import pyarrow as pa

from girl_features.errors import DataError
from girl_features.input.sources import MAX_CSV_LINE_BYTES, open_bytes
from girl_features.input.text_files import BOM, TextGroup
from girl_features.schema import SOURCE_FILE

_BATCH_ROWS = 1 << 13
_BATCH_BYTES = 1 << 24
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v", b"Z": b"\x1a"}
_MISSING = (rb"\N", b"NULL")


def register_database_text(
    connection: duckdb.DuckDBPyConnection, relation: str, table: str, group: TextGroup, failures: list[DataError]
) -> None:
    """Register the rows of a group under the name `relation`, with the columns c0, c1 and so on. They are read once.

    DuckDB hides what goes wrong while it reads them; the true error is added to `failures`.
    """
    names = [*(f"c{i}" for i in range(len(group.header))), SOURCE_FILE]
    schema = pa.schema([(name, pa.string()) for name in names])

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for name in group.files:
                yield from _batches(table, name, group, schema)
        except DataError as error:
            failures.append(error)
            raise

    connection.register(relation, pa.RecordBatchReader.from_batches(schema, batches()))


def _batches(table: str, name: str, group: TextGroup, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    rows: list[list[bytes | None]] = []
    n_before, n_bytes = 0, 0
    with open_bytes(name) as file:
        for row in _rows(table, name, file, group):
            rows.append(row)
            n_bytes += sum(len(field) for field in row if field)
            if len(rows) == _BATCH_ROWS or n_bytes > _BATCH_BYTES:
                yield _batch(table, name, rows, n_before, schema)
                n_before, n_bytes, rows = n_before + len(rows), 0, []
    if rows:
        yield _batch(table, name, rows, n_before, schema)


def _batch(table: str, name: str, rows: list[list[bytes | None]], n_before: int, schema: pa.Schema) -> pa.RecordBatch:
    try:
        columns = [pa.array(column, pa.binary()).cast(pa.string()) for column in zip(*rows, strict=True)]
    except pa.ArrowInvalid:
        raise DataError(
            f"table {table}: {name!r} holds bytes that are not UTF-8, in a row from {n_before + 1} to "
            f"{n_before + len(rows)}; write it again as UTF-8"
        ) from None
    return pa.record_batch([*columns, pa.array([name] * len(rows))], schema)


def _rows(table: str, name: str, file: BinaryIO, group: TextGroup) -> Iterator[list[bytes | None]]:
    """Yield the fields of each row after the header, without escapes."""
    delimiter, n_columns = group.delimiter.encode(), len(group.header)
    header = file.readline().removeprefix(BOM)
    end = b"\r\n" if header.endswith(b"\r\n") else b"\n"
    number = 0
    while line := _line(file, end):
        number += 1
        place = f"table {table}: row {number} of {name!r}"
        body = line.removesuffix(end)
        if (body == line and line.endswith(b"\n")) or body.endswith(b"\r"):
            raise DataError(
                rf"{place} has another line end than the header; write it again with lines that all end in \n"
            )
        if len(line) > MAX_CSV_LINE_BYTES:
            raise DataError(f"{place} has more than {MAX_CSV_LINE_BYTES:,} bytes; write the table as Parquet")
        if not body:
            number -= 1
            continue
        fields = body.split(delimiter)
        if b"\\" + delimiter in body:
            fields = _joined(fields, delimiter)
        if len(fields) != n_columns:
            raise DataError(
                f"{place} has {len(fields)} fields, but the header {n_columns}; a tab or line end in a text must be "
                rf"written \t or \n. If texts with them are in double quotes, set `tables.{table}.quoting: csv`"
            )
        yield [None if field in _MISSING else _plain(field, place) for field in fields]


def _line(file: BinaryIO, end: bytes) -> bytes:
    """Return the next row with its line end; a line end after a backslash belongs to the row."""
    lines = [file.readline(MAX_CSV_LINE_BYTES + 1)]
    n_bytes = len(lines[0])
    while lines[-1].endswith(b"\n") and _is_open(lines[-1].removesuffix(end)) and n_bytes <= MAX_CSV_LINE_BYTES:
        lines.append(file.readline(MAX_CSV_LINE_BYTES + 1))
        n_bytes += len(lines[-1])
    return b"".join(lines)


def _joined(parts: list[bytes], delimiter: bytes) -> list[bytes]:
    """Return the fields of a row that was split at every delimiter; one after a backslash belongs to its field."""
    fields: list[list[bytes]] = []
    for part in parts:
        if fields and _is_open(fields[-1][-1]):
            fields[-1].append(part)
        else:
            fields.append([part])
    return [delimiter.join(field) for field in fields]


def _is_open(text: bytes) -> bool:
    """True if `text` ends in a backslash that escapes the next character, not in an escaped backslash."""
    return text.endswith(b"\\") and (len(text) - len(text.rstrip(b"\\"))) % 2 == 1


def _plain(field: bytes, place: str) -> bytes:
    if b"\\" not in field:
        return field
    if re.search(rb"(?<!\\)(?:\\\\)*\\0[0-7]", field):
        raise DataError(
            rf"{place} holds \0 and digits, which MySQL means as a zero byte and Postgres as a character in octal; "
            f"remove it from the text"
        )
    return _ESCAPE.sub(_unescaped, field)


def _unescaped(escape: re.Match[bytes]) -> bytes:
    code = escape[1]
    if code in _LETTERS:
        return _LETTERS[code]
    if code[:1] == b"x" and len(code) > 1:
        return bytes([int(code[1:], 16)])
    return bytes([int(code, 8) & 0xFF]) if code.isdigit() and code < b"8" else code
