"""The cosine of CV and JD: the untrained reference for every trained ranker."""

from __future__ import annotations

import numpy as np

from girl_features.ranker import PairFeatures, check_labels
from girl_features.vectors.regression import platt_scale, sigmoid
from girl_features.vectors.similarity import cosine


class CosineRanker:
    """A Ranker that orders by cos(c, j) alone. Only its two calibration numbers are fitted, on the valid part."""

    def __init__(self) -> None:
        self._slope, self._intercept = 1.0, 0.0

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Calibrate on the valid part; the training part is not used. Raises ShapeError as every Ranker does."""
        check_labels(valid_features, valid_labels)
        self._slope, self._intercept = platt_scale(cosine(valid_features.cv, valid_features.jd), valid_labels)

    def score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 probabilities in the order of the cosines. Any contract is accepted: j' is not read."""
        return sigmoid(self._slope * cosine(features.cv, features.jd) + self._intercept)
