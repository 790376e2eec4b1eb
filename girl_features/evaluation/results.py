"""Cells of a comparison, made from test scores: point values, intervals, gains and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from girl_features.evaluation import bootstrap, metrics

BASE = "base"
SLICE_NAMES = {"all": "all test pairs", "cold": "cold-start seekers"}
MIN_SEEKERS = 10  # an interval needs so many seekers with a match, and so many with a mismatch
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
    """One cell of the tables: a predictor with the features of a row, on a slice. `None` where undefined."""

    data: str
    predictor: str
    row: str
    slice: str
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    logloss: float | None  # nats per pair
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
    """All cells, the settings they were made with, and the scores behind them."""

    rows: list[ResultRow]
    meta: dict[str, Any]
    scores: pl.DataFrame  # data, predictor, row, seed, pair, job_seeker_id, matched, is_cold_start, score
    tier_rows: list[ResultRow] = field(default_factory=list)  # the same pairs, with the features of one lower tier

    def to_json(self) -> dict[str, Any]:
        """Return `{"rows": [...], "meta": {...}}` of plain JSON values, without the scores. Each tier is a slice."""
        return {"rows": [asdict(row) for row in [*self.rows, *self.tier_rows]], "meta": self.meta}


class EvaluationSlice(NamedTuple):
    """A subset of the test pairs, and the resamples of their seekers that all rows share."""

    name: str
    mask: np.ndarray  # (n_test,) bool
    labels: np.ndarray  # (n,) bool, of the masked pairs
    n_seekers: int
    resamples: bootstrap.Resamples | None  # None: too few seekers for intervals
    note: str | None


class SliceMetrics(NamedTuple):
    """Metrics of one predictor with one row's features on a slice, for s seeds and r resamples."""

    auc: np.ndarray  # (s,)
    log_loss: np.ndarray  # (s,)
    brier: float
    ece: float
    resampled_auc: np.ndarray | None  # (r,)
    resampled_log_loss: np.ndarray | None  # (r,)


Measured = SliceMetrics | None  # None where the slice lacks a class


class Gains(NamedTuple):
    """Differences of one cell from another, with intervals; `None` where undefined."""

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
    """Return the masked pairs of (n_test,) labels and seekers, with resamples if there are enough seekers."""
    labels, seeker_ids = labels[mask].astype(bool), seeker_ids[mask]
    fewest = min(len(np.unique(seeker_ids[labels])), len(np.unique(seeker_ids[~labels])))
    resamples, note = None, None
    if fewest == 0:
        note = f"{int(labels.sum())} of {len(labels)} pairs are matches: no AUC without both classes"
    elif fewest < MIN_SEEKERS:
        note = f"one of the classes is held by {fewest} seekers: no interval below {MIN_SEEKERS}"
    else:
        resamples = bootstrap.resample_seekers(labels, seeker_ids, n_bootstrap, seed)
    return EvaluationSlice(name, mask, labels, len(np.unique(seeker_ids)), resamples, note)


def measure_slice(scores: np.ndarray, pairs: EvaluationSlice) -> Measured:
    """Return metrics of (s, n_test) probabilities on a slice, or None if the slice lacks a class."""
    labels, resamples = pairs.labels, pairs.resamples
    if labels.all() or not labels.any():
        return None
    scores = scores[:, pairs.mask]  # (s, n)

    def each_seed(metric: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
        return np.array([metric(labels, seed_scores) for seed_scores in scores])

    return SliceMetrics(
        auc=each_seed(metrics.auc),
        log_loss=each_seed(metrics.log_loss),
        brier=float(each_seed(metrics.brier).mean()),
        ece=float(each_seed(metrics.expected_calibration_error).mean()),
        resampled_auc=bootstrap.resampled_auc(labels, scores, resamples) if resamples else None,
        resampled_log_loss=bootstrap.resampled_log_loss(labels, scores, resamples) if resamples else None,
    )


def make_result(
    data: str, cell: tuple[str, str], pairs: EvaluationSlice, measured: Measured, base: Measured, n_seeds: int
) -> ResultRow:
    """Return the cell of a predictor and a row, with its gains over the same predictor's base row; base has none."""
    predictor, row = cell
    gains = gains_over(measured, base) if measured and base and measured is not base else Gains()
    low, high = _interval(measured.resampled_auc, 0.0) if measured else (None, None)
    return ResultRow(
        data=data,
        predictor=predictor,
        row=row,
        slice=pairs.name,
        auc=float(measured.auc.mean()) if measured else None,
        auc_low=low,
        auc_high=high,
        logloss=float(measured.log_loss.mean()) if measured else None,
        seeds=n_seeds,
        n=len(pairs.labels),
        auc_seed_sd=_spread(measured.auc) if measured else None,
        brier=measured.brier if measured else None,
        ece=measured.ece if measured else None,
        n_seekers=pairs.n_seekers,
        note=pairs.note,
        **gains._asdict(),
    )


def gains_over(measured: SliceMetrics, base: SliceMetrics) -> Gains:
    """Return the differences of `measured` from `base`, on the same resamples."""
    auc_low, auc_high = _interval(measured.resampled_auc, base.resampled_auc)
    loss_low, loss_high = _interval(measured.resampled_log_loss, base.resampled_log_loss)
    return Gains(
        auc_gain=float(measured.auc.mean() - base.auc.mean()),
        auc_gain_low=auc_low,
        auc_gain_high=auc_high,
        logloss_gain=float(measured.log_loss.mean() - base.log_loss.mean()),
        logloss_gain_low=loss_low,
        logloss_gain_high=loss_high,
        auc_gain_seed_sd=_spread(measured.auc - base.auc),
        verdict=verdict_of(auc_low, auc_high),
    )


def interval_of_auc(
    labels: np.ndarray, seeker_ids: np.ndarray, scores: np.ndarray, n_bootstrap: int
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the AUC of (n,) scores, seekers resampled; None where there are too few seekers."""
    pairs = make_slice("all", labels, seeker_ids, np.ones(len(labels), bool), n_bootstrap, seed=0)
    if pairs.resamples is None:
        return None, None
    return bootstrap.percentile_interval(bootstrap.resampled_auc(pairs.labels, scores[None], pairs.resamples))


def verdict_of(low: float | None, high: float | None) -> Verdict | None:
    """Return better or worse if the interval of a gain excludes 0, else not shown; None without an interval."""
    if low is None or high is None:
        return None
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not shown"


def _interval(values: np.ndarray | None, base: np.ndarray | float | None) -> tuple[float | None, float | None]:
    return (None, None) if values is None or base is None else bootstrap.percentile_interval(values - base)


def _spread(values: np.ndarray) -> float | None:
    """Return the standard deviation over seeds, or None for one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else None
