"""From a ranker's raw score to a probability of a match."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from girl_features.evaluation.reference import platt_scale

MAX_LOGIT = 30.0  # keeps float64 probabilities strictly between 0 and 1
_NEWTON_STEPS = 50


class Calibration(NamedTuple):
    """Platt scaling: probability = 1 / (1 + exp(-(slope * score + intercept)))."""

    slope: float
    intercept: float

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """(n,) float64 in (0, 1) from (n,) raw scores, in their order."""
        logits = self.slope * scores.astype(np.float64) + self.intercept
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -MAX_LOGIT, MAX_LOGIT))))


def fit_calibration(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """Platt scaling of (n,) finite scores on (n,) bool labels of both classes; the slope is always positive.

    The targets are Platt's (1999), (n_matched + 1) / (n_matched + 2) and 1 / (n_mismatched + 2), so that a few
    labels, or scores that part the classes, do not push probabilities to 0 and 1.
    """
    n_matched = int(labels.sum())
    matched_target, mismatched_target = (n_matched + 1) / (n_matched + 2), 1 / (len(labels) - n_matched + 2)
    targets = np.where(labels, matched_target, mismatched_target)
    return Calibration(*platt_scale(scores.astype(np.float64), targets))


def fit_logistic(columns: np.ndarray, labels: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """(p + 1,) weights, intercept last, of the ridge logistic regression of (n,) labels on (n, p) columns.

    Newton's method, halving a step that would raise the loss. The intercept is not shrunk.
    """
    design = np.column_stack([columns, np.ones(len(columns))]).astype(np.float64)
    shrink = np.append(np.full(columns.shape[1], ridge), 1e-9)
    weights = np.zeros(design.shape[1])

    def loss(at: np.ndarray) -> float:
        logits = design @ at
        return float((np.logaddexp(0, logits) - labels * logits).sum() + 0.5 * (shrink * at**2).sum())

    for _ in range(_NEWTON_STEPS):
        probabilities = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (labels - probabilities) - shrink * weights
        curvature = (design * (probabilities * (1 - probabilities))[:, None]).T @ design + np.diag(shrink)
        step = np.linalg.solve(curvature, gradient)
        while loss(weights + step) > loss(weights) and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    return weights
