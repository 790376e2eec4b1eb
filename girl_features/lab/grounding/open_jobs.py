"""From a generated JD to real open jobs: a shortlist by distance, ordered by distance, a matcher or the reward model.

The measure is the rank of the job that was really matched among all jobs open at that time, for every matched decision
of the test window.

**Open.** The tables hold no closing dates. A job counts as open at time t if it was known strictly before t, and its
first match was not strictly before t. A job is known from its `posted_at`, or from just before its first decision if
that is earlier. The first match takes the job; pass `taken_by_first_match=False` if jobs can take several people. A
match on a job that was already taken gives no query, because no order of the open jobs could contain it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from girl_features.errors import ShapeError
from girl_features.input.tables import Tables
from girl_features.lab.grounding.nearest import make_index

SHORTLIST = 100
CUTOFFS = (1, 5, 10, 50, 100)


class JobTable(NamedTuple):
    """All m jobs, with the time from which each is known and the time at which it was taken."""

    job_ids: list[str]
    jds: list[str]
    known_at: np.ndarray  # (m,) datetime64[us], UTC
    taken_at: np.ndarray  # (m,) datetime64[us], UTC: first match; NaT if there is none


class Query(NamedTuple):
    """One seeker at one time."""

    job_seeker_id: str
    at: datetime
    cv: str
    cv_vector: np.ndarray  # (d,)
    generated_jd_vector: np.ndarray  # (d,)
    matched: tuple[int, ...]  # rows of the JobTable; empty if unknown


PairScorer = Callable[[Query, np.ndarray], np.ndarray]  # (n,) rows of the JobTable -> (n,) scores, higher is better


class RankedOpenJobs(NamedTuple):
    """Jobs for one query, best first."""

    rows: np.ndarray  # (k,) int64: rows of the JobTable
    scores: np.ndarray  # (k,) float64


class GroundingMetrics(NamedTuple):
    """Metrics of one method, one value per query."""

    recall: dict[int, np.ndarray]  # cutoff -> (q,) share of the matched jobs ranked within the cutoff
    ndcg: dict[int, np.ndarray]  # cutoff -> (q,)
    n_open: np.ndarray  # (q,) int64: number of open jobs


def read_jobs(tables: Tables) -> JobTable:
    """Read every job of the clean tables, ordered by id."""
    jobs = tables.connection.execute(
        """SELECT job_id, jd, make_timestamp(epoch_us(known_at)) AS known_at,
            make_timestamp(epoch_us(taken_at)) AS taken_at
        FROM jobs
        LEFT JOIN (SELECT job_id, min(decided_at) AS taken_at FROM interactions WHERE matched GROUP BY 1) USING (job_id)
        ORDER BY job_id"""
    ).pl()
    return JobTable(
        jobs["job_id"].to_list(), jobs["jd"].to_list(), jobs["known_at"].to_numpy(), jobs["taken_at"].to_numpy()
    )


def open_at(jobs: JobTable, at: datetime, taken_by_first_match: bool = True) -> np.ndarray:
    """Return (m,) bool: True for jobs open at that time, as the module defines it."""
    moment = np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")
    known = jobs.known_at < moment
    if not taken_by_first_match:
        return np.asarray(known)
    return np.asarray(known & (np.isnat(jobs.taken_at) | (jobs.taken_at >= moment)))


def reorder(ranked: RankedOpenJobs, scores: np.ndarray) -> RankedOpenJobs:
    """Order the shortlist by other scores, best first; jobs of equal score keep their order.

    Raises:
        ShapeError: there is not exactly one finite score per job.
    """
    if scores.shape != ranked.rows.shape or not np.isfinite(scores).all():
        raise ShapeError(f"{len(ranked.rows)} jobs want as many finite scores, found an array of {scores.shape}")
    order = np.argsort(-scores, kind="stable")
    return RankedOpenJobs(ranked.rows[order], scores[order].astype(np.float64))


def ground(
    jobs: JobTable,
    jd_vectors: np.ndarray,
    queries: Sequence[Query],
    scorers: dict[str, PairScorer | None],
    *,
    size: int = SHORTLIST,
    by: Callable[[Query], np.ndarray] = lambda query: query.generated_jd_vector,
    taken_by_first_match: bool = True,
    progress: Callable[[int], object] = lambda n: None,
) -> dict[str, list[RankedOpenJobs]]:
    """Rank the same shortlist of open jobs for each query, by each scorer.

    Args:
        jobs: all m jobs.
        jd_vectors: (m, d) vectors of their JDs.
        queries: q seekers and times.
        scorers: method -> scorer of the shortlist; None keeps the order by distance.
        size: length of the shortlist.
        by: returns the vector of the query that distances are measured from.
        taken_by_first_match: False if a job stays open after a match.
        progress: called with 1 after each query.

    Returns:
        Method -> q rankings.
    """
    if len(jd_vectors) != len(jobs.job_ids):
        raise ShapeError(f"{len(jobs.job_ids)} jobs came with {len(jd_vectors)} vectors")
    index = make_index(jd_vectors)
    rankings: dict[str, list[RankedOpenJobs]] = {method: [] for method in scorers}
    for query in queries:
        rows, similarity = index.search(by(query)[None], size, open_at(jobs, query.at, taken_by_first_match))
        exists = rows[0] >= 0
        nearest = RankedOpenJobs(rows[0][exists], similarity[0][exists].astype(np.float64))
        for method, scorer in scorers.items():
            if scorer is not None and len(nearest.rows):
                rankings[method].append(reorder(nearest, scorer(query, nearest.rows)))
            else:
                rankings[method].append(nearest)
        progress(1)
    return rankings


def measure_grounding(
    rankings: Sequence[RankedOpenJobs], queries: Sequence[Query], jobs: JobTable, taken_by_first_match: bool = True
) -> GroundingMetrics:
    """Compute recall and NDCG of one method at CUTOFFS. A matched job outside the shortlist counts as a miss.

    DCG has gain 1 for a matched job and discount 1 / log2(1 + rank). NDCG divides it by the DCG of the best order.
    """
    hits = [np.isin(ranked.rows, query.matched) for ranked, query in zip(rankings, queries, strict=True)]
    n_matched = np.array([len(query.matched) for query in queries])
    recall, ndcg = {}, {}
    for cutoff in CUTOFFS:
        recall[cutoff] = np.array([query_hits[:cutoff].sum() for query_hits in hits]) / np.maximum(n_matched, 1)
        dcg = np.array([_dcg(query_hits[:cutoff]) for query_hits in hits])
        best_dcg = np.array([_dcg(np.ones(min(n, cutoff), bool)) for n in n_matched])
        ndcg[cutoff] = np.divide(dcg, best_dcg, out=np.zeros(len(best_dcg)), where=best_dcg > 0)
    n_open = np.array([int(open_at(jobs, query.at, taken_by_first_match).sum()) for query in queries])
    return GroundingMetrics(recall, ndcg, n_open)


def chance_recall(n_open: np.ndarray, cutoff: int) -> float:
    """Return the mean recall at `cutoff` of a random order, given the (q,) numbers of open jobs."""
    return float(np.minimum(1, cutoff / np.maximum(n_open, 1)).mean())


def _dcg(hits: np.ndarray) -> float:
    return float((hits / np.log2(np.arange(2, len(hits) + 2))).sum())
