"""Small input tables on disk, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.config import TableConfig, TablesConfig
from girl_features.input.tables import Tables, load_tables
from girl_features.schema import INTERACTIONS_SCHEMA, JOB_SEEKERS_SCHEMA, JOBS_SCHEMA

SCHEMAS = {"job_seekers": JOB_SEEKERS_SCHEMA, "jobs": JOBS_SCHEMA, "interactions": INTERACTIONS_SCHEMA}
NOW = datetime(2024, 1, 1, tzinfo=UTC)
CLOCK_SKEW = timedelta(minutes=10)


def day(n: float) -> datetime:
    """Return the time `n` days after the start of 2020, UTC."""
    return datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=n)


# one seeker with two CV versions, two jobs, two decisions; every row is valid
GOOD: dict[str, list[tuple[Any, ...]]] = {
    "job_seekers": [("s1", "welder", day(0)), ("s1", "welder and foreman", day(10))],
    "jobs": [("j1", "weld ships", day(1)), ("j2", "sell shoes", day(2))],
    "interactions": [("s1", "j1", True, day(5)), ("s1", "j2", False, day(15))],
}


def table_of(name: str, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Return the rows as an Arrow table with the schema of the input table `name`."""
    schema = SCHEMAS[name]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table([pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema=schema)


def write_tables(folder: Path, rows: Mapping[str, Sequence[tuple[Any, ...]] | pa.Table] | None = None) -> TablesConfig:
    """Write the three tables as Parquet files and return a config of them. Tables not in `rows` are those of GOOD."""
    configs = {}
    for name, good in GOOD.items():
        given = (rows or {}).get(name, good)
        path = folder / f"{name}.parquet"
        pq.write_table(given if isinstance(given, pa.Table) else table_of(name, given), path)
        configs[name] = TableConfig(path=str(path))
    return TablesConfig(**configs)


def load(config: TablesConfig, strict: bool = False) -> Tables:
    return load_tables(config, now=NOW, clock_skew=CLOCK_SKEW, strict=strict)


def rows_of(tables: Tables, name: str) -> list[tuple[Any, ...]]:
    """Return all clean rows of a table, sorted, with times in UTC."""
    rows = tables.connection.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall()
    return [tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in row) for row in rows]
