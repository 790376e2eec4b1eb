"""Queries of grounding: seekers with their CV and generated JDs, from the test window or of today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from girl_features.batch.chunk import pool_samples
from girl_features.encoder import TextEncoder
from girl_features.errors import DataError
from girl_features.input.tables import Tables
from girl_features.lab.grounding.open_jobs import JobTable, Query, open_at
from girl_features.lab.text_vectors import encode_once

GeneratedJDs = Mapping[tuple[object, ...], Sequence[str]]  # (job_seeker_id, updated_at, cv_hash) -> JDs


class _QueryTexts(NamedTuple):
    job_seeker_id: str
    at: datetime
    cv: str
    generated_jds: Sequence[str]
    matched: tuple[int, ...]  # rows of the JobTable


def window_queries(
    decisions: pl.DataFrame,
    jobs: JobTable,
    generated: GeneratedJDs,
    encoder: TextEncoder,
    *,
    limit: int | None = None,
    taken_by_first_match: bool = True,
) -> tuple[list[Query], int]:
    """Make one query for each seeker and time with a match on an open job, where the CV has a generated JD.

    At most `limit` queries are kept, drawn at random. `decisions` hold the CV in force.

    Returns:
        The queries, and the number of matches left out because their jobs were no longer open.

    Raises:
        DataError: there is no such match.
    """
    row_of_job = {job_id: row for row, job_id in enumerate(jobs.job_ids)}
    keys = ["job_seeker_id", "decided_at", "updated_at", "cv_hash", "cv"]
    matches = decisions.filter("matched").group_by(keys, maintain_order=True).agg(pl.col("job_id"))
    query_texts, n_not_open = [], 0
    for seeker, at, updated_at, cv_hash, cv, job_ids in matches.iter_rows():
        jds = generated.get((seeker, updated_at, cv_hash))
        if not jds:
            continue
        is_open = open_at(jobs, at, taken_by_first_match)
        open_rows = tuple(row_of_job[job_id] for job_id in job_ids if is_open[row_of_job[job_id]])
        n_not_open += len(job_ids) - len(open_rows)
        if open_rows:
            query_texts.append(_QueryTexts(seeker, at, cv, jds, open_rows))
    if not query_texts:
        raise DataError("no test match has a generated JD and a job still open; run `girl materialize`")
    if limit is not None and limit < len(query_texts):
        drawn = np.random.default_rng(0).choice(len(query_texts), limit, replace=False)
        query_texts = [query_texts[i] for i in sorted(drawn)]
    return _encoded(query_texts, encoder), n_not_open


def seeker_queries(
    seekers: Sequence[str], tables: Tables, generated: GeneratedJDs, encoder: TextEncoder
) -> list[Query]:
    """Make one query, as of now, for the newest CV of each seeker.

    Raises:
        DataError: no such seeker, or no generated JD for the newest CV.
    """
    query_texts = []
    now = datetime.now(UTC)
    for seeker in dict.fromkeys(seekers):
        newest = tables.connection.execute(
            "SELECT cv, updated_at, cv_hash FROM job_seekers WHERE job_seeker_id = ? ORDER BY updated_at DESC LIMIT 1",
            [seeker],
        ).fetchone()
        if newest is None:
            raise DataError(f"no job seeker {seeker!r} in the tables; `girl check` says which rows were rejected")
        cv, updated_at, cv_hash = newest
        jds = generated.get((seeker, updated_at.astimezone(UTC), cv_hash))
        if not jds:
            raise DataError(f"the newest CV of {seeker!r} has no generated JD; run `girl materialize`")
        query_texts.append(_QueryTexts(seeker, now, cv, jds, ()))
    return _encoded(query_texts, encoder)


def _encoded(query_texts: Sequence[_QueryTexts], encoder: TextEncoder) -> list[Query]:
    """Encode all texts, and average the vectors of the JDs of each query."""
    table = encode_once(encoder, [text for query in query_texts for text in (query.cv, *query.generated_jds)])
    queries = []
    for seeker, at, cv, jds, matched in query_texts:
        jd_vector = np.asarray(pool_samples(table.of(jds), [len(jds)]).means[0])
        queries.append(Query(seeker, at, cv, table.of([cv])[0], jd_vector, matched))
    return queries
