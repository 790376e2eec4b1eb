"""Tables as delimited text, in the dialects that databases and spreadsheets write, with the texts that break parsers.

The writers here are the other half of no parser: each knows its rows before they become text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hostile_cases import Case
from hostile_world import TABLES, Market, Rows, kept_rows, make_market

from girl_features.config import TableConfig, TablesConfig

# What a field may hold. Control characters are left out, because cleaning takes them out of texts.
_PIECES = (
    *('"', '""', "'", ",", ";", "\t", "\n", "\r\n", "\r", "\\", "\\N", "\\n", "\\t", "\\\\", "N", "NULL", "", " "),
    *(
        "welder",
        "C:\\new\\table",
        '"quoted"',
        'a "lone quote',
        "5'",
        "#1",
        "=1+1",
        "é",
        "数据",
        "مدير",
        "\ufeff",
        "a|b",
    ),
)


class Dialect(NamedTuple):
    """A way to write rows as text. `settings` go into the table's section of girl.yaml."""

    name: str
    suffix: str
    write: Callable[[Sequence[str], Rows, np.random.Generator], str]
    settings: dict[str, Any]


def _quoted(delimiter: str, ends: Sequence[str], quote_all: bool) -> Callable[..., str]:
    """Return a writer of CSV (RFC 4180), in which a quotation mark is doubled and a missing value is empty."""

    def field(value: str | None) -> str:
        if value is None:
            return ""
        if quote_all or value == "" or any(c in value for c in f'{delimiter}"\r\n') or value != value.strip():
            return '"' + value.replace('"', '""') + '"'
        return value

    def write(names: Sequence[str], rows: Rows, rng: np.random.Generator) -> str:
        lines = [delimiter.join(map(field, row)) for row in [tuple(names), *rows]]
        return "".join(line + ends[int(rng.integers(len(ends)))] for line in lines)

    return write


_COPY = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\x08": "\\b", "\x0b": "\\v", "\x0c": "\\f"}
_MYSQL_BATCH = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\0": "\\0"}
_MYSQL_OUTFILE = {"\\": "\\\\", "\n": "\\\n", "\t": "\\\t", "\0": "\\0"}


def _escaped(escapes: dict[str, str]) -> Callable[..., str]:
    r"""Return a writer of tab-separated text without quotes, in which `\N` is a missing value."""

    def field(value: str | None) -> str:
        return "\\N" if value is None else "".join(escapes.get(character, character) for character in value)

    def write(names: Sequence[str], rows: Rows, rng: np.random.Generator) -> str:
        return "".join("\t".join(map(field, row)) + "\n" for row in [tuple(names), *rows])

    return write


_DATABASE = {"quoting": "none"}
DIALECTS = [
    Dialect("CSV", ".csv", _quoted(",", ["\n"], False), {}),
    Dialect("CSV of Windows", ".csv", _quoted(",", ["\r\n"], True), {}),
    Dialect("CSV with two kinds of line ends", ".csv", _quoted(",", ["\n", "\r\n"], False), {}),
    Dialect("CSV with three kinds of line ends", ".csv", _quoted(",", ["\n", "\r\n", "\r"], False), {}),
    Dialect("TSV with quotes, `quoting: csv`", ".tsv", _quoted("\t", ["\n"], False), {"quoting": "csv"}),
    Dialect("TSV with quotes, no setting", ".tsv", _quoted("\t", ["\n"], False), {}),
    Dialect("Postgres COPY, `quoting: none`", ".tsv", _escaped(_COPY), _DATABASE),
    Dialect("Postgres COPY, no setting", ".tsv", _escaped(_COPY), {}),
    Dialect("MySQL --batch, `quoting: none`", ".tsv", _escaped(_MYSQL_BATCH), _DATABASE),
    Dialect("MySQL OUTFILE, `quoting: none`", ".tsv", _escaped(_MYSQL_OUTFILE), _DATABASE),
    Dialect("MySQL OUTFILE, no setting", ".tsv", _escaped(_MYSQL_OUTFILE), {}),
]


def text_file_cases(folder: Path, seed: int, n: int) -> Iterator[Case]:
    """Yield `n` markets in each dialect, with hostile texts and missing values."""
    for dialect in DIALECTS:
        for attempt in range(n):
            yield _write(folder, dialect, np.random.default_rng([seed, attempt]), attempt)


def _write(folder: Path, dialect: Dialect, rng: np.random.Generator, attempt: int) -> Case:
    market = make_market(rng, range(100, 110))
    tables = {name: [_row(row, columns, rng) for row in getattr(market, name)] for name, columns in TABLES.items()}
    configs = {}
    for name, columns in TABLES.items():
        path = folder / f"{name}{dialect.suffix}"
        rows = [tuple(None if v is None else _as_text(v) for v in row) for row in tables[name]]
        path.write_text(dialect.write(columns, rows, rng), encoding="utf-8", newline="")
        configs[name] = TableConfig(path=str(path), **dialect.settings)
    n_rows = {name: len(rows) for name, rows in tables.items()}
    family, label = f"delimited text, {dialect.name}", f"{dialect.name}, file {attempt}"
    return Case(family, label, TablesConfig(**configs), kept_rows(Market(**tables)), ("table",), n_rows)


def _row(row: tuple[Any, ...], columns: Sequence[str], rng: np.random.Generator) -> tuple[Any, ...]:
    values = []
    for value, column in zip(row, columns, strict=True):
        if column in ("cv", "jd"):
            text = "".join(_PIECES[k] for k in rng.integers(len(_PIECES), size=int(rng.integers(1, 7))))
            is_missing = text.strip(" \t\r\n\ufeff") in ("", "\\N", "NULL")  # the marks of databases
            values.append(None if rng.random() < 0.1 else "welder" if is_missing else text)
        elif column in ("job_seeker_id", "job_id"):
            values.append(None if rng.random() < 0.05 else str(value))
        else:
            values.append(value)
    return tuple(values)


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else value.isoformat()
