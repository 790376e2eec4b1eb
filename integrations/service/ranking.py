"""Ranking one seeker's jobs online: two lookups, one ranker, an answer within a deadline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from girl_features.errors import ContractMismatchError
from girl_features.integrations.online_pairs import JOBS_SHARE, online_pairs, scorable
from girl_features.integrations.rankers.registry import load_ranker, peek_ranker
from girl_features.lookup import FeatureClient, SeekerVectors
from girl_features.ranker import Ranker

SCORING_SHARE = 0.3  # of the time that is left: what is kept for the ranker


class Ranked(NamedTuple):
    """n jobs of one seeker."""

    order: np.ndarray  # (n,) int64: rows of the request, best first, those without a score last
    scores: np.ndarray  # (n,) float64 in the request's order; NaN where the pair cannot be scored
    has_jd: np.ndarray  # (n,) bool
    seeker: SeekerVectors  # of one row


class Ranking:
    """A ranker and the client that looks its features up; both of one contract. Safe to share between threads."""

    def __init__(self, client: FeatureClient, ranker: Ranker, contract: str, predictor: str) -> None:
        """Put `ranker`, trained on vectors of `contract`, over `client`.

        Raises:
            ContractMismatchError: the client looks up vectors of another contract.
        """
        if client.contract != contract:
            raise ContractMismatchError(client.contract, contract)
        self.client, self.ranker, self.predictor = client, ranker, predictor

    @classmethod
    def load(cls, client: FeatureClient, folder: Path) -> Ranking:
        """The ranker that was saved to `folder`, over `client`.

        Raises:
            CheckpointError: absent, incomplete, altered, or of another format.
            ContractMismatchError: it was trained on another contract than the client's.
        """
        saved = peek_ranker(folder)
        if client.contract != saved.contract:  # before its weights are read
            raise ContractMismatchError(client.contract, saved.contract)
        return cls(client, load_ranker(folder), saved.contract, saved.predictor)

    def rank(self, job_seeker_id: str | None, cv: str | None, job_ids: Sequence[str], until: float) -> Ranked:
        """Jobs in the order of their scores; equal scores keep the order given.

        Args:
            job_seeker_id: known or not; None for a visitor with a CV alone.
            cv: the present CV, where the caller has it.
            job_ids: n ids, known or not.
            until: `time.monotonic()` to be done by: the lookups leave some of the time for the ranker.
        """
        left = max(0.0, until - time.monotonic()) * (1 - SCORING_SHARE)
        looked_up = time.monotonic() + left
        seeker = self.client.job_seekers([job_seeker_id or ""], [cv], left * (1 - JOBS_SHARE) * 1000)
        jobs = self.client.jobs(job_ids, max(0.0, looked_up - time.monotonic()) * 1000)
        features = online_pairs(seeker, jobs)
        rows = np.flatnonzero(scorable(features))
        scores = np.full(len(job_ids), np.nan)
        if len(rows):
            scores[rows] = self.ranker.score(features.take(rows))
        return Ranked(np.argsort(-scores, kind="stable"), scores, jobs.has_jd, seeker)
