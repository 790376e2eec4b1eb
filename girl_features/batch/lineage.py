"""The ledger, read: DuckDB over the parts, in which each row says which run made it, from what, and at what cost.

Parts are only ever added, or swapped whole, so this can be asked while a job writes; nothing here locks one out.
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

STORED = "stored"  # status of a row with a JD; that of others is why there is none


class RunRows(NamedTuple):
    """What the store holds of one run."""

    n_generated: int
    n_failed: int
    n_no_cv: int
    n_prompt_tokens: int
    n_new_tokens: int
    seconds: float  # of generating


def history(store: PartsStore, job_seeker_id: str) -> list[dict[str, Any]]:
    """Every try at a JD for the job seeker that the store holds, under every contract, oldest first.

    Rows of both tables with their own columns but the vectors, and `status`: `stored`, or why there is no JD.
    """
    found: list[dict[str, Any]] = []
    for view, folder in _folders(store):
        with reading(folder) as files, connected() as connection:
            erased = Tombstones.of(folder).condition([JOB_SEEKER_ID])
            result = connection.execute(
                f"""SELECT COLUMNS(c -> c NOT LIKE '%vector') FROM {parquet_relation(files, union_by_name=True)}
                WHERE {JOB_SEEKER_ID} = $id AND {erased}""",
                {"id": job_seeker_id},
            )
            names = [column[0] for column in result.description or []]
            for row in result.fetchall():
                status = {"status": STORED} if view == GENERATED_JDS else {}
                found.append(dict(zip(names, row, strict=True)) | status)
    return sorted(found, key=lambda row: (row["created_timestamp"], row["updated_at"]))


def rows_of_run(store: PartsStore, contract: str, run: str) -> RunRows:
    """What the store holds of `run`, which made rows of `contract`; zeros where it holds nothing."""
    total = RunRows(0, 0, 0, 0, 0, 0.0)
    for view in (GENERATED_JDS, FAILURES):
        folder = store.view_dir(view, contract)
        if not folder.is_dir():
            continue
        is_good, is_blank = ("true", "false") if view == GENERATED_JDS else ("false", "status = 'no_cv'")
        with reading(folder) as files, connected() as connection:
            row = connection.execute(
                f"""SELECT count(*) FILTER ({is_good}), count(*) FILTER (NOT {is_good} AND NOT {is_blank}),
                count(*) FILTER ({is_blank}), coalesce(sum(n_prompt_tokens), 0)::BIGINT,
                coalesce(sum(n_new_tokens), 0)::BIGINT, coalesce(sum(seconds), 0)
                FROM {parquet_relation(files, union_by_name=True)} WHERE run = $run""",
                {"run": run},
            ).fetchone()
        assert row is not None
        total = RunRows(*(a + b for a, b in zip(total, row, strict=True)))
    return total


def _folders(store: PartsStore) -> Iterator[tuple[str, Path]]:
    for view in (GENERATED_JDS, FAILURES):
        for folder in sorted((store.root / view).glob("*")):
            if any(folder.glob("*.parquet")):
                yield view, folder
