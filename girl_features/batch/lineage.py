"""Read the lineage of rows from the parts: which run made a row, from which CV, and at what cost.

Parts are only added, or replaced whole, so these questions can be asked while a batch writes. They lock nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from girl_features.schema import JOB_SEEKER_ID
from girl_features.sql import connected, parquet_relation
from girl_features.store.parts import PartsStore
from girl_features.store.parts.part_files import reading
from girl_features.store.parts.rows import FAILURES, GENERATED_JDS
from girl_features.store.parts.tombstones import Tombstones

STORED = "stored"  # status of a row with a JD; the status of any other row is the reason why there is none


class RunRows(NamedTuple):
    """Counts of the rows that one run made, in CVs unless the name says otherwise."""

    n_generated: int
    n_failed: int
    n_no_cv: int
    n_prompt_tokens: int
    n_new_tokens: int
    seconds: float  # spent generating


def history(store: PartsStore, job_seeker_id: str) -> list[dict[str, Any]]:
    """Return every generated JD and every failure of a job seeker, under all contracts, oldest first.

    A row has the columns of its table except the vectors, and `status`: `stored`, or the reason why there is no JD.
    """
    rows: list[dict[str, Any]] = []
    for view, folder in _folders(store):
        with reading(folder) as files, connected() as connection:
            erased = Tombstones.of(folder).condition([JOB_SEEKER_ID])
            result = connection.execute(
                f"""SELECT COLUMNS(c -> c NOT LIKE '%vector') FROM {parquet_relation(files, union_by_name=True)}
                WHERE {JOB_SEEKER_ID} = $id AND {erased}""",
                {"id": job_seeker_id},
            )
            names = [column[0] for column in result.description or []]
            for values in result.fetchall():
                status = {"status": STORED} if view == GENERATED_JDS else {}
                rows.append(dict(zip(names, values, strict=True)) | status)
    return sorted(rows, key=lambda row: (row["created_timestamp"], row["updated_at"]))


def rows_of_run(store: PartsStore, contract: str, run: str) -> RunRows:
    """Count the rows of `contract` that `run` made. All counts are zero if the store has none."""
    total = RunRows(0, 0, 0, 0, 0, 0.0)
    for view in (GENERATED_JDS, FAILURES):
        folder = store.view_dir(view, contract)
        if not folder.is_dir():
            continue
        is_good, is_blank = ("true", "false") if view == GENERATED_JDS else ("false", "status = 'no_cv'")
        with reading(folder) as files, connected() as connection:
            [counts] = connection.execute(
                f"""SELECT count(*) FILTER ({is_good}), count(*) FILTER (NOT {is_good} AND NOT {is_blank}),
                count(*) FILTER ({is_blank}), coalesce(sum(n_prompt_tokens), 0)::BIGINT,
                coalesce(sum(n_new_tokens), 0)::BIGINT, coalesce(sum(seconds), 0)
                FROM {parquet_relation(files, union_by_name=True)} WHERE run = $run""",
                {"run": run},
            ).fetchall()
        total = RunRows(*(a + b for a, b in zip(total, counts, strict=True)))
    return total


def _folders(store: PartsStore) -> Iterator[tuple[str, Path]]:
    for view in (GENERATED_JDS, FAILURES):
        for folder in sorted((store.root / view).glob("*")):
            if any(folder.glob("*.parquet")):
                yield view, folder
