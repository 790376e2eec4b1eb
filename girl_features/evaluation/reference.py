"""Untrained references for every trained ranker: the cosine of CV and JD, or one further column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from girl_features.errors import ShapeError
from girl_features.ranker import PairFeatures, check_labels
from girl_features.vectors.regression import platt_scale, sigmoid
from girl_features.vectors.similarity import cosine


class _UntrainedRanker:
    """A Ranker that orders by a given score of a pair. Only its calibration is fitted, on the valid part."""

    def __init__(self, order: Callable[[PairFeatures], np.ndarray]) -> None:
        self._order = order
        self._slope, self._intercept = 1.0, 0.0

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Calibrate on the valid part; the training part is not used. Raises ShapeError as every Ranker does."""
        check_labels(valid_features, valid_labels)
        self._slope, self._intercept = platt_scale(self._order(valid_features), valid_labels)

    def score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 probabilities in the order of the score. Any contract is accepted: j' is not read."""
        return sigmoid(self._slope * self._order(features) + self._intercept)


class CosineRanker(_UntrainedRanker):
    """A Ranker that orders by cos(c, j) alone."""

    def __init__(self) -> None:
        super().__init__(_cosine_of_pair)


class ColumnRanker(_UntrainedRanker):
    """A Ranker that orders by the one further column of the pairs; ShapeError unless there is just one."""

    def __init__(self) -> None:
        super().__init__(_only_column)


def _cosine_of_pair(features: PairFeatures) -> np.ndarray:
    return cosine(features.cv, features.jd)


def _only_column(features: PairFeatures) -> np.ndarray:
    if features.columns is None or features.columns.values.shape[1] != 1:
        found = ", ".join(features.column_names) or "none"
        raise ShapeError(f"a column ranks alone only where the pairs have just one, found {found}")
    return features.columns.values[:, 0].astype(np.float64)
