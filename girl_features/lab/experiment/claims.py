"""A claim is that one cell ranks better than another; its verdict is better, worse, or not shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from girl_features.evaluation.results import Measured, Verdict, gains_over, verdict_of
from girl_features.lab.experiment.config import Cell, Claim


@dataclass(frozen=True)
class ClaimResult:
    """A claim on one slice of one data set. `None` where undefined."""

    data: str
    claim: str
    subject: str
    over: str
    slice: str
    n: int
    seeds: int
    simulation: bool
    auc: float | None = None
    auc_over: float | None = None
    auc_gain: float | None = None
    auc_gain_low: float | None = None
    auc_gain_high: float | None = None
    auc_gain_seed_sd: float | None = None
    logloss_gain: float | None = None  # below 0 is better
    logloss_gain_low: float | None = None
    logloss_gain_high: float | None = None
    verdict: Verdict | None = None  # on AUC
    logloss_verdict: Verdict | None = None


def judge_claim(
    data: str, claim: Claim, slice_name: str, measured: Mapping[Cell, Measured | None], n: int, simulation: bool
) -> ClaimResult:
    """The verdict on `claim`, from the cells as measured on one slice of n pairs."""
    own, other = measured[Cell(*claim.subject.split("/"))], measured[Cell(*claim.over.split("/"))]
    shown = (data, claim.name, claim.subject, claim.over, slice_name)
    if own is None or other is None:
        return ClaimResult(*shown, n=n, seeds=0, simulation=simulation)
    gains = gains_over(own, other)
    low, high = gains.logloss_gain_low, gains.logloss_gain_high
    return ClaimResult(
        *shown,
        n=n,
        seeds=max(len(own.auc), len(other.auc)),
        simulation=simulation,
        auc=float(own.auc.mean()),
        auc_over=float(other.auc.mean()),
        auc_gain=gains.auc_gain,
        auc_gain_low=gains.auc_gain_low,
        auc_gain_high=gains.auc_gain_high,
        auc_gain_seed_sd=gains.auc_gain_seed_sd,
        logloss_gain=gains.logloss_gain,
        logloss_gain_low=low,
        logloss_gain_high=high,
        verdict=gains.verdict,
        logloss_verdict=None if low is None or high is None else verdict_of(-high, -low),  # a loss: lower is better
    )
