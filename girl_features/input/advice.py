"""Settings that an error suggests: a query that casts a column, a mapping of columns, a pattern of files.

A suggestion that is put into girl.yaml gives the rows that the table would give with the column mended. Where the
right cast depends on what the values mean, the suggestion has a word in capitals to replace. Where no cast is right, or
where one query cannot read all files of the path as they are read now, there is no query.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb

from girl_features.config import TableConfig
from girl_features.config.written import setting_text
from girl_features.input.sources import CSV, PARQUET, TSV, Source
from girl_features.sql import quote_literal

_SUFFIXES = (*PARQUET, *CSV, *TSV)


def query_advice(source: Source, config: TableConfig, name: str, expression: str) -> str:
    """Return a query in which `expression` takes the place of the column with the quoted name `name`.

    It is the last part of a message, because it may hold any character. There is no query for files with a database's
    escapes, which DuckDB does not know, nor for files with different types or delimiters, which it would cast or split
    like the first.
    """
    if config.quoting == "none":
        return f"write the file again with {expression} in place of {name}"
    again = f"write the files again with {expression} in place of {name}"
    if source.disagreements:
        column, types = next(iter(source.disagreements.items()))
        return f"{again}, and with one type of {column}, which is {types}"
    if len({file.lower().endswith(TSV) for file in source.files}) > 1:
        return f"{again}, and all of them as CSV or all as TSV"
    query = f"SELECT * REPLACE ({expression} AS {name}) FROM {_relation(source, config)}"
    return _set_query(source.table, config, query)


def delimiter_advice(table: str, config: TableConfig, files: Sequence[str], delimiter: str) -> str:
    """Return a query that reads text files whose fields are separated by `delimiter`, as `query_advice` does."""
    if config.quoting == "none":
        return "write it again with the delimiter that its ending stands for"
    relation = _text_relation(config.path or "", len(files), delimiter)
    return _set_query(table, config, f"SELECT * FROM {relation}")


def parquet_advice(path: str, delimiter: str) -> str:
    """Return Python code that writes a text file with this delimiter as Parquet, every column as text."""
    stem = path[: -len(next(suffix for suffix in _SUFFIXES if path.lower().endswith(suffix)))]
    return (
        f"import duckdb; duckdb.read_csv({path!r}, sep={delimiter!r}, header=True, all_varchar=True)"
        f".write_parquet({f'{stem}.parquet'!r})"
    )


def columns_advice(table: str, columns: list[str], mapping: dict[str, str]) -> str:
    """Return the mapping of columns in which the user names other columns than now; it keeps what is mapped already."""
    wanted = {**mapping, **dict.fromkeys(columns, "YOUR_COLUMN")}
    return f"set `tables.{table}.columns: {setting_text(wanted)}`"


def folder_advice(folder: str) -> str:
    """Return a pattern for the tables in a folder; if it has none, the reason why there is no pattern."""
    for inner in ("", "**/"):
        for suffix in _SUFFIXES:
            pattern = f"{glob.escape(folder.rstrip('/'))}/{inner}*{suffix}"
            if any(Path(name).is_file() for name in glob.iglob(pattern, recursive=True)):  # noqa: PTH207
                return f"give the files in it, as in `path: {setting_text(pattern)}`"
    return f"it holds no file of a table ({', '.join(_SUFFIXES)}); give the path of one"


def query_body(query: str) -> str:
    """Return a query without its semicolon and what follows; a comment at its end is ended by a line feed."""
    text = query.encode()
    # positions of tokens, in bytes; a semicolon in quoted text or in a comment is no token
    starts = (start for start, _ in duckdb.tokenize(query))
    end = next((start for start in starts if text[start : start + 1] == b";"), len(text))
    body = text[:end].decode().strip()
    return f"{body}\n" if "--" in body else body


def _set_query(table: str, config: TableConfig, query: str) -> str:
    """Return the advice to set a query; a setting that does not go with a query is to be removed."""
    old = "`query`" if config.path is None else "`path` and `quoting`" if config.quoting else "`path`"
    return f"set this in `tables.{table}`, in place of {old}: query: {setting_text(query)}"


def _relation(source: Source, config: TableConfig) -> str:
    """Return the rows that `config` names as SQL that reads the same from any folder."""
    if config.query is not None:
        return f"({query_body(config.query)})"
    path, file = config.path or "", source.files[0].lower()
    if file.endswith(PARQUET):
        return f"read_parquet({_pattern(path)}{_file_options(len(source.files))})"
    return _text_relation(path, len(source.files), "\t" if file.endswith(TSV) else ",")


def _text_relation(path: str, n_files: int, delimiter: str) -> str:
    sign = r"\t" if delimiter == "\t" else delimiter
    return (
        f"read_csv({_pattern(path)}, all_varchar = true, header = true, delim = '{sign}', quote = '\"', "
        f"escape = '\"', nullstr = ['', '\\N']{_file_options(n_files)})"
    )


def _pattern(path: str) -> str:
    """Return a path as SQL; in one that is a file, `*`, `?` and `[` stand for themselves."""
    return quote_literal(re.sub(r"([*?\[])", r"[\1]", path) if Path(path).is_file() else path)


def _file_options(n_files: int) -> str:
    return ", hive_partitioning = false" + (", union_by_name = true" if n_files > 1 else "")
