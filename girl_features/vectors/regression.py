"""Ridge regression, logistic regression, and Platt scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_LOGIT = 30.0  # keeps float64 probabilities strictly between 0 and 1
_NEWTON_STEPS = 100
_MIN_SLOPE = 1e-3  # keeps the order of the scores where the labels contradict it
_PLATT_RIDGE = 1e-6  # per row; keeps the slope finite where the scores separate the classes


class LinearMap(NamedTuple):
    """A linear map from d to e dimensions."""

    weights: np.ndarray  # (d, e) float64
    intercept: np.ndarray  # (e,) float64

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Map (n, d) `inputs` to (n, e) float64."""
        return np.asarray(inputs @ self.weights + self.intercept)


def ridge_path(inputs: np.ndarray, targets: np.ndarray, penalties: Sequence[float]) -> list[LinearMap]:
    """Return the ridge regression of (n, e) targets on (n, d) inputs for each penalty.

    The penalty applies to the squared weights, not to the intercept. One eigendecomposition serves all penalties.
    """
    centre, mean = inputs.mean(axis=0, dtype=np.float64), targets.mean(axis=0, dtype=np.float64)
    x, y = inputs - centre, targets - mean
    values, vectors = np.linalg.eigh(x.T @ x)
    projected = vectors.T @ (x.T @ y)
    maps = []
    for penalty in penalties:
        weights = vectors @ (projected / (np.maximum(values, 0) + penalty)[:, None])
        maps.append(LinearMap(weights, mean - centre @ weights))
    return maps


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-logits)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))


def log_loss_of_logits(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean log loss, in nats, of (n,) logits against (n,) labels in [0, 1]."""
    return float((np.logaddexp(0, logits) - labels * logits).mean())


def fit_logistic(columns: np.ndarray, labels: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Return the (p + 1,) weights, intercept last, of a logistic regression of (n,) labels on (n, p) columns.

    The labels are bool, or probabilities in [0, 1]. `ridge` is the penalty of the squared weights; the intercept has
    none. Newton's method, with a step halved where it would raise the loss.
    """
    design = np.column_stack([columns, np.ones(len(columns))]).astype(np.float64)
    shrink = np.append(np.full(columns.shape[1], ridge), 1e-9)
    weights = np.zeros(design.shape[1])

    def loss(candidate: np.ndarray) -> float:
        logits = design @ candidate
        return float((np.logaddexp(0, logits) - labels * logits).sum() + 0.5 * (shrink * candidate**2).sum())

    for _ in range(_NEWTON_STEPS):
        probabilities = sigmoid(design @ weights)
        gradient = design.T @ (labels - probabilities) - shrink * weights
        curvature = (design * (probabilities * (1 - probabilities))[:, None]).T @ design + np.diag(shrink)
        step = np.linalg.solve(curvature, gradient)
        limit = loss(weights) * (1 + 1e-12)  # near the optimum, rounding decides which loss is lower
        while loss(weights + step) > limit and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    return weights


class Calibration(NamedTuple):
    """Platt scaling: probability = sigmoid(slope * score + intercept)."""

    slope: float
    intercept: float

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return (n,) float64 probabilities in (0, 1), in the order of the (n,) scores."""
        logits = self.slope * scores.astype(np.float64) + self.intercept
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -MAX_LOGIT, MAX_LOGIT))))


def platt_scale(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit the logistic curve from (n,) finite scores to (n,) labels by maximum likelihood.

    The labels are bool, or probabilities in [0, 1]; not all 0 and not all 1. The slope is always positive, so that the
    order of the scores stays. Where the labels contradict the scores, the curve is almost flat at the match rate.
    """
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    standardised = (scores - centre) / spread
    slope, intercept = fit_logistic(standardised[:, None], labels, _PLATT_RIDGE * len(scores)).tolist()
    if slope <= _MIN_SLOPE:
        rate = float(labels.mean())
        slope, intercept = _MIN_SLOPE, float(np.log(rate / (1 - rate)))
    slope /= spread
    return Calibration(slope, intercept - slope * centre)


def fit_calibration(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit `platt_scale` to Platt's (1999) smoothed targets. The (n,) bool labels have both classes.

    The targets are (n_matched + 1) / (n_matched + 2) and 1 / (n_mismatched + 2). With them, a few labels or scores
    that separate the classes do not push probabilities to 0 and 1.
    """
    n_matched = int(labels.sum())
    matched_target, mismatched_target = (n_matched + 1) / (n_matched + 2), 1 / (len(labels) - n_matched + 2)
    targets = np.where(labels, matched_target, mismatched_target)
    return platt_scale(scores.astype(np.float64), targets)
