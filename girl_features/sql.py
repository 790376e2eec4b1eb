"""Helpers for DuckDB queries: a connection with a memory limit, quoting, and relations over Parquet files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "1GB"  # of one connection; beyond this DuckDB spills to the temporary folder


@contextmanager
def connected(memory_limit: str = MEMORY_LIMIT, threads: int | None = None) -> Iterator[DuckDBPyConnection]:
    """Open a private in-memory DuckDB in UTC that spills to disk beyond `memory_limit`.

    It never downloads an extension, and it does not keep the order of rows where a query has no ORDER BY.
    It uses one thread a core unless `threads` says otherwise.
    """
    import duckdb  # here, so that importing this module stays fast

    with tempfile.TemporaryDirectory(prefix="girl-duckdb-") as spill:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "temp_directory": spill,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        }
        if threads is not None:
            settings["threads"] = threads
        with duckdb.connect(config=settings) as connection:
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")  # the bar would go to stdout
            try:
                yield connection
            finally:
                connection.interrupt()  # after Ctrl-C a query goes on, and closing would wait for it


def quote_identifier(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return `text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def file_list(files: Sequence[Path | str]) -> str:
    """Return `files` as an SQL list in which `*`, `?` and `[` stand for themselves, not for a pattern."""
    escaped = (re.sub(r"([*?\[])", r"[\1]", str(file)) for file in files)
    return "[" + ", ".join(map(quote_literal, escaped)) + "]"


def parquet_relation(files: Sequence[Path | str], **options: bool | str) -> str:
    """Return the rows of Parquet `files` as SQL for a FROM clause; `options` are those of DuckDB's read_parquet."""
    arguments = [file_list(files)]
    for name, value in options.items():
        arguments.append(f"{name} = {quote_literal(value) if isinstance(value, str) else str(value).lower()}")
    return f"read_parquet({', '.join(arguments)})"


def was_interrupted(error: BaseException) -> bool:
    """True for a KeyboardInterrupt, and for the error that DuckDB raises in its place while it runs a query."""
    return isinstance(error, KeyboardInterrupt) or (
        isinstance(error, RuntimeError) and str(error) == "Query interrupted"
    )
