"""Settings that an error suggests: a query that casts a column, a mapping of columns, a pattern of files.

A suggestion that is put into girl.yaml gives the rows that the table would give with the column mended. Where the
right cast depends on what the values mean, the suggestion has a word in capitals to replace. Where no cast is right, or
where one query cannot read all files of the path as they are read now, there is no query.
"""

from __future__ import annotations

import glob
import json
import re
from pathlib import Path

import duckdb
import yaml

from girl_features.config import TableConfig
from girl_features.input.sources import CSV, PARQUET, TSV, Source
from girl_features.sql import quote_literal

_SUFFIXES = (*PARQUET, *CSV, *TSV)


def setting_text(value: object) -> str:
    """Return `value` as YAML on one line, to stand behind the name of a setting."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    if isinstance(value, str) and text.startswith("'"):
        return json.dumps(value, ensure_ascii=False)  # on one line, and SQL texts may be written into it
    return text.removesuffix("...\n").strip()


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
    place = "`query`" if config.path is None else "`path`"
    return f"set this in `tables.{source.table}`, in place of {place}: query: {setting_text(query)}"


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


def _relation(source: Source, config: TableConfig) -> str:
    """Return the rows that `config` names as SQL that reads the same from any folder."""
    if config.query is not None:
        return f"({query_body(config.query)})"
    path = config.path or ""
    if Path(path).is_file():
        path = re.sub(r"([*?\[])", r"[\1]", path)
    options = ", hive_partitioning = false" + (", union_by_name = true" if len(source.files) > 1 else "")
    file = source.files[0].lower()
    if file.endswith(PARQUET):
        return f"read_parquet({quote_literal(path)}{options})"
    delimiter = r"\t" if file.endswith(TSV) else ","
    return (
        f"read_csv({quote_literal(path)}, all_varchar = true, header = true, delim = '{delimiter}', quote = '\"', "
        f"escape = '\"', nullstr = ['', '\\N']{options})"
    )
