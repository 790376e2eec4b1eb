"""BIGRec (Bao et al., 2023): rank jobs by their distance to the text that a tuned language model generates.

The distance is L2, between that model's vectors of the generated and of the real JD. With popularity, it is multiplied
by (1 + popularity)^-gamma, where the valid part chooses gamma. BIGRec-MLP scores the same vectors by a learned MLP.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from girl_features.errors import GirlError
from girl_features.integrations.rankers.two_tower import TwoTowerRanker
from girl_features.lab.text_vectors import VectorTable
from girl_features.ranker import PairFeatures, PairTexts, check_text_parts
from girl_features.schema import Tier
from girl_features.vectors.regression import Calibration, fit_calibration, log_loss_of_logits

GAMMAS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)


class _FittedDistance(NamedTuple):
    popularity: dict[str, float]  # job id -> matches in training, divided by those of the most popular job
    gamma: float
    prior: np.ndarray  # (d,) vector for pairs without a generated JD
    calibration: Calibration


class BIGRecRanker:
    """A TextRanker by distance, calibrated on the valid part. `table` must hold the vectors of all texts."""

    def __init__(self, table: VectorTable, popularity: bool = False) -> None:
        self._table = table
        self._gammas = GAMMAS if popularity else (0.0,)
        self._fitted: _FittedDistance | None = None

    @property
    def gamma(self) -> float:
        """Exponent of popularity that the valid part chose; 0 means that popularity has no effect."""
        return self._require_fitted().gamma

    def fit(self, texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
        """Count the matches of each job in training; choose gamma and calibrate on the valid part."""
        check_text_parts(texts, labels, valid_texts, valid_labels)
        matches = Counter(texts.job_ids[labels].tolist())
        most_matches = max(matches.values())
        popularity = {job: n / most_matches for job, n in matches.items()}
        prior = mean_generated(texts, self._table)
        lowest_loss = np.inf
        for gamma in self._gammas:
            scores = self._scores(valid_texts, popularity, gamma, prior)
            calibration = fit_calibration(scores, valid_labels)
            loss = log_loss_of_logits(calibration.slope * scores + calibration.intercept, valid_labels)
            if loss < lowest_loss:
                lowest_loss, self._fitted = loss, _FittedDistance(popularity, gamma, prior, calibration)

    def score(self, texts: PairTexts) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, higher for nearer jobs."""
        fitted = self._require_fitted()
        return fitted.calibration.probabilities(self._scores(texts, fitted.popularity, fitted.gamma, fitted.prior))

    def _scores(self, texts: PairTexts, popularity: dict[str, float], gamma: float, prior: np.ndarray) -> np.ndarray:
        generated, real = generated_and_real(texts, self._table, prior)
        distances = np.linalg.norm(generated.astype(np.float64) - real, axis=1)
        popularities = np.array([popularity.get(str(job), 0.0) for job in texts.job_ids])
        return np.asarray(-((1 + popularities) ** -gamma) * distances)

    def _require_fitted(self) -> _FittedDistance:
        if self._fitted is None:
            raise GirlError("this BIGRec ranker is not trained yet; call fit()")
        return self._fitted


class BIGRecMLPRanker:
    """A TextRanker that applies an MLP to the language model's vectors of the generated and the real JD."""

    def __init__(self, table: VectorTable, seed: int = 0) -> None:
        self._table, self._mlp = table, TwoTowerRanker("mlp-plain", "base", seed)
        self._prior: np.ndarray | None = None

    def fit(self, texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
        """Train the MLP; ShapeError as in every TextRanker."""
        check_text_parts(texts, labels, valid_texts, valid_labels)
        self._prior = mean_generated(texts, self._table)
        self._mlp.fit(self._features(texts), labels, self._features(valid_texts), valid_labels)

    def score(self, texts: PairTexts) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, in (0, 1)."""
        return self._mlp.score(self._features(texts))

    def _features(self, texts: PairTexts) -> PairFeatures:
        if self._prior is None:
            raise GirlError("this BIGRec-MLP ranker is not trained yet; call fit()")
        generated, real = generated_and_real(texts, self._table, self._prior)
        # The plain MLP reads the first two vectors; the third is empty.
        empty = np.zeros_like(generated)
        return PairFeatures(generated, real, empty, np.full(len(generated), Tier.PRIOR, np.int8), "language model")


def mean_generated(texts: PairTexts, table: VectorTable) -> np.ndarray:
    """Return the (d,) mean vector of the first generated JDs; it replaces the vector of pairs that have none."""
    first_jds = [jds[0] for jds in texts.generated_jds if jds]
    vectors = table.of(first_jds) if first_jds else table.vectors
    return np.asarray(vectors.mean(axis=0))


def generated_and_real(texts: PairTexts, table: VectorTable, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, d) vectors of each pair's first generated JD, or `prior` if it has none, and of its job's JD."""
    generated = np.tile(prior.astype(np.float32), (texts.n_pairs, 1))
    rows = np.array([i for i, jds in enumerate(texts.generated_jds) if jds], np.int64)
    if len(rows):
        generated[rows] = table.of([texts.generated_jds[i][0] for i in rows])
    return generated, table.of(list(texts.jds)) if texts.n_pairs else generated
