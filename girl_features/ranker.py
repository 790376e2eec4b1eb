"""The contract every ranker adapter implements, and the features it gets."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from girl_features.errors import ShapeError
from girl_features.schema import Tier


class PairFeatures(NamedTuple):
    """Features of n (job seeker, job) pairs, one row a pair."""

    cv: np.ndarray  # (n, d) float32
    jd: np.ndarray  # (n, d) float32
    generated_jd: np.ndarray  # (n, d) float32, zeros where there is none
    tier: np.ndarray  # (n,) int8, values of Tier
    contract: str  # fingerprint of the FeatureContract

    @property
    def has_generated_jd(self) -> np.ndarray:
        """(n,) bool: a generated-JD vector exists."""
        return np.asarray(self.tier != Tier.PRIOR)

    @property
    def n_pairs(self) -> int:
        """Number of rows."""
        return int(self.cv.shape[0])

    def take(self, rows: np.ndarray) -> PairFeatures:
        """The given rows (index or mask), in that order."""
        return PairFeatures(self.cv[rows], self.jd[rows], self.generated_jd[rows], self.tier[rows], self.contract)


class Ranker(Protocol):
    """Scores (job seeker, job) pairs with the probability of a match."""

    def fit(
        self,
        features: PairFeatures,
        labels: np.ndarray,
        valid_features: PairFeatures,
        valid_labels: np.ndarray,
    ) -> None:
        """Train on `features` and (n,) bool `labels`; early stopping and calibration on the valid part.

        Raises:
            ShapeError: rows and labels do not line up.
        """
        ...

    def score(self, features: PairFeatures) -> np.ndarray:
        """(n,) float64 probabilities of a match.

        Raises:
            ContractMismatchError: the features are of another contract than those trained on.
        """
        ...


def check_labels(features: PairFeatures, labels: np.ndarray) -> None:
    """Raise ShapeError unless `labels` is (n,) for the n pairs and holds both classes."""
    if labels.shape != (features.n_pairs,):
        raise ShapeError(f"labels have shape {labels.shape}, but there are {features.n_pairs} pairs")
    if labels.min() == labels.max():
        raise ShapeError(f"all {features.n_pairs} labels are {bool(labels[0])}; a ranker needs both classes")
