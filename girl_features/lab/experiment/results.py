"""Results of an experiment: the cells of its tables, and the verdict on each claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from girl_features.evaluation.metrics import CalibrationCurve, calibration_curve
from girl_features.evaluation.results import (
    Measured,
    ResultRow,
    Verdict,
    gains_over,
    make_result,
    make_slice,
    measure_slice,
    verdict_of,
)
from girl_features.lab.experiment.config import Cell, Claim, ExperimentConfig
from girl_features.lab.experiment.fits import FitId, read_fit
from girl_features.lab.experiment.row_names import base_of, parse_row
from girl_features.lab.experiment.rows import PreparedData


@dataclass(frozen=True)
class ClaimResult:
    """A claim, that one cell ranks better than another, on one slice of one data set. `None` where undefined."""

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

    @property
    def compared(self) -> str:
        """Both sides in words."""
        return f"{self.subject} over {self.over}"


class DataResults(NamedTuple):
    """Everything measured on one data set."""

    config: ExperimentConfig  # what was run on this data set
    prepared: PreparedData
    rows: list[ResultRow]
    claims: list[ClaimResult]
    calibration: dict[Cell, CalibrationCurve]  # of the first seed, all pairs
    seconds: dict[Cell, float]  # one fit, mean over the seeds

    @property
    def title(self) -> str:
        """Name of the data set, marked if it is simulated."""
        return f"{self.prepared.name}{' (simulation)' if self.prepared.simulation else ''}"


@dataclass(frozen=True)
class ExperimentResults:
    """A whole experiment."""

    config: ExperimentConfig
    data: list[DataResults]
    n_fits: int  # made by this run
    n_kept: int  # on disk from earlier runs


def measure_data(config: ExperimentConfig, prepared: PreparedData, fit_paths: Mapping[FitId, Path]) -> DataResults:
    """Return metrics, intervals and verdicts of the fits on disk, all of which must be there."""
    test = prepared.base.test
    scores, seconds = {}, {}
    for cell in config.cells:
        fits = []
        for seed in config.seeds_of(cell.predictor):
            fit = read_fit(fit_paths[FitId(prepared.name, cell.predictor, cell.row, seed)], len(test.labels))
            assert fit is not None, "every fit is on disk by now"
            fits.append(fit)
        scores[cell] = np.stack([fit_scores for fit_scores, _ in fits])  # (s, n)
        seconds[cell] = float(np.mean([fit_seconds for _, fit_seconds in fits]))
    rows, claims = [], []
    for name, mask in prepared.data.slices.items():
        if not mask.any():
            continue
        pairs = make_slice(name, test.labels, test.seeker_ids, mask, config.n_bootstrap, seed=0)
        measured = {cell: measure_slice(cell_scores, pairs) for cell, cell_scores in scores.items()}
        for cell, metrics in measured.items():
            base = measured.get(Cell(cell.predictor, base_of(cell.row)))
            rows.append(make_result(prepared.name, cell, pairs, metrics, base, len(scores[cell])))
        for claim in config.all_claims:
            claims.append(judge_claim(prepared.name, claim, name, measured, int(mask.sum()), prepared.simulation))
    curves = {cell: calibration_curve(test.labels, cell_scores[0]) for cell, cell_scores in scores.items()}
    return DataResults(config, prepared, rows, claims, curves, seconds)


def with_all_labels(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Return the rows whose rankers were trained on the whole training window."""
    return [row for row in rows if parse_row(row.row).n_labels is None]


def judge_claim(
    data: str, claim: Claim, slice_name: str, measured: Mapping[Cell, Measured], n: int, simulation: bool
) -> ClaimResult:
    """Return the verdict on `claim`, from the cells as measured on one slice of n pairs."""
    subject, over = (measured[cell] for cell in claim.cells)
    names = (data, claim.name, claim.subject, claim.over, slice_name)
    if subject is None or over is None:
        return ClaimResult(*names, n=n, seeds=0, simulation=simulation)
    gains = gains_over(subject, over)
    low, high = gains.logloss_gain_low, gains.logloss_gain_high
    return ClaimResult(
        *names,
        n=n,
        seeds=max(len(subject.auc), len(over.auc)),
        simulation=simulation,
        auc=float(subject.auc.mean()),
        auc_over=float(over.auc.mean()),
        **gains._asdict(),
        logloss_verdict=verdict_of(-high, -low) if low is not None and high is not None else None,  # lower is better
    )
