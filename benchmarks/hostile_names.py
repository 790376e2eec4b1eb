"""Input tables with columns that are called like words of SQL, or like columns that the package makes itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_cases import CANONICAL, Case
from hostile_world import TABLES, Market, kept_rows, make_market

from girl_features.config import TableConfig, TablesConfig

OUR_WORDS = [
    "girl_row",
    "girl_source_file",
    "girl_vector",
    "girl_tier",
    "girl_cos_cv_jd",
    "problem",
    "flags",
    "reason",
    "detail",
    "rowid",
    "file_row_number",
    "filename",
    "cv_hash",
    "jd_hash",
    "known_at",
    "time_text",
    "matched_text",
    "cut",
    "clean",
    "final",
    "is_blank",
    "is_suspect",
    "has_controls",
    "is_naive",
    "is_cut_time",
    "is_truncated",
    "is_undecodable",
    "first_updated_at",
    "bad_rowid",
    "source_rowid",
    "event_timestamp",
    "created_timestamp",
    "contract",
    "status",
    "row",
    "index",
    "__index_level_0__",
    "schema",
    "columns",
    "file",
    "bad",
    "posted",
    "files",
]  # fmt: skip
SQL_WORDS = [
    "select",
    "from",
    "order",
    "group",
    "user",
    "table",
    "1",
    "a b",
    'a"b',
    "a'b",
    "a;b",
    "é",
    "数据",
    "*",
    "%s",
    "{x}",
]
OTHER_CASES = ["CV", "Jd", "JOB_ID", "Job_Seeker_Id", "MATCHED", "Decided_At", "UPDATED_AT", "Posted_at"]
NAMES = [*OUR_WORDS, *SQL_WORDS, *OTHER_CASES]


def name_cases(folder: Path, seed: int, names: Sequence[str] = NAMES) -> Iterator[Case]:
    """Yield tables with one more column of each name, and tables in which one of our columns has that name."""
    for k, name in enumerate(names):
        for table, columns in TABLES.items():
            yield _write(folder, "a column more", seed + k, table, {}, name)
            for column in columns:
                yield _write(folder, "a column under another name", seed + k, table, {column: name}, None)


def _write(folder: Path, family: str, seed: int, table: str, renamed: dict[str, str], extra: str | None) -> Case:
    market = make_market(np.random.default_rng(seed), range(100, 110))
    configs, texts = {}, {}
    for name, columns in TABLES.items():
        values = [list(column) for column in zip(*getattr(market, name), strict=True)]
        typed = [CANONICAL[column].store(column_values) for column, column_values in zip(columns, values, strict=True)]
        is_odd = name == table
        names = [renamed.get(column, column) if is_odd else column for column in columns]
        arrays = [array for array, _ in typed]
        if is_odd and extra is not None and extra not in names:
            position = seed % 2 * len(names)
            names.insert(position, extra)
            arrays.insert(position, pa.array(range(len(values[0])), pa.int64()))
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table(arrays, names=names), path)
        configs[name] = TableConfig(path=str(path), columns=renamed if is_odd else {})
        texts[name] = list(zip(*(meaning or [] for _, meaning in typed), strict=True))
    label = f"{table} with a column {extra!r}" if extra is not None else f"{table} with {renamed}"
    named = (table, extra if extra is not None else next(iter(renamed.values())))
    return Case(family, label, TablesConfig(**configs), kept_rows(Market(**texts)), named)
