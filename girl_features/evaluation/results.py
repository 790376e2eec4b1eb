"""From test scores to the cells of a comparison: point values, intervals, gains and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from girl_features.evaluation import metrics
from girl_features.evaluation.bootstrap import (
    Resamples,
    percentile_interval,
    resample_seekers,
    resampled_auc,
    resampled_log_loss,
)

BASE = "base"
MIN_SEEKERS = 10  # seekers with a match, and seekers with a mismatch, below which no interval is given
Verdict = Literal["better", "worse", "not shown"]
DEFINITIONS = {
    "auc_low, auc_high": "95 % percentile interval, seekers resampled, seeds averaged in each resample",
    "auc_gain": "the row's AUC minus that of base, same predictor, seeds and resamples: above 0 is better",
    "logloss_gain": "the row's LogLoss minus that of base, likewise: below 0 is better",
    "auc_seed_sd": "standard deviation of the AUC over the seeds, which the intervals do not cover",
    "auc_gain_seed_sd": "standard deviation over the seeds of the gain in AUC",
    "verdict": "better or worse where the interval of auc_gain excludes 0, otherwise not shown",
}


@dataclass(frozen=True)
class ResultRow:
    """One cell of the tables: a predictor, given the features of a row, on a slice. `None` where undefined."""

    data: str
    predictor: str
    row: str
    slice: str
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    logloss: float | None  # nats a pair
    seeds: int
    n: int  # pairs
    auc_gain: float | None
    auc_gain_low: float | None
    auc_gain_high: float | None
    logloss_gain: float | None
    logloss_gain_low: float | None
    logloss_gain_high: float | None
    auc_seed_sd: float | None
    auc_gain_seed_sd: float | None
    brier: float | None
    ece: float | None  # expected calibration error over ten bins
    n_seekers: int
    verdict: Verdict | None  # None for base and for cells without an interval
    note: str | None  # why something is None


@dataclass(frozen=True)
class Comparison:
    """All cells, what they were made from, and the scores behind them."""

    rows: list[ResultRow]
    meta: dict[str, Any]
    scores: pl.DataFrame  # data, predictor, row, seed, pair, job_seeker_id, matched, is_cold_start, score
    tier_rows: list[ResultRow] = field(default_factory=list)  # the same pairs, all answered at one lower tier

    def to_json(self) -> dict[str, Any]:
        """`{"rows": [...], "meta": {...}}` of plain JSON values, without the scores; tiers are slices of their own."""
        return {"rows": [asdict(row) for row in [*self.rows, *self.tier_rows]], "meta": self.meta}


class EvaluationSlice(NamedTuple):
    """Some of the test pairs, and the draws of their seekers that all rows share."""

    name: str
    mask: np.ndarray  # (n_test,) bool
    labels: np.ndarray  # (n,) bool, of the masked pairs
    n_seekers: int
    resamples: Resamples | None  # None: too few seekers for intervals
    note: str | None


class Measured(NamedTuple):
    """What one predictor with one row's features reaches on a slice, for s seeds and r resamples."""

    auc: np.ndarray  # (s,)
    log_loss: np.ndarray  # (s,)
    brier: float
    ece: float
    resampled_auc: np.ndarray | None  # (r,)
    resampled_log_loss: np.ndarray | None  # (r,)


class Gains(NamedTuple):
    """One cell less another, with intervals; `None` where undefined."""

    auc_gain: float | None = None
    auc_gain_low: float | None = None
    auc_gain_high: float | None = None
    logloss_gain: float | None = None
    logloss_gain_low: float | None = None
    logloss_gain_high: float | None = None
    auc_gain_seed_sd: float | None = None
    verdict: Verdict | None = None


def make_slice(
    name: str, labels: np.ndarray, seeker_ids: np.ndarray, mask: np.ndarray, n_bootstrap: int, seed: int
) -> EvaluationSlice:
    """The masked pairs of (n_test,) labels and seekers, and their resamples if there are seekers enough."""
    labels, seeker_ids = labels[mask].astype(bool), seeker_ids[mask]
    fewest = min(len(np.unique(seeker_ids[labels])), len(np.unique(seeker_ids[~labels])))
    resamples, note = None, None
    if not fewest:
        note = f"{int(labels.sum())} of {len(labels)} pairs are matches: no AUC without both classes"
    elif fewest < MIN_SEEKERS:
        note = f"one of the classes is held by {fewest} seekers: no interval below {MIN_SEEKERS}"
    else:
        resamples = resample_seekers(labels, seeker_ids, n_bootstrap, seed)
    return EvaluationSlice(name, mask, labels, len(np.unique(seeker_ids)), resamples, note)


def measure(scores: np.ndarray, part: EvaluationSlice) -> Measured | None:
    """Metrics of (s, n_test) probabilities on a slice, or None where it lacks a class."""
    if part.labels.all() or not part.labels.any():
        return None
    scores = scores[:, part.mask]  # (s, n)

    def each_seed(metric: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
        return np.array([metric(part.labels, one_seed) for one_seed in scores])

    return Measured(
        each_seed(metrics.auc),
        each_seed(metrics.log_loss),
        float(each_seed(metrics.brier).mean()),
        float(each_seed(metrics.expected_calibration_error).mean()),
        resampled_auc(part.labels, scores, part.resamples) if part.resamples else None,
        resampled_log_loss(part.labels, scores, part.resamples) if part.resamples else None,
    )


def make_result(
    data: str, predictor: str, row: str, part: EvaluationSlice, own: Measured | None, base: Measured | None, seeds: int
) -> ResultRow:
    """The cell of `own` values; with its gains over `base`, of the same predictor, unless it is base itself."""
    gains = gains_over(own, base) if own and base and row != BASE else Gains()
    low, high = _interval(own.resampled_auc if own else None)
    return ResultRow(
        data=data,
        predictor=predictor,
        row=row,
        slice=part.name,
        auc=float(own.auc.mean()) if own else None,
        auc_low=low,
        auc_high=high,
        logloss=float(own.log_loss.mean()) if own else None,
        seeds=seeds,
        n=len(part.labels),
        auc_seed_sd=_spread(own.auc) if own else None,
        brier=own.brier if own else None,
        ece=own.ece if own else None,
        n_seekers=part.n_seekers,
        note=part.note,
        **gains._asdict(),
    )


def gains_over(own: Measured, base: Measured) -> Gains:
    """How far `own` is from `base`, on the same resamples."""
    auc_low, auc_high = _interval(_difference(own.resampled_auc, base.resampled_auc))
    loss_low, loss_high = _interval(_difference(own.resampled_log_loss, base.resampled_log_loss))
    return Gains(
        float(own.auc.mean() - base.auc.mean()),
        auc_low,
        auc_high,
        float(own.log_loss.mean() - base.log_loss.mean()),
        loss_low,
        loss_high,
        _spread(own.auc - base.auc),
        verdict_of(auc_low, auc_high),
    )


def verdict_of(low: float | None, high: float | None) -> Verdict | None:
    """Better or worse where the interval of a gain excludes 0, otherwise not shown; None without an interval."""
    if low is None or high is None:
        return None
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not shown"


def _difference(own: np.ndarray | None, base: np.ndarray | None) -> np.ndarray | None:
    return None if own is None or base is None else own - base


def _interval(values: np.ndarray | None) -> tuple[float | None, float | None]:
    return (None, None) if values is None else percentile_interval(values)


def _spread(values: np.ndarray) -> float | None:
    """Standard deviation over seeds; one seed has none."""
    return float(values.std(ddof=1)) if len(values) > 1 else None
