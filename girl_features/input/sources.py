"""The source of an input table as a relation that DuckDB can read, and the errors of reading it.

Every failure becomes a DataError that names the table, the place and what to do next. A message never quotes a row,
because rows hold people's CVs.
"""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import duckdb

from girl_features.errors import DataError

# endings of the files that hold a table
PARQUET = (".parquet", ".pq")
CSV = (".csv", ".csv.gz")
TSV = (".tsv", ".tsv.gz")
MAX_CSV_LINE_BYTES = 1 << 26  # of one row of a CSV or TSV file, and of the read buffer; longer texts need Parquet
CHUNK_BYTES = 1 << 20  # read at once from a file that is looked through
MAX_PRINTED = 80  # characters of a foreign value in a message

_ONE_LINE_END = r"write it again with one kind of line end, and with each \r in a text in double quotes"


class Source(NamedTuple):
    """One input table, or those files of it that have the same columns, before rows are read.

    Keys are this package's column names.
    """

    table: str
    place: str  # the path or "the query", for messages
    relation: str  # SQL to put after FROM; has the column SOURCE_FILE
    columns: dict[str, str]  # column -> SQL of its value, mostly a quoted identifier
    types: dict[str, str]  # column -> DuckDB type
    is_csv: bool
    nanoseconds: set[str]  # Parquet time columns in nanoseconds, which DuckDB cuts to microseconds
    disagreements: dict[str, str]  # column -> its types in two files, where the files of a path differ
    files: Sequence[str]  # all files of the path; none for a query
    one_thread_relation: str | None  # the same rows, read by one thread; None unless the source is CSV


def printable(value: str, limit: int = MAX_PRINTED) -> str:
    """Return `value` for a message: at most `limit` characters, unprintable ones escaped."""
    cut = value[:limit]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return escaped + "…" if len(value) > limit else escaped


def open_bytes(name: str) -> BinaryIO:
    """Open a file for reading its bytes, decompressed if its name ends in .gz."""
    if name.lower().endswith(".gz"):
        return io.BufferedReader(gzip.open(name))
    return Path(name).open("rb")


def copy_rows(
    connection: duckdb.DuckDBPyConnection, sources: Sequence[Source], target: str, select: Callable[[Source], str]
) -> None:
    """Create the table `target` of the rows of all `sources`, in their order; `select` gives the SELECT for a source.

    Raises:
        DataError: `select` refuses a source. All of them are asked before the first row is read.
    """
    for i, (source, statement) in enumerate([(source, select(source)) for source in sources]):
        start = f"INSERT INTO {target}" if i else f"CREATE TABLE {target} AS"
        try:
            connection.execute(f"{start} {statement}")
        except (
            duckdb.NotImplementedException
        ):  # from the middle of this CSV file, DuckDB cannot tell where a row begins
            if source.one_thread_relation is None:
                raise
            connection.execute(f"{start} {select(source._replace(relation=source.one_thread_relation))}")


@contextmanager
def read_errors(table: str, place: str, failures: Sequence[DataError]) -> Iterator[None]:
    """Turn errors of DuckDB into DataErrors. The first of `failures`, if there is one, is the error's true cause."""
    try:
        yield
    except duckdb.Error as error:
        if failures:
            raise failures[0] from None
        reason, advice = _explain(str(error), place)
        # "from None", because DuckDB quotes the offending row, which may be a CV
        raise DataError(f"table {table}: cannot read {place}: {reason}; {advice}") from None


def _explain(message: str, place: str) -> tuple[str, str]:
    """Return DuckDB's message without the row that it quotes, and the next step."""
    files = re.findall(r"^  file = (.+)\n  delimiter = ", message, re.MULTILINE)  # the last is no part of the row
    in_file = f" in {printable(files[-1], 300)!r}" if files and repr(files[-1]) != place else ""
    csv_line = re.search(r"CSV Error on Line: \d+", message)
    if csv_line:
        causes = (
            r"^(Expected Number of Columns: \d+ Found: \d+|Value with unterminated quote found"
            r"|Invalid unicode|Maximum line size of \d+ bytes exceeded)"
        )
        cause = re.search(causes, message, re.MULTILINE)
        ends = _line_ends(files[-1]) if files and cause and "unterminated quote" in cause[0] else []
        if len(ends) > 1:  # to DuckDB, a quoted field before a line end of another kind is one that does not end
            reason = (
                rf"{csv_line[0]}, its line ends are mixed ({' and '.join(ends)}), or a quotation mark is not closed"
            )
            return reason + in_file, _ONE_LINE_END
        reason = csv_line[0] + (f", {cause[0]}" if cause else "") + in_file
        return reason, "wanted UTF-8 text, a header line, and fields with breaks or quotes in double quotes"
    if "CSV Parser state machine reached an invalid state" in message:
        reason = rf"its line ends are mixed, some \n and some \r\n or \r{in_file}"
        return reason, _ONE_LINE_END
    first = printable(message.splitlines()[0], 300)
    if "Invalid string encoding" in message:
        reason = first.partition(": value")[0]
        return reason, "write the table again with its text as valid UTF-8, lone surrogates replaced"
    if "parquet" in message.lower() or "magic bytes" in message:
        return first, "the file may be cut short or of another format; write it again"
    if "lock" in message.lower():
        return first, "close the program that has the database open, or give a copy of it"
    return first, "check the path, or try the query in DuckDB"


def _line_ends(name: str) -> list[str]:
    r"""Return the kinds of line ends in a file, texts in quotes included: \n, \r\n, \r."""
    n_lf = n_cr = n_both = 0
    with open_bytes(name) as file:
        while chunk := file.read(CHUNK_BYTES):
            chunk += file.read(1) if chunk.endswith(b"\r") else b""
            n_lf, n_cr, n_both = n_lf + chunk.count(b"\n"), n_cr + chunk.count(b"\r"), n_both + chunk.count(b"\r\n")
    counts = {r"\n": n_lf - n_both, r"\r\n": n_both, r"\r": n_cr - n_both}
    return [kind for kind, n in counts.items() if n]
