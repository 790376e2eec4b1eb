"""`girl evaluate`: the ranking windows of a config, joined with the store's features and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from girl_features.config import GirlConfig, write_resolved
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.errors import ConfigError
from girl_features.evaluation.compare import LabelledPairs, RankingParts, compare_rows
from girl_features.evaluation.controls.columns import (
    TunedCosines,
    add_columns,
    author_warning,
    column_aucs,
    control_columns,
)
from girl_features.evaluation.plots import plot_gains
from girl_features.evaluation.report import write_markdown
from girl_features.evaluation.results import Comparison
from girl_features.generator.checkpoint import GeneratorRecord, read_record
from girl_features.generator.opening import find_generator, load_encoder, make_contract, trained_on_base
from girl_features.input.decision_texts import DecisionTexts, decisions_with_texts
from girl_features.input.splits import RankingSplit, Windows, check_no_leakage, cut_windows, ranking_split
from girl_features.input.tables import Tables, open_tables
from girl_features.machine import machine_description
from girl_features.pairs import join_pairs
from girl_features.progress import Progress, announce
from girl_features.ranker import PairColumns, Ranker
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID
from girl_features.store.parts import PartsStore
from girl_features.store.user_files import keep_out_of_git
from girl_features.tiers import stand_ins_of


class Evaluation(NamedTuple):
    """A comparison with the data and the generators behind it."""

    comparison: Comparison
    windows: Windows
    contracts: dict[str, FeatureContract]  # row name -> contract
    records: dict[str, GeneratorRecord]  # row name -> how its generator was trained


ROW_OF_STAGE = {stage: f"girl-{stage}" for stage in ("sft", "rloo", "grpo", "dpo")} | {"ppo": "girl"}  # GIRL's names


def run_evaluate(
    config: GirlConfig, make_ranker: Callable[[str, str, int], Ranker], tuned_cosines: TunedCosines | None = None
) -> Evaluation:
    """Train every predictor of the config with and without the generated JD, and compare them.

    The newest generator of each stage has a row if its features are in the store. With `generator.checkpoint` or
    `generator.stage` set, only that generator has one. With `evaluate.controls`, every row reads those columns too,
    base included, so that a gain is a gain over them. `tuned_cosines` is called for the column `tuned`.

    Raises:
        UnknownContractError: the generator in use has not been materialized yet.
        LeakageError: a generator was trained on decisions of the ranking windows.
    """
    predictors, seeds, n_bootstrap = config.evaluate.predictors, config.evaluate.seeds, config.evaluate.n_bootstrap
    if config.evaluate.controls:
        predictors = _reading_columns(predictors)
    generators = materialized_generators(config, load_encoder(config))
    with open_tables(config) as tables:
        windows = cut_windows(tables, config.windows)
        for contract, _ in generators.values():  # the contract's `trained_until` covers its reward model too
            check_no_leakage(windows, contract.trained_until)
        split = ranking_split(tables, windows)
        columns = _control_columns(config.evaluate.controls, tables, windows, split, tuned_cosines)
    announce(f"joining the features of {len(generators)} generators to the decisions")
    rows = {row: labelled_parts(config.feast_repo, contract, split) for row, (contract, _) in generators.items()}
    rows = {"base": next(iter(rows.values())), **rows}  # base rankers read no generated JD, so any contract serves
    if columns:
        rows = {row: add_columns(parts, columns) for row, parts in rows.items()}
    stand_ins = stand_ins_of(config.lookup, config.students_dir)
    with Progress("rankers", len(rows) * len(predictors) * len(seeds), "fits") as progress:
        comparison = compare_rows(
            config.name, rows, predictors, make_ranker, seeds, n_bootstrap, progress.advance, stand_ins=stand_ins
        )
    if columns:
        aucs = column_aucs(rows["base"].test, n_bootstrap)
        comparison.meta.update(controls=[row._asdict() for row in aucs], author_warning=author_warning(aucs))
    save_comparison(config, comparison)
    contracts = {row: contract for row, (contract, _) in generators.items()}
    return Evaluation(comparison, windows, contracts, {row: record for row, (_, record) in generators.items()})


def _reading_columns(predictors: tuple[str, ...]) -> tuple[str, ...]:
    """Return the predictors that read further columns, and say which do not."""
    plain = [name for name in predictors if name.endswith("-plain")]
    reading = tuple(name for name in predictors if name not in plain)
    if not reading:
        raise ConfigError(
            f"{', '.join(plain)} read the vectors alone, and no controls; add mlp, dot or lightgbm to "
            f"`evaluate.predictors`, or leave `evaluate.controls` out"
        )
    if plain:
        announce(f"left out, as they read vectors alone and no controls: {', '.join(plain)}")
    return reading


def _control_columns(
    names: tuple[str, ...], tables: Tables, windows: Windows, split: RankingSplit, tuned_cosines: TunedCosines | None
) -> list[PairColumns]:
    """Return these columns for the pairs of each ranking window; empty for no names."""
    if not names:
        return []
    history = DecisionTexts.of(decisions_with_texts(tables, None, windows.rl_end))
    parts = []
    for name, decisions in split._asdict().items():
        part = DecisionTexts.of(decisions_with_texts(tables, *windows.bounds(name)))
        same = [
            np.array_equal(ids, decisions[key])
            for key, ids in ((JOB_SEEKER_ID, part.job_seeker_ids), (JOB_ID, part.job_ids))
        ]
        assert all(same), "columns and vectors are of the same decisions, in the same order"
        parts.append(part)
    return control_columns(history, parts, names, windows.rl_end, tuned_cosines)


def materialized_generators(
    config: GirlConfig, encoder: TextEncoder
) -> dict[str, tuple[FeatureContract, GeneratorRecord]]:
    """Return row name -> contract and record of the generators to compare, earlier stages first; see `run_evaluate`."""
    store = PartsStore(config.store_dir)
    _, record = find_generator(config)
    contract = make_contract(config, record, encoder)
    store.contract(contract.fingerprint)
    by_stage = {record.stage: (contract, record)}
    if config.generator.checkpoint is None and config.generator.stage is None:
        for stage in ROW_OF_STAGE:
            folders = trained_on_base(config, stage).current
            if stage not in by_stage and folders:
                newest = read_record(folders[0])
                contract = make_contract(config, newest, encoder)
                if contract.fingerprint in store.contracts():
                    by_stage[stage] = (contract, newest)
    order = [*ROW_OF_STAGE, *(stage for stage in by_stage if stage not in ROW_OF_STAGE)]
    return {ROW_OF_STAGE.get(stage, f"girl-{stage}"): by_stage[stage] for stage in order if stage in by_stage}


def write_results_page(path: Path, evaluation: Evaluation, *, command: str) -> None:
    """Write the results page of `evaluation`, with its picture beside it."""
    plot = path.with_suffix(".png")
    plot_gains(evaluation.comparison, plot)
    ends = evaluation.windows._asdict()
    encoder = next(iter(evaluation.contracts.values())).encoder
    notes = [f"CVs and JDs are encoded by {encoder.name}, which reads their first {encoder.max_tokens} tokens."]
    for record in evaluation.records.values():
        if record.metrics:
            notes.append(f"Generator, stage {record.stage}: {record.training_text()}.")
        notes += record.notes
    write_markdown(
        path,
        evaluation.comparison,
        command=command,
        machine=machine_description(),
        date=datetime.now(UTC).date(),
        windows={name.removesuffix("_end"): f"until {end:%Y-%m-%d %H:%M} UTC" for name, end in ends.items()},
        contracts={row: _described(contract) for row, contract in evaluation.contracts.items()},
        notes=notes,
        plot=plot.name,
    )


def _described(contract: FeatureContract) -> str:
    sampling = contract.sampling
    best_of = f" (the best of {sampling.best_of} by a reward model)" if sampling.best_of else ""
    return (
        f"{contract.fingerprint}: {contract.generator}, weights {contract.weights_sha256[:12]}, prompt "
        f"{contract.prompt_version}, {sampling.n} JD(s) a CV{best_of} at temperature {sampling.temperature:g} "
        f"and top_p {sampling.top_p:g}, trained until {contract.trained_until:%Y-%m-%d}"
    )


def labelled_parts(feast_repo: Path, contract: FeatureContract, frames: Iterable[pl.DataFrame]) -> RankingParts:
    """Return features of one contract and outcomes of the decisions of each window, by a point-in-time join."""
    keys = [JOB_SEEKER_ID, JOB_ID, DECIDED_AT]
    return RankingParts(
        *(LabelledPairs.of(join_pairs(feast_repo, contract, frame.select(keys)), frame) for frame in frames)
    )


def save_comparison(config: GirlConfig, comparison: Comparison) -> Path:
    """Write the config and every score to a new folder of `runs/`, and return the folder.

    `girl erase` does not search these folders, so each seeker is a number there: it links the pairs of one seeker, but
    does not identify anyone.
    """
    keep_out_of_git(config.workspace)
    folder = config.workspace / "runs" / f"evaluate-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    write_resolved(config, folder / "girl.yaml")
    number = pl.col(JOB_SEEKER_ID).rank("dense").alias("seeker")
    comparison.scores.with_columns(number).drop(JOB_SEEKER_ID).write_parquet(folder / "scores.parquet")
    return folder
