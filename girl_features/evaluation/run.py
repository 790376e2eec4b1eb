"""`girl evaluate`: the ranking windows of a config, joined with the store's features and compared."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from girl_features.config import GirlConfig, write_resolved
from girl_features.contract import FeatureContract
from girl_features.evaluation.compare import Comparison, LabelledPairs, RankingParts, compare_rows
from girl_features.pairs import join_pairs
from girl_features.pipeline import check_no_leakage, contract_of, find_generator, open_encoder, open_tables, windows_of
from girl_features.progress import Progress
from girl_features.ranker import Ranker
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID, MATCHED
from girl_features.splits import Windows, ranking_split
from girl_features.store.parts import PartsStore


class Outcome(NamedTuple):
    """A comparison with what it was made from."""

    comparison: Comparison
    windows: Windows
    contracts: dict[str, FeatureContract]  # row name -> contract
    parts: dict[str, RankingParts]  # row name -> what its rankers saw


def run_evaluate(config: GirlConfig, make_ranker: Callable[[str, str, int], Ranker]) -> Outcome:
    """Train every predictor of the config with and without the generated JD, and compare them.

    Raises:
        UnknownContractError: the generator in use has not been materialized yet.
        LeakageError: the generator has seen decisions of the ranking windows.
    """
    _, record = find_generator(config)
    contract = contract_of(config, record, open_encoder(config))
    PartsStore(config.store_dir).contract(contract.fingerprint)
    with open_tables(config) as tables:
        windows = windows_of(config, tables)
        check_no_leakage(windows, record)
        split = ranking_split(tables, windows)
    parts = RankingParts(*(_labelled(config, contract, decisions) for decisions in split))
    row = f"girl-{record.stage}"
    rows = {"base": parts, row: parts}
    settings = config.evaluate
    fits = (2 * len(settings.predictors)) * len(settings.seeds)
    with Progress("rankers", fits, "fits") as progress:
        comparison = compare_rows(
            config.name,
            rows,
            settings.predictors,
            make_ranker,
            settings.seeds,
            settings.n_bootstrap,
            progress=progress.advance,
        )
    _save(config, comparison)
    return Outcome(comparison, windows, {row: contract}, rows)


def _labelled(config: GirlConfig, contract: FeatureContract, decisions: pl.DataFrame) -> LabelledPairs:
    keys = decisions.select(JOB_SEEKER_ID, JOB_ID, DECIDED_AT)
    return LabelledPairs(
        join_pairs(config.feast_repo, contract, keys),
        decisions[MATCHED].to_numpy(),
        decisions[JOB_SEEKER_ID].to_numpy().astype(np.str_),
        decisions["is_cold_start"].to_numpy(),
    )


def _save(config: GirlConfig, comparison: Comparison) -> Path:
    folder = config.workspace / "runs" / f"evaluate-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    write_resolved(config, folder / "girl.yaml")
    comparison.scores.write_parquet(folder / "scores.parquet")
    return folder
