"""Rank one seeker's jobs online: two lookups and a ranker, within a deadline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from girl_features.errors import ContractMismatchError, ShapeError
from girl_features.integrations.online_pairs import JOBS_SHARE, online_pairs, scorable
from girl_features.integrations.rankers.registry import column_names, load_ranker, peek_ranker
from girl_features.lookup import FeatureClient, SeekerVectors
from girl_features.ranker import Ranker

SCORING_SHARE = 0.3  # share of the remaining time that is reserved for the ranker


class RankedJobs(NamedTuple):
    """n jobs of one seeker."""

    order: np.ndarray  # (n,) int64: rows of the request, best first, jobs without a score last
    scores: np.ndarray  # (n,) float64 in the request's order; NaN where the pair cannot be scored
    has_jd: np.ndarray  # (n,) bool
    seeker: SeekerVectors  # of one row


class Ranking:
    """A ranker, and the client that looks up its features, both of one contract. Threads may share it."""

    def __init__(self, client: FeatureClient, ranker: Ranker, contract: str, predictor: str) -> None:
        """Combine `client` with `ranker`, which was trained on vectors of `contract`.

        Raises:
            ContractMismatchError: the client looks up vectors of another contract.
        """
        if client.contract != contract:
            raise ContractMismatchError(client.contract, contract)
        self.client, self.ranker, self.predictor = client, ranker, predictor

    @classmethod
    def load(cls, client: FeatureClient, folder: Path) -> Ranking:
        """Load the ranker that was saved to `folder`, and combine it with `client`.

        Raises:
            CheckpointError: absent, incomplete, altered, or of another format.
            ContractMismatchError: the ranker was trained on another contract than the client's.
            ShapeError: the ranker reads further columns.
        """
        saved = peek_ranker(folder)
        if client.contract != saved.contract:  # checked before the weights are read
            raise ContractMismatchError(client.contract, saved.contract)
        if names := column_names(folder):
            raise ShapeError(
                f"the ranker in {folder} reads the columns {', '.join(names)} beside the vectors, which a look-up does "
                f"not give; serve one that was trained without them, or join them in your own service"
            )
        return cls(client, load_ranker(folder), saved.contract, saved.predictor)

    def rank(self, job_seeker_id: str | None, cv: str | None, job_ids: Sequence[str], until: float) -> RankedJobs:
        """Order n jobs by their scores; jobs with equal scores keep the order of the request. Ids may be unknown.

        A visitor who only has a CV has no `job_seeker_id`. `until` is the deadline, as `time.monotonic()`; the lookups
        leave a share of the time for the ranker.
        """
        lookup_seconds = max(0.0, until - time.monotonic()) * (1 - SCORING_SHARE)
        lookups_end = time.monotonic() + lookup_seconds
        seeker = self.client.job_seekers([job_seeker_id or ""], [cv], lookup_seconds * (1 - JOBS_SHARE) * 1000)
        jobs = self.client.jobs(job_ids, max(0.0, lookups_end - time.monotonic()) * 1000)
        features = online_pairs(seeker, jobs)
        rows = np.flatnonzero(scorable(features))
        scores = np.full(len(job_ids), np.nan)
        if len(rows):
            scores[rows] = self.ranker.score(features.take(rows))
        return RankedJobs(np.argsort(-scores, kind="stable"), scores, jobs.has_jd, seeker)
