"""Untrained references for every trained ranker: the cosine of CV and JD, or one further column."""

from __future__ import annotations

import numpy as np

from girl_features.errors import ShapeError
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


class ColumnRanker:
    """A Ranker that orders by the one further column of the pairs. Only its calibration is fitted."""

    def __init__(self) -> None:
        self._slope, self._intercept = 1.0, 0.0

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Calibrate on the valid part. Raises ShapeError as every Ranker does, and unless there is just one column."""
        check_labels(valid_features, valid_labels)
        self._slope, self._intercept = platt_scale(_only_column(valid_features), valid_labels)

    def score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 probabilities in the order of the column."""
        return sigmoid(self._slope * _only_column(features) + self._intercept)


def _only_column(features: PairFeatures) -> np.ndarray:
    if features.columns is None or features.columns.values.shape[1] != 1:
        found = ", ".join(features.column_names) or "none"
        raise ShapeError(f"a column ranks alone only where the pairs have just one, found {found}")
    return features.columns.values[:, 0].astype(np.float64)
