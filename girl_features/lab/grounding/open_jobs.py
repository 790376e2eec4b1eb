"""From a generated JD to real jobs: a shortlist by distance, ordered by distance, a matcher or the reward model.

What is measured: for every matched decision of the test window, how high the job that was really matched stands
among all jobs that were open at that time.

**Open.** The tables hold no closing dates. A job counts as open at a time if it was known strictly before (its
`posted_at`, or just before its first decision where that is earlier), and nobody's match on it came strictly before:
a job is taken by its first match. Where jobs take several people, pass `taken_by_first_match=False`. A match on a job
that was taken before is no query: nothing that orders the open jobs could find it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import numpy as np

from girl_features.errors import ShapeError
from girl_features.input.tables import Tables
from girl_features.lab.grounding.nearest import Index, make_index

SHORTLIST = 100
CUTOFFS = (1, 5, 10, 50, 100)


class JobTable(NamedTuple):
    """All m jobs, with when each was there to be had."""

    job_ids: list[str]
    jds: list[str]
    known_at: np.ndarray  # (m,) datetime64[us], UTC
    taken_at: np.ndarray  # (m,) datetime64[us], UTC: its first match; NaT if it was never matched


class Query(NamedTuple):
    """One seeker at one time."""

    job_seeker_id: str
    at: datetime
    cv: str
    cv_vector: np.ndarray  # (d,)
    generated_jd_vector: np.ndarray  # (d,)
    matched: tuple[int, ...]  # rows of the JobTable


class PairScorer(Protocol):
    """Scores one query against some jobs."""

    def __call__(self, query: Query, rows: np.ndarray) -> np.ndarray:
        """(n,) scores of the n `rows` of the JobTable; higher is better."""
        ...


class Ranked(NamedTuple):
    """Jobs for one query, best first."""

    rows: np.ndarray  # (k,) int64: rows of the JobTable
    scores: np.ndarray  # (k,) float64


class GroundingMetrics(NamedTuple):
    """Of one method, a value a query."""

    recall: dict[int, np.ndarray]  # cutoff -> (q,) share of the matched jobs among the first so many
    ndcg: dict[int, np.ndarray]  # cutoff -> (q,)
    n_open: np.ndarray  # (q,) int64: jobs there were to choose from


def read_jobs(tables: Tables) -> JobTable:
    """Every job of the clean tables, by id."""
    rows = tables.connection.execute(
        """SELECT job_id, jd, epoch_us(known_at), epoch_us(taken_at) FROM jobs
        LEFT JOIN (SELECT job_id, min(decided_at) AS taken_at FROM interactions WHERE matched GROUP BY 1) USING (job_id)
        ORDER BY job_id"""
    ).fetchall()
    ids, jds, known, taken = zip(*rows, strict=True) if rows else ((), (), (), ())
    taken_at = np.array([np.iinfo(np.int64).min if t is None else t for t in taken], np.int64)
    return JobTable(
        list(ids), list(jds), np.array(known, np.int64).astype("datetime64[us]"), taken_at.astype("datetime64[us]")
    )


def open_at(jobs: JobTable, at: datetime, taken_by_first_match: bool = True) -> np.ndarray:
    """(m,) bool: which jobs were open at that time; see the top of this file."""
    moment = np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")
    known = jobs.known_at < moment
    if not taken_by_first_match:
        return np.asarray(known)
    return np.asarray(known & (np.isnat(jobs.taken_at) | (jobs.taken_at >= moment)))


def shortlist(index: Index, vector: np.ndarray, is_open: np.ndarray, k: int) -> Ranked:
    """The k open jobs nearest to (d,) `vector`; fewer where fewer are open."""
    found = index.search(vector[None], k, is_open)
    kept = found.rows[0] >= 0
    return Ranked(found.rows[0][kept], found.similarity[0][kept].astype(np.float64))


def reorder(ranked: Ranked, scores: np.ndarray) -> Ranked:
    """The shortlist by other scores, best first; equal ones stay in their order.

    Raises:
        ShapeError: not one finite score a job.
    """
    if scores.shape != ranked.rows.shape or not np.isfinite(scores).all():
        raise ShapeError(f"{len(ranked.rows)} jobs want as many finite scores, found an array of {scores.shape}")
    order = np.argsort(-scores, kind="stable")
    return Ranked(ranked.rows[order], scores[order].astype(np.float64))


def ground(
    jobs: JobTable,
    jd_vectors: np.ndarray,
    queries: Sequence[Query],
    methods: dict[str, PairScorer | None],
    *,
    size: int = SHORTLIST,
    by: Callable[[Query], np.ndarray] = lambda query: query.generated_jd_vector,
    taken_by_first_match: bool = True,
    progress: Callable[[int], object] = lambda n: None,
) -> dict[str, list[Ranked]]:
    """Method -> one ranking a query, all of the same shortlist.

    Args:
        jobs: what there is.
        jd_vectors: (m, d) vectors of their JDs.
        queries: who asks, when.
        methods: name -> what scores the shortlist; None keeps the order by distance.
        size: of the shortlist.
        by: which vector of the query the distance is taken from.
        taken_by_first_match: see `open_at`.
        progress: called with 1 after each query.
    """
    if len(jd_vectors) != len(jobs.job_ids):
        raise ShapeError(f"{len(jobs.job_ids)} jobs came with {len(jd_vectors)} vectors")
    index = make_index(jd_vectors)
    ranked: dict[str, list[Ranked]] = {name: [] for name in methods}
    for query in queries:
        nearest = shortlist(index, by(query), open_at(jobs, query.at, taken_by_first_match), size)
        for name, scorer in methods.items():
            again = (
                nearest if scorer is None or not len(nearest.rows) else reorder(nearest, scorer(query, nearest.rows))
            )
            ranked[name].append(again)
        progress(1)
    return ranked


def measure_grounding(
    ranked: Sequence[Ranked], queries: Sequence[Query], jobs: JobTable, taken_by_first_match: bool = True
) -> GroundingMetrics:
    """Recall and NDCG of one method at CUTOFFS; a matched job outside the shortlist is not found.

    NDCG has gain 1 for a matched job, discount 1 / log2(1 + rank), and is divided by the best order's.
    """
    hits = [np.isin(one.rows, query.matched) for one, query in zip(ranked, queries, strict=True)]
    n_matched = np.array([len(query.matched) for query in queries])
    recall, ndcg = {}, {}
    for cutoff in CUTOFFS:
        recall[cutoff] = np.array([own[:cutoff].sum() for own in hits]) / np.maximum(n_matched, 1)
        gains = np.array([_discounted(own[:cutoff]) for own in hits])
        best = np.array([_discounted(np.ones(min(n, cutoff), bool)) for n in n_matched])
        ndcg[cutoff] = np.divide(gains, best, out=np.zeros(len(best)), where=best > 0)
    n_open = np.array([int(open_at(jobs, query.at, taken_by_first_match).sum()) for query in queries])
    return GroundingMetrics(recall, ndcg, n_open)


def chance_recall(n_open: np.ndarray, cutoff: int) -> float:
    """Mean recall at `cutoff` of a random order of (q,) so many open jobs."""
    return float(np.minimum(1, cutoff / np.maximum(n_open, 1)).mean())


def _discounted(hits: np.ndarray) -> float:
    return float((hits / np.log2(np.arange(2, len(hits) + 2))).sum())
