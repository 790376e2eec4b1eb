r"""Text files as databases write them: MySQL's INTO OUTFILE and `mysql --batch`, and the text format of Postgres COPY.

Quotation marks mean nothing in them. A backslash begins an escape: \t, \n, \\, an escaped delimiter or line end, or a
byte in octal or hexadecimal. A field that is \N, or NULL as `mysql --batch` writes it, is missing. A \r that ends no
line is a part of its field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import duckdb
import pyarrow as pa

from girl_features.errors import DataError
from girl_features.input.sources import MAX_CSV_LINE_BYTES, open_bytes
from girl_features.input.text_files import TextGroup
from girl_features.schema import SOURCE_FILE

_BATCH_ROWS = 1 << 13
_BATCH_BYTES = 1 << 24
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_UNCLEAR = re.compile(rb"(?<!\\)(?:\\\\)*\\0[0-7]")
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
    rows: list[Sequence[bytes | None]] = []
    n_before, n_bytes = 0, 0
    with open_bytes(name) as file:
        for row, size in _rows(table, name, file, group):
            rows.append(row)
            n_bytes += size
            if len(rows) == _BATCH_ROWS or n_bytes > _BATCH_BYTES:
                yield _batch(table, name, rows, n_before, schema)
                n_before, n_bytes, rows = n_before + len(rows), 0, []
    if rows:
        yield _batch(table, name, rows, n_before, schema)


def _batch(
    table: str, name: str, rows: list[Sequence[bytes | None]], n_before: int, schema: pa.Schema
) -> pa.RecordBatch:
    try:
        columns = [pa.array(column, pa.binary()).cast(pa.string()) for column in zip(*rows, strict=True)]
    except pa.ArrowInvalid:
        raise DataError(
            f"table {table}: {name!r} holds bytes that are not UTF-8, in a row from {n_before + 1} to "
            f"{n_before + len(rows)}; write it again as UTF-8"
        ) from None
    return pa.record_batch([*columns, pa.array([name] * len(rows))], schema)


def _rows(table: str, name: str, file: BinaryIO, group: TextGroup) -> Iterator[tuple[Sequence[bytes | None], int]]:
    """Yield the fields of each row after the header, without escapes, and the bytes that the row has in the file."""
    delimiter, n_columns = group.delimiter.encode(), len(group.header)
    end = b"\r\n" if file.readline().endswith(b"\r\n") else b"\n"
    number = 0
    for line in iter(lambda: _line(file, end), b""):
        if line == end:
            continue
        number += 1
        body = line.removesuffix(end)
        fields = body.split(delimiter)
        has_escapes = b"\\" in body
        if has_escapes:
            fields = _joined(fields, delimiter)
        is_other_end = body.endswith(b"\r") or (len(body) == len(line) and line.endswith(b"\n"))
        if len(fields) != n_columns or is_other_end or len(line) > MAX_CSV_LINE_BYTES:
            raise _bad_row(f"table {table}: row {number} of {name!r}", len(line), len(fields), group, is_other_end)
        if not has_escapes and b"NULL" not in body:
            yield fields, len(line)
            continue
        if _UNCLEAR.search(body):
            raise DataError(
                rf"table {table}: row {number} of {name!r} holds \0 and digits, which MySQL means as a zero byte and "
                f"Postgres as a character in octal; remove it from the text"
            )
        yield [None if field in _MISSING else _ESCAPE.sub(_unescaped, field) for field in fields], len(line)


def _bad_row(place: str, n_bytes: int, n_fields: int, group: TextGroup, is_other_end: bool) -> DataError:
    if n_bytes > MAX_CSV_LINE_BYTES:
        return DataError(f"{place} has more than {MAX_CSV_LINE_BYTES:,} bytes; write the table as Parquet")
    if is_other_end:
        return DataError(rf"{place} has another line end than the header; write it again with lines that all end in \n")
    return DataError(
        f"{place} has {n_fields} fields, but the header {len(group.header)}; a tab or line end in a text must be "
        rf"written \t or \n. If texts with them are in double quotes, set `{group.option}csv`"
    )


def _line(file: BinaryIO, end: bytes) -> bytes:
    """Return the next row with its line end; a line end after a backslash belongs to the row."""
    line = file.readline(MAX_CSV_LINE_BYTES + 1)
    if not line.endswith(b"\\" + end):
        return line
    lines, n_bytes = [line], len(line)
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


def _unescaped(escape: re.Match[bytes]) -> bytes:
    code = escape[1]
    if code in _LETTERS:
        return _LETTERS[code]
    if code[:1] == b"x" and len(code) > 1:
        return bytes([int(code[1:], 16)])
    return bytes([int(code, 8) & 0xFF]) if code.isdigit() and code < b"8" else code
