"""Fits of `girl experiment run`: rows x predictors x data x seeds, each kept on disk, then measured.

A fit's file is named by a hash of everything it depends on: vectors, labels, ids and texts of the pairs, contract, row,
predictor, seed, code and package versions. So a run that was killed continues where it stopped, and a change makes
only the fits anew that depend on it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from girl_features.errors import InterruptedRunError, WorkerLostError
from girl_features.evaluation.compare import RankingParts
from girl_features.evaluation.controls.columns import add_columns
from girl_features.evaluation.reference import ColumnRanker, CosineRanker
from girl_features.lab.experiment.code_version import code_hash, imported_sources
from girl_features.lab.experiment.config import BASELINE_ROW, ExperimentConfig
from girl_features.lab.experiment.data import text_parts
from girl_features.lab.experiment.fewer_labels import fewer_labels
from girl_features.lab.experiment.fits import FitId, FitTask, Parts, fit_path, parts_hash, read_fit, run_fit
from girl_features.lab.experiment.results import ExperimentResults, measure_data
from girl_features.lab.experiment.row_names import parse_row
from girl_features.lab.experiment.rows import (
    BASE_ROWS,
    ExperimentSteps,
    PreparedData,
    added_columns,
    baseline_vectors,
    row_features,
)
from girl_features.lab.experiment.several_jds import SpreadRanker
from girl_features.progress import Progress
from girl_features.ranker import PairColumns, Ranker, TextRanker

_FITTING_MODULES = (  # in addition to the modules of the steps
    "girl_features.evaluation.reference",
    "girl_features.lab.experiment.fewer_labels",
    "girl_features.lab.experiment.fits",
    "girl_features.lab.experiment.several_jds",
)


def run_experiment(
    config: ExperimentConfig,
    steps: ExperimentSteps,
    prepare: Callable[[str], PreparedData],
    *,
    n_workers: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
) -> ExperimentResults:
    """Make every fit that is not on disk, then measure all of them.

    `prepare` trains and materializes the generators of a data set and returns its windows. With one worker, this
    process fits. `should_stop` is asked before each fit.

    Raises:
        InterruptedRunError: `should_stop` returned True.
    """
    code = code_hash(imported_sources(fitting_modules(steps)))
    results, n_fits, n_kept = [], 0, 0
    for name in config.data:
        prepared = prepare(name)
        data_config = config.on(name).with_labels_below(len(prepared.base.train.labels))
        n_wanted = sum(len(config.seeds_of(cell.predictor)) for cell in data_config.cells)
        with Progress(f"fits on {name}", n_wanted, "fits") as progress:
            tasks = _fit_tasks(data_config, prepared, steps, code, should_stop)
            n_pairs = prepared.data.decisions["test"].height
            paths, n_made = _make_missing(tasks, n_pairs, n_workers, should_stop, progress)
        n_fits += n_made
        n_kept += len(paths) - n_made
        results.append(measure_data(data_config, prepared, paths))
    return ExperimentResults(config, results, n_fits, n_kept)


def fitting_modules(steps: ExperimentSteps) -> list[str]:
    """Return the modules that decide what a fit gives, apart from the features and texts it is given.

    How features and texts are made does not matter here, because their values are part of a fit's name. The values of
    the vectors that baselines read are not, so the encoder that makes those vectors is in the list.
    """
    makers = (steps.make_ranker, steps.make_baseline, steps.language_model_encoder)
    functions = [maker.func if isinstance(maker, partial) else maker for maker in makers]
    return [*_FITTING_MODULES, *(function.__module__ for function in functions)]


def _fit_tasks(
    config: ExperimentConfig, prepared: PreparedData, steps: ExperimentSteps, code: str, should_stop: Callable[[], bool]
) -> Iterator[FitTask]:
    """Yield the fits row by row, so that the features of one row are in memory at a time."""
    columns = added_columns(prepared, config.added, config.reference_generator, steps, should_stop)
    for features_row, same_features in groupby(config.cells, key=lambda cell: cell.row.partition("@")[0]):
        inputs = _row_inputs(features_row, config, prepared, columns, steps)  # once for all numbers of labels
        for row, row_cells in groupby(same_features, key=lambda cell: cell.row):
            cells, n_labels = list(row_cells), parse_row(row).n_labels
            for seed in dict.fromkeys(seed for cell in cells for seed in config.seeds_of(cell.predictor)):
                seeded = inputs.for_seed(seed, n_labels)
                for cell in cells:
                    if seed in config.seeds_of(cell.predictor):
                        fit = FitId(prepared.name, cell.predictor, row, seed)
                        path = fit_path(prepared.folder / "cells", fit, seeded.hash, code, inputs.settings)
                        yield FitTask(fit, path, inputs.make, seeded.parts)


class _SeededParts(NamedTuple):
    parts: Parts
    hash: str


class _RowInputs(NamedTuple):
    """Inputs of the fits of one row, with all labels."""

    whole: _SeededParts
    make: Callable[[str, int], Ranker | TextRanker]
    settings: str

    def for_seed(self, seed: int, n_labels: int | None) -> _SeededParts:
        """Return the parts for one seed, which chooses the seekers that hold `n_labels`; None is all seekers."""
        if n_labels is None or not isinstance(self.whole.parts, RankingParts):
            return self.whole
        parts = fewer_labels(self.whole.parts, n_labels, seed)
        return _SeededParts(parts, parts_hash(parts))


def _row_inputs(
    row: str, config: ExperimentConfig, prepared: PreparedData, columns: list[PairColumns], steps: ExperimentSteps
) -> _RowInputs:
    reference = prepared.generators[config.reference_generator] if config.reference_generator else None
    samples = prepared.generators[config.samples] if config.samples else None
    if row == BASELINE_ROW:
        assert reference is not None, "checked with the config"
        texts = text_parts(prepared.data, reference.texts)
        table = baseline_vectors(prepared, reference, config.baselines, steps)
        make = partial(steps.make_baseline, language_model=reference.folder, table=table)
        return _RowInputs(_SeededParts(texts, parts_hash(texts)), make, reference.contract.fingerprint)
    name = parse_row(row)
    form = "base" if name.features in BASE_ROWS else "enhanced"
    weighs_spread = name.features.startswith("dispersion-") and name.features not in prepared.generators
    parts = row_features(name.features, prepared, reference, samples, steps)
    if name.columns:
        parts = add_columns(parts, [part.only(name.columns) for part in columns])
    make_ranker = partial(_make_ranker, steps.make_ranker, form, weighs_spread)
    return _RowInputs(_SeededParts(parts, parts_hash(parts)), make_ranker, f"{form} {weighs_spread}")


def _make_ranker(
    make_ranker: Callable[[str, str, int], Ranker], form: str, weighs_spread: bool, predictor: str, seed: int
) -> Ranker:
    untrained: dict[str, Callable[[], Ranker]] = {"cosine": CosineRanker, "alone": ColumnRanker}
    ranker = untrained[predictor]() if predictor in untrained else make_ranker(predictor, form, seed)
    return SpreadRanker(ranker) if weighs_spread else ranker


def _make_missing(
    tasks: Iterable[FitTask], n_pairs: int, n_workers: int, should_stop: Callable[[], bool], progress: Progress
) -> tuple[dict[FitId, Path], int]:
    """Make the fits without a whole file on disk; return the files of all fits, and how many were made.

    Few tasks wait at a time, since each carries its pairs.
    """
    paths: dict[FitId, Path] = {}
    pending: set[Future[None]] = set()
    n_made = 0
    workers = ProcessPoolExecutor(n_workers, get_context("spawn"), initializer=_start_worker) if n_workers > 1 else None
    with workers or nullcontext() as pool:
        for task in tasks:
            paths[task.id] = task.path
            if read_fit(task.path, n_pairs) is not None:
                progress.advance()
                continue
            if should_stop():
                if pool is not None:
                    pool.shutdown(cancel_futures=True)
                raise InterruptedRunError
            n_made += 1
            if pool is None:
                run_fit(task)
                progress.advance()
                continue
            pending.add(pool.submit(run_fit, task))
            if len(pending) > n_workers:
                pending = _collect(pending, progress)
        while pending:
            pending = _collect(pending, progress)
    return paths, n_made


def _collect(pending: set[Future[None]], progress: Progress) -> set[Future[None]]:
    """Wait until a fit is finished, and return the others."""
    finished, unfinished = wait(pending, return_when=FIRST_COMPLETED)
    for future in finished:
        try:
            future.result()  # raises the error of a worker
        except BrokenProcessPool as error:
            raise WorkerLostError from error
        progress.advance()
    return unfinished


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    os.environ["OMP_NUM_THREADS"] = "1"
