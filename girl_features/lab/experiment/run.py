"""`girl experiment run`: rows x predictors x data x seeds, each fit kept on disk, then measured and written up.

A fit's file is named by a hash of all it depends on (vectors, labels, ids and texts of the pairs, contract, row,
predictor, seed, code and package versions). So a run that was killed goes on where it was, and a change anywhere
redoes what it touches and nothing else.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from girl_features.errors import InterruptedRunError, WorkerLostError
from girl_features.evaluation.metrics import CalibrationCurve, calibration_curve
from girl_features.evaluation.reference import CosineRanker
from girl_features.evaluation.results import BASE, ResultRow, make_result, make_slice, measure
from girl_features.lab.experiment.cells import CellId, Job, cell_path, code_hash, parts_hash, read_cell, run_job
from girl_features.lab.experiment.claims import ClaimResult, judge_claim
from girl_features.lab.experiment.config import BASELINE_ROW, Cell, ExperimentConfig
from girl_features.lab.experiment.rows import (
    Prepared,
    Steps,
    baseline_parts,
    baseline_vectors,
    row_features,
)
from girl_features.lab.experiment.several_jds import SpreadRanker
from girl_features.progress import Progress
from girl_features.ranker import Ranker

SEEDLESS = ("cosine", "bigrec", "bigrec-popularity")  # one fit: there is nothing random in them
_OWN_SOURCES = (  # of the package, beside the steps' own
    *(f"lab/experiment/{name}.py" for name in ("cells", "controls", "several_jds", "rows")),
    *("ranker.py", "tiers.py", "torch_threads.py", "evaluation/reference.py"),
    *("generator/prompts.py", "generator/transformers_engine.py", "lookup/vector_map.py"),
)


class DataResults(NamedTuple):
    """Everything measured on one data set."""

    config: ExperimentConfig  # what was run on this data set
    prepared: Prepared
    rows: list[ResultRow]
    claims: list[ClaimResult]
    calibration: dict[Cell, CalibrationCurve]  # of the first seed, all pairs
    seconds: dict[Cell, float]  # one fit, mean over the seeds


@dataclass(frozen=True)
class ExperimentResults:
    """A whole experiment."""

    config: ExperimentConfig
    data: list[DataResults]
    n_fits: int  # made now
    n_kept: int  # found on disk


def run_experiment(
    config: ExperimentConfig,
    steps: Steps,
    prepare: Callable[[str], Prepared],
    *,
    n_workers: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
) -> ExperimentResults:
    """Make every fit that is not on disk, then measure all of them.

    Args:
        config: what to run.
        steps: rankers and trainers.
        prepare: data set name -> its windows, generators trained and materialized.
        n_workers: processes that fit; 1 fits in this one.
        should_stop: asked before each fit.

    Raises:
        InterruptedRunError: a stop was asked for.
        GirlError: as the steps do.
    """
    code = code_hash([*steps.sources, *(Path(__file__).parents[2] / name for name in _OWN_SOURCES)])
    found, n_fits, n_kept = [], 0, 0
    for name in config.data:
        own, prepared = config.on(name), prepare(name)
        paths: dict[CellId, Path] = {}
        wanted = sum(len(_seeds(own, cell)) for cell in own.cells)
        with Progress(f"fits on {name}", wanted, "fits") as progress:
            jobs = _missing(_jobs(own, prepared, steps, code), prepared, paths, progress)
            made = _run_all(jobs, n_workers, should_stop, progress)
        n_fits, n_kept = n_fits + made, n_kept + len(paths) - made
        found.append(measure_data(own, prepared, paths))
    return ExperimentResults(config, found, n_fits, n_kept)


def measure_data(config: ExperimentConfig, prepared: Prepared, paths: dict[CellId, Path]) -> DataResults:
    """Metrics, intervals and verdicts of the cells on disk."""
    test = prepared.arms[config.reference_arm].parts.test
    scores, seconds = {}, {}
    for cell in config.cells:
        read = [read_cell(paths[_cell_id(prepared.name, cell, s)], len(test.labels)) for s in _seeds(config, cell)]
        assert all(one is not None for one in read), "every fit was just made or found"
        scores[cell] = np.stack([one[0] for one in read if one is not None])
        seconds[cell] = float(np.mean([one[1] for one in read if one is not None]))
    rows, claims = [], []
    for name, mask in prepared.data.slices.items():
        if not mask.any():
            continue
        part = make_slice(name, test.labels, test.seeker_ids, mask, config.n_bootstrap, seed=0)
        measured = {cell: measure(values, part) for cell, values in scores.items()}
        for cell, own in measured.items():
            base = measured.get(Cell(cell.predictor, BASE))
            n_seeds = len(scores[cell])
            rows.append(make_result(prepared.name, cell.predictor, cell.row, part, own, base, n_seeds))
        for claim in config.all_claims:
            claims.append(judge_claim(prepared.name, claim, name, measured, int(mask.sum()), prepared.simulation))
    curves = {cell: calibration_curve(test.labels, values[0]) for cell, values in scores.items()}
    return DataResults(config, prepared, rows, claims, curves, seconds)


def _jobs(config: ExperimentConfig, prepared: Prepared, steps: Steps, code: str) -> Iterator[Job]:
    folder = prepared.folder / "cells"
    current, features, inputs = "", None, ""
    for predictor, row in config.cells:
        if row == BASELINE_ROW:
            continue
        if row != current:
            features = row_features(row, prepared, config, steps)
            current, inputs = row, parts_hash(features.parts)
        assert features is not None
        for seed in _seeds(config, Cell(predictor, row)):
            cell = CellId(prepared.name, predictor, row, seed)
            settings = f"{features.form} {features.weighs_spread}"
            path = cell_path(folder, cell, inputs, code, settings)
            make: Callable[[], Ranker] = partial(_make, steps.make_ranker, predictor, features.form, seed)
            if features.weighs_spread:
                make = partial(_with_spread, make, steps.fit_logistic)
            yield Job(cell, path, make, features.parts)
    if config.baselines:
        yield from _baseline_jobs(config, prepared, steps, code)


def _baseline_jobs(config: ExperimentConfig, prepared: Prepared, steps: Steps, code: str) -> Iterator[Job]:
    parts, table = baseline_parts(prepared, config), baseline_vectors(prepared, config, steps)
    reference = prepared.arms[config.reference_arm]
    inputs, settings = parts_hash(parts), reference.contract.fingerprint
    for name in dict.fromkeys(config.baselines):
        for seed in _seeds(config, Cell(name, BASELINE_ROW)):
            cell = CellId(prepared.name, name, BASELINE_ROW, seed)
            path = cell_path(prepared.folder / "cells", cell, inputs, code, settings)
            yield Job(cell, path, partial(steps.make_baseline, name, seed, reference.folder, table), parts)


def _make(make_ranker: Callable[[str, str, int], Ranker], predictor: str, form: str, seed: int) -> Ranker:
    return CosineRanker() if predictor == "cosine" else make_ranker(predictor, form, seed)


def _with_spread(
    make: Callable[[], Ranker], fit_logistic: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> SpreadRanker:
    return SpreadRanker(make(), fit_logistic)


def _missing(jobs: Iterable[Job], prepared: Prepared, paths: dict[CellId, Path], progress: Progress) -> Iterator[Job]:
    """The jobs without a whole file on disk; where each cell lies, or will, is noted in `paths`."""
    for job in jobs:
        paths[job.id] = job.path
        if read_cell(job.path, prepared.data.decisions["test"].height) is None:
            yield job
        else:
            progress.advance()


def _run_all(jobs: Iterable[Job], n_workers: int, should_stop: Callable[[], bool], progress: Progress) -> int:
    """Run the jobs, and say how many; never more than a few wait, since each carries its pairs."""
    n = 0
    if n_workers == 1:
        for job in jobs:
            if should_stop():
                raise InterruptedRunError
            run_job(job)
            progress.advance()
            n += 1
        return n
    pending: set[Future[float]] = set()
    with ProcessPoolExecutor(n_workers, get_context("spawn"), initializer=_start_worker) as pool:
        for job in jobs:
            if should_stop():
                pool.shutdown(cancel_futures=True)
                raise InterruptedRunError
            pending.add(pool.submit(run_job, job))
            n += 1
            if len(pending) > n_workers:
                pending = _collect(pending, progress)
        while pending:
            pending = _collect(pending, progress)
    return n


def _collect(pending: set[Future[float]], progress: Progress) -> set[Future[float]]:
    done, left = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        try:
            future.result()  # an error of a worker is raised here
        except BrokenProcessPool as error:
            raise WorkerLostError from error
        progress.advance()
    return left


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    os.environ["OMP_NUM_THREADS"] = "1"


def _seeds(config: ExperimentConfig, cell: Cell) -> tuple[int, ...]:
    return config.seeds[:1] if cell.predictor in SEEDLESS else config.seeds


def _cell_id(data: str, cell: Cell, seed: int) -> CellId:
    return CellId(data, cell.predictor, cell.row, seed)
