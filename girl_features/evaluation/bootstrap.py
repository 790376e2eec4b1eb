"""Paired bootstrap by job seeker and seed: how much a metric, or a difference of two, varies with the test seekers.

A resample draws the test seekers with replacement and keeps all pairs of each drawn seeker, because pairs of one seeker
are not independent. It also draws the seeds of the rankers with replacement, and averages over the drawn seeds. All
scores are measured on the same resamples, and scores with equally many seeds on the same draws of seeds: differences
are paired.

An interval covers the sampling of test seekers and the seeds of the rankers. It does not cover other training data, or
another training run of the generator.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from girl_features.errors import UndefinedMetricError
from girl_features.evaluation.metrics import checked_scores, log_losses, weighted_auc

_WEIGHTS_AT_ONCE = 2_000_000  # float64 weights in memory at a time: 16 MB for each temporary array


class Resamples(NamedTuple):
    """r draws of the m seekers of n rows."""

    counts: np.ndarray  # (r, m) int64: how often each seeker was drawn
    seeker: np.ndarray  # (n,) int64: number of the seeker a row belongs to
    n_redrawn: int  # draws that were replaced because they lacked a class


def resample_seekers(labels: np.ndarray, seeker_ids: np.ndarray, n_resamples: int, seed: int) -> Resamples:
    """Draw the seekers of n rows with replacement, `n_resamples` times, and replace draws that lack a class.

    Raises:
        ShapeError: labels and ids differ in length.
        UndefinedMetricError: all labels are of one class, so every draw would be.
    """
    _, seeker = np.unique(seeker_ids, return_inverse=True)
    matched, _ = checked_scores(labels, seeker)
    if matched.all() or not matched.any():
        raise UndefinedMetricError(
            f"all {len(matched)} labels are {bool(matched[0])}; the bootstrap needs both classes"
        )
    n_seekers = int(seeker.max()) + 1
    has_match = np.bincount(seeker[matched], minlength=n_seekers) > 0
    has_mismatch = np.bincount(seeker[~matched], minlength=n_seekers) > 0
    rng = np.random.default_rng(seed)
    share = np.full(n_seekers, 1 / n_seekers)
    kept = np.empty((0, n_seekers), dtype=np.int64)
    n_redrawn = 0
    while len(kept) < n_resamples:
        drawn = rng.multinomial(n_seekers, share, size=n_resamples - len(kept))
        usable = drawn[:, has_match].any(axis=1) & drawn[:, has_mismatch].any(axis=1)
        n_redrawn += int((~usable).sum())
        kept = np.concatenate([kept, drawn[usable]])
    return Resamples(kept, seeker, n_redrawn)


def resampled_auc(labels: np.ndarray, scores: np.ndarray, resamples: Resamples) -> np.ndarray:
    """Return the (r,) AUC of each resample, averaged over the seeds it draws; `scores` are (s, n)."""
    n_resamples = len(resamples.counts)
    total = np.zeros(n_resamples)
    shares = seed_shares(n_resamples, len(scores))
    step = max(1, _WEIGHTS_AT_ONCE // len(resamples.seeker))
    for start in range(0, n_resamples, step):
        chunk = slice(start, start + step)
        weights = resamples.counts[chunk].T[resamples.seeker].astype(np.float64)  # (n, step)
        for seed_scores, share in zip(scores, shares.T, strict=True):
            matched, checked = checked_scores(labels, seed_scores)
            total[chunk] += share[chunk] * weighted_auc(matched, checked, weights)
    return total


def resampled_log_loss(labels: np.ndarray, scores: np.ndarray, resamples: Resamples) -> np.ndarray:
    """Return the (r,) LogLoss of each resample, averaged over the seeds it draws; `scores` are (s, n) probabilities."""
    n_rows = np.bincount(resamples.seeker)
    by_seeker = [np.bincount(resamples.seeker, weights=log_losses(labels, seed_scores)) for seed_scores in scores]
    by_seed = resamples.counts @ np.stack(by_seeker, axis=1)  # (r, m) @ (m, s): sums over the rows drawn
    shares = seed_shares(len(resamples.counts), len(scores))
    return np.asarray((by_seed * shares).sum(axis=1) / (resamples.counts @ n_rows))


def seed_shares(n_resamples: int, n_seeds: int) -> np.ndarray:
    """Return the (r, s) share of each seed in each resample; equal numbers always give equal shares."""
    drawn = np.random.default_rng(n_seeds).multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_resamples)
    return np.asarray(drawn / n_seeds)


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of the middle 95 % of (r,) resampled values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
