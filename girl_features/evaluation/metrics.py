"""AUC, LogLoss and calibration of predicted match probabilities, in numpy alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from girl_features.errors import ShapeError, UndefinedMetricError

CLIP = 1e-7  # log_loss moves probabilities this far from 0 and 1, so that one pair costs at most 16.1 nats


class CalibrationCurve(NamedTuple):
    """Predicted against observed rate of matches in b bins of about equally many pairs, lowest bin first."""

    mean_probability: np.ndarray  # (b,) float64
    match_rate: np.ndarray  # (b,) float64
    n: np.ndarray  # (b,) int64: pairs in the bin


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the chance that a random match scores above a random mismatch; a tie counts one half (Mann-Whitney).

    Raises:
        ShapeError: the (n,) labels and (n,) scores differ in length.
        UndefinedMetricError: only one class among the labels, or a score that is not finite.
    """
    matched, scores = checked_scores(labels, scores)
    return float(weighted_auc(matched, scores, np.ones((len(matched), 1)))[0])


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (r,) AUCs, each as if row i occurred `weights[i, r]` times. O(n log n + n r).

    Raises:
        UndefinedMetricError: a column of the (n, r) weights leaves only one class.
    """
    positives, negatives = np.flatnonzero(labels), np.flatnonzero(~labels)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    n_below = np.searchsorted(scores[negatives], scores[positives], side="left")
    n_up_to = np.searchsorted(scores[negatives], scores[positives], side="right")  # ties included
    cumulated = np.zeros((len(negatives) + 1, weights.shape[1]))
    np.cumsum(weights[negatives], axis=0, out=cumulated[1:])
    positive_weights = weights[positives]  # (n_positives, r)
    wins = (positive_weights * (cumulated[n_below] + cumulated[n_up_to])).sum(axis=0) / 2
    n_comparisons = positive_weights.sum(axis=0) * cumulated[-1]
    if not (n_comparisons > 0).all():
        raise UndefinedMetricError(
            f"AUC compares matches with mismatches, but these {len(labels)} pairs ({positives.size} matches) "
            f"lack one of the two, at least as weighted; evaluate on more pairs"
        )
    return np.asarray(wins / n_comparisons)


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the (n,) cost in nats of each pair: -log of the probability of the true label, clipped by CLIP.

    Raises as `checked_probabilities`.
    """
    matched, probabilities = checked_probabilities(labels, probabilities)
    of_true_label = np.where(matched, probabilities, 1 - probabilities)
    return np.asarray(-np.log(np.clip(of_true_label, CLIP, 1 - CLIP)))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean of `log_losses`, in nats; same errors."""
    return float(log_losses(labels, probabilities).mean())


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean squared difference of probability and label; same errors as `log_losses`."""
    matched, probabilities = checked_probabilities(labels, probabilities)
    return float(np.mean((probabilities - matched) ** 2))


def calibration_curve(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = 10) -> CalibrationCurve:
    """Return mean probability and match rate in at most `n_bins` bins of about equally many pairs.

    Equal probabilities always share a bin, so the curve does not depend on the order of the rows. Many equal
    probabilities make fewer bins.

    Raises as `checked_probabilities`, and UndefinedMetricError if `n_bins` is below 1.
    """
    matched, probabilities = checked_probabilities(labels, probabilities)
    if n_bins < 1:
        raise UndefinedMetricError(f"n_bins is {n_bins}; a calibration curve needs at least one bin")
    order = np.argsort(probabilities, kind="stable")
    probabilities, matched = probabilities[order], matched[order]
    equal_cuts = np.arange(n_bins) * len(probabilities) // n_bins
    starts = np.unique(np.searchsorted(probabilities, probabilities[equal_cuts], side="left"))
    n = np.diff(np.append(starts, len(probabilities)))
    return CalibrationCurve(
        np.add.reduceat(probabilities, starts) / n, np.add.reduceat(matched.astype(float), starts) / n, n
    )


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = 10) -> float:
    """Return the mean over pairs of |mean probability - match rate| of their bin; see `calibration_curve`."""
    curve = calibration_curve(labels, probabilities, n_bins)
    return float(np.average(np.abs(curve.mean_probability - curve.match_rate), weights=curve.n))


def checked_scores(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check the values and return (n,) bool labels and (n,) float64 scores.

    Raises:
        ShapeError: not one-dimensional, empty, or of different lengths.
        UndefinedMetricError: a label other than 0 and 1, or a score that is not finite.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape or not labels.size:
        raise ShapeError(
            f"labels have shape {labels.shape} and scores {scores.shape}; wanted one score for each of n > 0 labels"
        )
    if not np.isin(labels, (0, 1)).all():
        raise UndefinedMetricError(f"labels must be 0 or 1, found {labels[~np.isin(labels, (0, 1))][0]!r}")
    n_bad = int((~np.isfinite(scores)).sum())
    if n_bad:
        raise UndefinedMetricError(f"{n_bad} of {len(scores)} scores are not finite numbers; check the ranker")
    return labels.astype(bool), scores


def checked_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return as `checked_scores` does; a probability outside 0 to 1 is an UndefinedMetricError too."""
    matched, probabilities = checked_scores(labels, probabilities)
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise UndefinedMetricError(
            f"found scores from {probabilities.min():.3g} to {probabilities.max():.3g} where probabilities "
            f"from 0 to 1 are wanted; calibrate the ranker's scores first"
        )
    return matched, probabilities
