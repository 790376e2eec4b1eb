"""Input tables that a stranger's lake may hold, written to disk, each with the rows that they truly hold.

A case is either read rightly or refused by name; where its values tell nothing certain, only a refusal is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_types import TYPES, ColumnType, Values
from hostile_world import TABLES, Market, Rows, kept_rows, make_market

from girl_features.config import TableConfig, TablesConfig

CANONICAL = {name: kinds[0] for name, kinds in TYPES.items()} | {
    name: next(kind for kind in TYPES[name] if kind.name == "timestamp[us, tz=UTC]")
    for name in ("updated_at", "posted_at", "decided_at")
}
N_IDS = 10


class Case(NamedTuple):
    """Three tables on disk."""

    family: str
    name: str
    tables: TablesConfig
    expected: dict[str, Rows] | None  # the kept rows; None: only a refusal is right
    named: tuple[str, ...] = ()  # words that a refusal must hold
    n_rows: Mapping[str, int] = MappingProxyType({})  # rows written, by table


class _Column(NamedTuple):
    """A column to write in other types than usual: one for each file of its table."""

    table: str
    name: str
    kinds: tuple[ColumnType, ...]


def typed_cases(folder: Path, seed: int, tries: int) -> Iterator[Case]:
    """Yield every column of every table in every type, `tries` times, half of them with missing values."""
    for column in _columns():
        for kind in TYPES[column[1]]:
            for attempt in range(tries):
                case = _Column(*column, (kind,))
                name = f"{column[0]}.{column[1]} as {kind.name}"
                yield _write(folder, "one column of another type", name, case, seed + attempt, attempt % 2 == 1)


def glob_cases(folder: Path, seed: int, n: int) -> Iterator[Case]:
    """Yield `n` tables of two or three files whose types of one column differ."""
    rng = np.random.default_rng(seed)
    columns = list(_columns())
    for attempt in range(n):
        table, name = columns[int(rng.integers(len(columns)))]
        kinds = tuple(TYPES[name][k] for k in rng.integers(len(TYPES[name]), size=int(rng.integers(2, 4))))
        label = f"{table}.{name} as {', then '.join(kind.name for kind in kinds)}"
        case = _Column(table, name, kinds)
        yield _write(folder, "files of one glob that disagree", label, case, seed + attempt, attempt % 4 == 3)


def _columns() -> Iterator[tuple[str, str]]:
    for table, names in TABLES.items():
        for name in names:
            yield table, name


def _write(folder: Path, family: str, name: str, odd: _Column, seed: int, with_missing: bool) -> Case:
    """Write the tables of one case. The meaning of the odd column replaces the values of the market."""
    rng = np.random.default_rng(seed)
    market = make_market(rng, _draw_ids(rng, min(kind.largest for kind in odd.kinds)))
    tables: dict[str, Rows] = {}
    is_known = True
    for table, names in TABLES.items():
        columns = [list(column) for column in zip(*getattr(market, table), strict=True)]
        arrays: list[list[pa.Array]] = []
        kinds = [odd.kinds if (table, column) == odd[:2] else (CANONICAL[column],) for column in names]
        n_files = max(map(len, kinds))
        for k, column_kinds in enumerate(kinds):
            if (table, names[k]) == odd[:2] and with_missing:
                columns[k] = [None if rng.random() < 0.2 else value for value in columns[k]]
            pieces = [_typed(kind, part) for kind, part in _parts(columns[k], column_kinds, n_files)]
            arrays.append([array for array, _ in pieces])
            is_known = is_known and all(meaning is not None for _, meaning in pieces)
            columns[k] = [value for _, meaning in pieces for value in meaning or []]
        _write_files(folder / table, names, arrays)
        tables[table] = list(zip(*columns, strict=True)) if is_known else []
    expected = kept_rows(Market(**tables)) if is_known else None
    config = TablesConfig(**{table: TableConfig(path=str(folder / table / "*.parquet")) for table in TABLES})
    n_rows = {table: len(getattr(market, table)) for table in TABLES}
    return Case(family, name, config, expected, (odd.table, odd.name), n_rows)


def _typed(kind: ColumnType, values: Values) -> tuple[pa.Array, Values | None]:
    array, meaning = kind.store(values)
    return array, [None] * len(values) if array.null_count == len(array) else meaning


def _parts(values: Values, kinds: Sequence[ColumnType], n_files: int) -> Iterator[tuple[ColumnType, Values]]:
    """Yield the values of each file, and their type; a single type is that of every file."""
    bounds = np.linspace(0, len(values), n_files + 1).astype(int)
    for k in range(n_files):
        yield kinds[min(k, len(kinds) - 1)], values[bounds[k] : bounds[k + 1]]


def _write_files(folder: Path, names: Sequence[str], columns: list[list[pa.Array]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for k, arrays in enumerate(zip(*columns, strict=True)):
        pq.write_table(pa.table(list(arrays), names=list(names)), folder / f"{k}.parquet")


def _draw_ids(rng: np.random.Generator, largest: int) -> list[int]:
    """Draw different ids below `largest`, in neighbouring pairs, because neighbours are what inexact types confuse."""
    high = min(largest, 2**62)
    starts = (
        rng.choice(high // 4, size=N_IDS // 2, replace=False) if high <= 2**31 else rng.integers(high // 4, size=N_IDS)
    )
    pairs = {int(start) * 2 + shift + high // 4 for start in starts for shift in (0, 1)}
    return [int(i) for i in rng.permutation(sorted(pairs)[:N_IDS])]
