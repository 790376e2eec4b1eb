"""BIGRec (Bao et al., 2023): rank jobs by how near they are to the text that a tuned language model writes.

Distances are L2, between the model's own vectors of generated and real JD. With popularity, a distance is multiplied by
(1 + popularity)^-gamma, gamma chosen on the valid part. BIGRec-MLP scores the same two vectors with a learned MLP.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from girl_features.errors import GirlError
from girl_features.integrations.rankers.calibration import Calibration, fit_calibration
from girl_features.integrations.rankers.two_tower import TwoTowerRanker
from girl_features.lab.baselines.text_rankers import log_loss_of_logits
from girl_features.lab.text_vectors import VectorTable
from girl_features.ranker import PairFeatures, PairTexts, check_text_parts
from girl_features.schema import Tier

GAMMAS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)


class BIGRecRanker:
    """A TextRanker of -distance, calibrated on the valid part. `table` has the vectors of all texts it will meet."""

    def __init__(self, table: VectorTable, popularity: bool = False) -> None:
        self._table, self._gammas = table, GAMMAS if popularity else (0.0,)
        self._fitted: tuple[dict[str, float], float, np.ndarray, Calibration] | None = None

    @property
    def gamma(self) -> float:
        """The weight of popularity that the valid part chose; 0 is none."""
        return self._require_fitted()[1]

    def fit(self, texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
        """Count matches a job in training, choose gamma and calibrate on the valid part."""
        check_text_parts(texts, labels, valid_texts, valid_labels)
        matches = Counter(texts.job_ids[labels].tolist())
        most = max(matches.values())
        popularity = {job: n / most for job, n in matches.items()}
        prior = mean_generated(texts, self._table)
        best = None
        for gamma in self._gammas:
            scores = self._scores(valid_texts, popularity, gamma, prior)
            calibration = fit_calibration(scores, valid_labels)
            loss = log_loss_of_logits(calibration.slope * scores + calibration.intercept, valid_labels)
            if best is None or loss < best[0]:
                best = (loss, gamma, calibration)
        assert best is not None
        self._fitted = (popularity, best[1], prior, best[2])

    def score(self, texts: PairTexts) -> np.ndarray:
        """(n,) float64 probabilities of a match, nearer jobs first."""
        popularity, gamma, prior, calibration = self._require_fitted()
        return calibration.probabilities(self._scores(texts, popularity, gamma, prior))

    def _scores(self, texts: PairTexts, popularity: dict[str, float], gamma: float, prior: np.ndarray) -> np.ndarray:
        written, real = generated_and_real(texts, self._table, prior)
        distance = np.linalg.norm(written.astype(np.float64) - real, axis=1)
        popular = np.array([popularity.get(str(job), 0.0) for job in texts.job_ids])
        return np.asarray(-((1 + popular) ** -gamma) * distance)

    def _require_fitted(self) -> tuple[dict[str, float], float, np.ndarray, Calibration]:
        if self._fitted is None:
            raise GirlError("this BIGRec ranker is not trained yet; call fit()")
        return self._fitted


class BIGRecMLPRanker:
    """A TextRanker: MLP([generated; real]) over the language model's vectors."""

    def __init__(self, table: VectorTable, seed: int = 0) -> None:
        self._table, self._mlp = table, TwoTowerRanker("mlp-plain", "base", seed)
        self._prior: np.ndarray | None = None

    def fit(self, texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
        """Train the MLP; ShapeError as every TextRanker."""
        check_text_parts(texts, labels, valid_texts, valid_labels)
        self._prior = mean_generated(texts, self._table)
        self._mlp.fit(self._features(texts), labels, self._features(valid_texts), valid_labels)

    def score(self, texts: PairTexts) -> np.ndarray:
        """(n,) float64 probabilities of a match, in (0, 1)."""
        if self._prior is None:
            raise GirlError("this BIGRec-MLP ranker is not trained yet; call fit()")
        return self._mlp.score(self._features(texts))

    def _features(self, texts: PairTexts) -> PairFeatures:
        assert self._prior is not None
        written, real = generated_and_real(texts, self._table, self._prior)
        blank = np.zeros_like(written)
        return PairFeatures(written, real, blank, np.full(len(written), Tier.PRIOR, np.int8), "language model")


def mean_generated(texts: PairTexts, table: VectorTable) -> np.ndarray:
    """(d,) mean vector of the generated JDs of the pairs: what stands in where there is none."""
    written = [own[0] for own in texts.generated_jds if own]
    vectors = table.of(written) if written else table.vectors
    return np.asarray(vectors.mean(axis=0))


def generated_and_real(texts: PairTexts, table: VectorTable, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) vectors of each pair's first generated JD, `prior` where there is none, and of its job's JD."""
    written = np.tile(prior.astype(np.float32), (texts.n_pairs, 1))
    rows = np.array([i for i, own in enumerate(texts.generated_jds) if own], np.int64)
    if len(rows):
        written[rows] = table.of([texts.generated_jds[i][0] for i in rows])
    return written, table.of(list(texts.jds)) if texts.n_pairs else written
