"""The cosine of CV and JD: the untrained reference for every trained ranker."""

from __future__ import annotations

import numpy as np

from girl_features.ranker import PairFeatures, check_labels

_MIN_SLOPE = 1e-3  # keeps the order of the cosines even where the validation pairs suggest the reverse
_RIDGE = 1e-6  # keeps the slope finite where the validation pairs are separable
_MAX_NEWTON_STEPS = 100


class CosineRanker:
    """A Ranker that orders by cos(c, j) alone. Only its two calibration numbers are fitted, on the valid part."""

    def __init__(self) -> None:
        self._slope, self._intercept = 1.0, 0.0

    def fit(
        self,
        features: PairFeatures,
        labels: np.ndarray,
        valid_features: PairFeatures,
        valid_labels: np.ndarray,
    ) -> None:
        """Calibrate on the valid part; the training part is not used. Raises ShapeError as every Ranker does."""
        check_labels(valid_features, valid_labels)
        self._slope, self._intercept = platt_scale(cosine(valid_features.cv, valid_features.jd), valid_labels)

    def score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 probabilities in the order of the cosines. Any contract is accepted: j' is not read."""
        return _sigmoid(self._slope * cosine(features.cv, features.jd) + self._intercept)


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the (n,) float64 cosines of the rows of two (n, d) arrays, 0 where either row is all zero."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = (left * right).sum(axis=1)
    return np.asarray(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0))


def platt_scale(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept of the logistic curve from (n,) scores to (n,) bool labels (Platt scaling).

    Newton's method on the log-likelihood with a small ridge penalty on the slope. A slope near zero or below is
    replaced by a very small one at the match rate, so that the order of the scores is kept.
    """
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    design = np.stack([(scores - centre) / spread, np.ones(len(scores))], axis=1)  # (n, 2)
    rate = float(labels.mean())
    base = np.array([0.0, np.log(rate / (1 - rate))])
    weights, ridge = base.copy(), np.array([_RIDGE, 0.0])
    for _ in range(_MAX_NEWTON_STEPS):
        probabilities = _sigmoid(design @ weights)
        gradient = design.T @ (labels - probabilities) / len(labels) - ridge * weights
        spread_of_labels = probabilities * (1 - probabilities)
        curvature = (design * spread_of_labels[:, None]).T @ design / len(labels) + np.diag(ridge + 1e-12)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step * min(1.0, 2.0 / float(np.abs(step).max() + 1e-12))
        if np.abs(gradient).max() < 1e-10:
            break
    if weights[0] <= _MIN_SLOPE:
        weights = np.array([_MIN_SLOPE, base[1]])
    slope = float(weights[0]) / spread
    return slope, float(weights[1]) - slope * centre


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))
