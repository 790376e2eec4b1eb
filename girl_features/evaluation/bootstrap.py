"""Paired bootstrap by job seeker and seed: how far a metric, or a difference of two, could move on other test seekers.

A resample draws the test seekers with replacement and keeps all pairs of each drawn one, as pairs of one seeker
are not independent. It also draws the seeds of the rankers with replacement, and averages over those drawn. Every
scored column is measured on the same resamples, and columns of as many seeds on the same seeds: differences are paired.

What an interval covers: the sampling of test seekers and the seeds of the rankers. It says nothing of how much other
training data, or a generator trained once more, would change.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from girl_features.errors import UndefinedMetricError
from girl_features.evaluation.metrics import checked, log_losses, weighted_auc

LEVEL = 0.95
_CELLS_AT_ONCE = 2_000_000  # float64 weights held at a time: 16 MB a temporary array


class Resamples(NamedTuple):
    """r draws of the m seekers of n rows."""

    counts: np.ndarray  # (r, m) int64: how often each seeker was drawn
    seeker: np.ndarray  # (n,) int64: which of the m seekers a row belongs to
    n_redrawn: int  # draws thrown away because they lacked a class


class Interval(NamedTuple):
    """Ends of a percentile interval."""

    low: float
    high: float


def resample_seekers(labels: np.ndarray, seeker_ids: np.ndarray, n_resamples: int, seed: int) -> Resamples:
    """Draw the seekers `n_resamples` times with replacement; draws that lack a class are drawn again.

    Args:
        labels: (n,) bool.
        seeker_ids: (n,) str, whose row it is.
        n_resamples: how many draws to keep.
        seed: of the random generator.

    Raises:
        ShapeError: labels and ids do not line up.
        UndefinedMetricError: all labels are of one class, so every draw would be.
    """
    _, seeker = np.unique(seeker_ids, return_inverse=True)
    matched, _ = checked(labels, seeker)
    if matched.all() or not matched.any():
        raise UndefinedMetricError(
            f"all {len(matched)} labels are {bool(matched[0])}; the bootstrap needs both classes"
        )
    n_seekers = int(seeker.max()) + 1
    has_class = [np.bincount(seeker[rows], minlength=n_seekers) > 0 for rows in (matched, ~matched)]
    rng = np.random.default_rng(seed)
    share = np.full(n_seekers, 1 / n_seekers)
    kept = np.empty((0, n_seekers), dtype=np.int64)
    n_redrawn = 0
    while len(kept) < n_resamples:
        drawn = rng.multinomial(n_seekers, share, size=n_resamples - len(kept))
        usable = np.logical_and.reduce([drawn[:, holders].any(axis=1) for holders in has_class])
        n_redrawn += int((~usable).sum())
        kept = np.concatenate([kept, drawn[usable]])
    return Resamples(kept, seeker, n_redrawn)


def resampled_auc(labels: np.ndarray, scores: np.ndarray, resamples: Resamples) -> np.ndarray:
    """(r,) AUC of each resample, averaged over the seeds it draws from the s of `scores` (s, n).

    Raises:
        ShapeError, UndefinedMetricError: as `metrics.auc`.
    """
    total, shares = np.zeros(len(resamples.counts)), seed_shares(len(resamples.counts), len(scores))
    step = max(1, _CELLS_AT_ONCE // len(resamples.seeker))
    for start in range(0, len(total), step):
        part = slice(start, start + step)
        weights = resamples.counts[part].T[resamples.seeker].astype(np.float64)  # (n, step)
        for one_seed, share in zip(scores, shares.T, strict=True):
            total[part] += share[part] * weighted_auc(*checked(labels, one_seed), weights)
    return total


def resampled_log_loss(labels: np.ndarray, scores: np.ndarray, resamples: Resamples) -> np.ndarray:
    """(r,) LogLoss of each resample, averaged over the seeds it draws from the s of `scores` (s, n), probabilities.

    Raises:
        ShapeError, UndefinedMetricError: as `metrics.log_losses`.
    """
    n_rows = np.bincount(resamples.seeker)
    of_seekers = [np.bincount(resamples.seeker, weights=log_losses(labels, one_seed)) for one_seed in scores]  # (s, m)
    of_seeds = resamples.counts @ np.stack(of_seekers).T  # (r, s), summed over the rows drawn
    shares = seed_shares(len(resamples.counts), len(scores))
    return np.asarray((of_seeds * shares).sum(axis=1) / (resamples.counts @ n_rows))


def seed_shares(n_resamples: int, n_seeds: int) -> np.ndarray:
    """(r, s) share that each seed has in each resample: the same wherever there are as many seeds."""
    drawn = np.random.default_rng(n_seeds).multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_resamples)
    return np.asarray(drawn / n_seeds)


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """The middle `level` of (r,) resampled values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
