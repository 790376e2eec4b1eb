"""CSV and TSV files: their header, how their fields are quoted, and the relation that reads them.

Every column is read as text, so that ids keep leading zeros and no type is guessed. A compressed file is read to its
end first, because DuckDB takes one that was cut short for a shorter table.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from girl_features.errors import DataError
from girl_features.input.sources import CHUNK_BYTES, MAX_CSV_LINE_BYTES, TSV, open_bytes, printable
from girl_features.schema import SOURCE_FILE
from girl_features.sql import file_list

NONE = "none"  # the quoting of databases: no quotation marks, but backslash escapes
_PLAIN = "plain"  # neither quotation marks nor escapes
_BOM = b"\xef\xbb\xbf"
_HEADER_BYTES = 1 << 16
# Where the readings of quoted TSV and of a database's TSV differ. A mark has at most _MARK_BYTES bytes.
_MARKS = re.compile(rb'\\|[\t\r\n]"|[\t\r\n]NULL[\t\r\n]')
_MARK_BYTES = 6
_OTHER_FORMATS = (
    (b"\xff\xfe", "UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16; save it as UTF-8"),
    (b"\x1f\x8b", "compressed by gzip; give it a name that ends in .gz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; decompress it"),
    (b"PK\x03\x04", "a ZIP archive or Excel file; save its table as CSV"),
    (b"PAR1", "Parquet; give it a name that ends in .parquet"),
)


class TextGroup(NamedTuple):
    """Files that follow each other in name order, have the same header and are read in the same way."""

    files: list[str]
    delimiter: str
    quoting: str  # "csv", NONE or _PLAIN
    header: tuple[str, ...]
    option: str  # how messages write the setting `quoting` before its value


def text_groups(table: str, files: Sequence[str], quoting: str | None, option: str | None = None) -> list[TextGroup]:
    """Return `files`, which are in name order, in groups. `quoting` is the setting of that name.

    Messages write it as `option` before its value; by default as in girl.yaml.

    Raises:
        DataError: a file is no UTF-8 text with a header, or it could be read in two ways.
    """
    option = option or f"tables.{table}.quoting: "
    facts = {name: _facts(table, name, quoting, option) for name in files}
    return [TextGroup(list(same), *facts, option) for facts, same in groupby(files, key=facts.__getitem__)]


def csv_relation(group: TextGroup, *, parallel: bool) -> str:
    """Return a read_csv call for files that a database did not write, with the columns c0, c1 and so on."""
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(group.header)))
    quote = "" if group.quoting == _PLAIN else '"'
    return (
        f"read_csv({file_list(group.files)}, auto_detect = false, header = true, columns = {{{columns}}}, "
        rf"delim = '{group.delimiter}', quote = '{quote}', escape = '{quote}', nullstr = ['', '\N'], "
        f"max_line_size = {MAX_CSV_LINE_BYTES}, buffer_size = {MAX_CSV_LINE_BYTES}, parallel = {parallel}, "
        f"filename = '{SOURCE_FILE}', hive_partitioning = false)"
    )


def _facts(table: str, name: str, quoting: str | None, option: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the delimiter, the quoting and the header of a file."""
    is_tsv = name.lower().endswith(TSV)
    delimiter = "\t" if is_tsv else ","
    problem = f"table {table}: {name!r} should be UTF-8 CSV with a header line of column names"
    try:
        with open_bytes(name) as file:
            start = file.read(_HEADER_BYTES)
        header = _header(start.removeprefix(_BOM), delimiter, quoting)
        is_unclear = is_tsv and quoting is None
        mark = _first_mark(name) if is_unclear or name.lower().endswith(".gz") else None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"{problem}; {type(error).__name__} while reading it") from None
    other_format = next((text for sign, text in _OTHER_FORMATS if start.startswith(sign)), None)
    if other_format is not None:
        raise DataError(f"{problem}; it is {other_format}")
    line = delimiter.join(header)
    if not line.strip(delimiter) or re.search("[\0\ud800-\udfff]", line):
        raise DataError(f"{problem}, each named once; found {printable(line) or 'none'}")
    if is_unclear and mark is not None:
        raise DataError(
            f"table {table}: {name!r} holds {mark}, which programs and databases mean in different ways; set "
            rf"`{option}none` if a database wrote it (a tab in a text is \t, a missing value \N), or `{option}csv` if "
            f"texts with tabs or breaks are in double quotes, as pandas, polars and Excel write them"
        )
    return delimiter, quoting or (_PLAIN if is_tsv else "csv"), header


def _header(start: bytes, delimiter: str, quoting: str | None) -> tuple[str, ...]:
    if quoting == NONE:
        line = start.partition(b"\n")[0].removesuffix(b"\r")
        return tuple(line.decode("utf-8", "surrogateescape").split(delimiter))
    text = start.decode("utf-8", "surrogateescape")
    return tuple(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))


def _first_mark(name: str) -> str | None:
    """Return the first sign in a file that its quoting matters, in words. The file is read to the sign or to its end.

    Raises:
        OSError, EOFError, zlib.error: the file is compressed, and damaged or cut short.
    """
    found = None
    with open_bytes(name) as file:
        block = b"\n" + file.read(CHUNK_BYTES).removeprefix(_BOM)
        while found is None:
            if b"\\" in block or b'"' in block or b"NULL" in block:  # much faster than the search
                found = _MARKS.search(block)
            chunk = file.read(CHUNK_BYTES)
            if not chunk:
                found = found or _MARKS.search(block[-_MARK_BYTES:] + b"\n")
                break
            block = block[-_MARK_BYTES:] + chunk
    if found is None:
        return None
    if found[0] == b"\\":
        return "a backslash"
    return "a field that opens with a quotation mark" if b'"' in found[0] else "a field that is the word NULL"
