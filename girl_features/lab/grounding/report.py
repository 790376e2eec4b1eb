"""Rows of the grounding report: recall and NDCG of each method with intervals, as table, sentence and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from girl_features.evaluation.bootstrap import percentile_interval
from girl_features.lab.grounding.open_jobs import CUTOFFS, GroundingMetrics, Query, chance_recall

N_BOOTSTRAP = 1000


class GroundingRow(NamedTuple):
    """One method at one cutoff, averaged over the queries, with 95 % intervals over seekers."""

    data: str
    method: str
    cutoff: int
    recall: float
    recall_low: float
    recall_high: float
    ndcg: float
    ndcg_low: float
    ndcg_high: float
    n_queries: int
    n_seekers: int
    n_open: float  # median over the queries of the number of open jobs
    n_not_open: int  # matches left out because an earlier match had taken the job


def method_rows(
    data: str, method: str, metrics: GroundingMetrics, queries: Sequence[Query], n_not_open: int
) -> list[GroundingRow]:
    """Return the rows of one method, one per cutoff. Seekers are resampled, each with all of their queries."""
    _, seeker = np.unique([query.job_seeker_id for query in queries], return_inverse=True)
    n_seekers = int(seeker.max()) + 1
    draws = np.random.default_rng(0).multinomial(n_seekers, np.full(n_seekers, 1 / n_seekers), size=N_BOOTSTRAP)
    weights = draws[:, seeker]  # (r, q)
    rows = []
    for cutoff in CUTOFFS:
        recall, ndcg = metrics.recall[cutoff], metrics.ndcg[cutoff]
        row = GroundingRow(
            data,
            method,
            cutoff,
            float(recall.mean()),
            *percentile_interval(weights @ recall / weights.sum(axis=1)),
            float(ndcg.mean()),
            *percentile_interval(weights @ ndcg / weights.sum(axis=1)),
            n_queries=len(queries),
            n_seekers=n_seekers,
            n_open=float(np.median(metrics.n_open)),
            n_not_open=n_not_open,
        )
        rows.append(row)
    return rows


def chance_rows(rows: Sequence[GroundingRow], n_open: np.ndarray) -> list[GroundingRow]:
    """Return the rows of a random order of the open jobs, given the rows of any method. NDCG is not computed."""
    chance = []
    for row in rows:
        recall = chance_recall(n_open, row.cutoff)
        row = row._replace(method="chance", recall=recall, recall_low=recall, recall_high=recall)
        chance.append(row._replace(ndcg=np.nan, ndcg_low=np.nan, ndcg_high=np.nan))
    return chance


def grounding_table(rows: Sequence[GroundingRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and cells of a table with one line per method."""
    by_method: dict[str, dict[int, GroundingRow]] = {}
    for row in rows:
        by_method.setdefault(row.method, {})[row.cutoff] = row
    header = ("method", *(f"recall@{c}" for c in CUTOFFS), "recall@10, 95 %", "NDCG@10", "NDCG@10, 95 %")
    lines = []
    for method, by_cutoff in by_method.items():
        at_10 = by_cutoff[10]
        intervals = ["", "", ""]
        if not np.isnan(at_10.ndcg):
            intervals = [f"{at_10.recall_low:.3f}, {at_10.recall_high:.3f}", f"{at_10.ndcg:.3f}"]
            intervals.append(f"{at_10.ndcg_low:.3f}, {at_10.ndcg_high:.3f}")
        lines.append((method, *(f"{by_cutoff[c].recall:.3f}" for c in CUTOFFS), *intervals))
    return header, lines


def candidates_text(rows: Sequence[GroundingRow]) -> str:
    """Return a sentence about the jobs that are ranked."""
    text = f"Among all jobs open at the time, {rows[0].n_open:.0f} in the median: a cutoff near that says little."
    n_not_open = rows[0].n_not_open
    return f"{text} {n_not_open} matches on jobs that were already taken are left out." if n_not_open else text


def rows_as_json(rows: Sequence[GroundingRow]) -> list[dict[str, Any]]:
    """Return plain values; NaN becomes null."""
    return [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row._asdict().items()} for row in rows]
