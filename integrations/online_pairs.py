"""Online lookups as input of rankers: PairFeatures, or plain columns for rankers of any other kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from girl_features.errors import ContractMismatchError, ShapeError
from girl_features.integrations.plain_columns import PlainReduction, plain_columns, spread_columns
from girl_features.lookup import FeatureClient, JobVectors, SeekerVectors
from girl_features.ranker import PairFeatures

JOBS_SHARE = 0.3  # share of a deadline for the second lookup, of the jobs


def online_pairs(seekers: SeekerVectors, jobs: JobVectors) -> PairFeatures:
    """Return the features of n pairs: seeker i with job i, or one seeker with n jobs.

    A pair without a CV or JD vector has zeros there. Rankers refuse such rows; `scorable` finds them.

    Raises:
        ShapeError: neither one seeker nor as many as jobs.
        ContractMismatchError: seekers and jobs were looked up under different contracts.
    """
    n, m = len(jobs.vectors), len(seekers.vectors)
    if m not in (1, n):
        raise ShapeError(f"{m} job seekers cannot be paired with {n} jobs; give one, or as many as jobs")
    if seekers.contract != jobs.contract:
        raise ContractMismatchError(jobs.contract, seekers.contract)
    rows = np.zeros(n, np.int64) if m == 1 else np.arange(n)
    return PairFeatures(
        seekers.cv_vectors[rows], jobs.vectors, seekers.vectors[rows], seekers.tiers[rows], seekers.contract
    )


def scorable(features: PairFeatures) -> np.ndarray:
    """Return (n,) bool: True where the pair has both a CV vector and a JD vector."""
    return np.asarray(features.cv.any(axis=1) & features.jd.any(axis=1))


def online_columns(
    client: FeatureClient,
    reduction: PlainReduction,
    job_seeker_id: str,
    job_ids: Sequence[str],
    cv: str | None = None,
    deadline_ms: float | None = None,
) -> pl.DataFrame:
    """Return the columns that `girl join` adds to a training table, for one seeker and n jobs, one row per job.

    `reduction` was fitted on the training table, and `cv` is the seeker's present CV, if the caller has it. The columns
    of an unknown job are null, as in the training table. `deadline_ms`, in milliseconds, is for both lookups together;
    it is the client's default if left out.

    Raises:
        ContractMismatchError: the projection is of another contract than the client.
    """
    total_ms = client.deadline_ms if deadline_ms is None else deadline_ms
    seekers = client.job_seekers([job_seeker_id], [cv], total_ms * (1 - JOBS_SHARE))
    features = online_pairs(seekers, client.jobs(job_ids, total_ms * JOBS_SHARE))
    rows = np.flatnonzero(scorable(features))
    return spread_columns(plain_columns(features.take(rows), reduction), rows, len(job_ids))
