"""Data sets of the cold-start benchmark: a simulated market with ideal generators, and the store of a config.

For each CV the ideal generator writes the JD of the job that fits the CV best by the planted law. The job is from
another block of the market than the seeker's, so that its JD is never the text under decision.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from measuring import made_up_contract
from polars import selectors

from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.encoder import SentenceTransformerEncoder
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.input.splits import cut_windows, ranking_split
from girl_features.input.tables import open_tables
from girl_features.mapping.fit import SharedCVs
from girl_features.pairs import join_pairs
from girl_features.progress import Progress
from girl_features.ranker import PairFeatures
from girl_features.sample.market import BLOCK_SEEKERS, SPAN_DAYS, Jobs, People, simulate_block, true_fit
from girl_features.sample.tables import block_tables
from girl_features.schema import CV, JD, JOB_SEEKER_ID, Tier
from girl_features.store.parts import PartsStore
from girl_features.trainers.student import StudentData, read_student_data

TRAIN_FROM, TRAIN_UNTIL, TEST_FROM = 0.55, 0.82, 0.88  # shares of the decisions, by time: the default windows
ENCODED_AT_ONCE = 256


class ColdStartData(NamedTuple):
    """One data set, split by time, and what a student may learn from."""

    name: str
    is_simulation: bool
    parts: RankingParts
    taught: StudentData  # without the test part's cold-start seekers
    contract: FeatureContract
    second_parts: RankingParts | None = None  # the same pairs under a second generator
    both: SharedCVs | None = None  # CVs under both generators, without seekers of the test part


class IdealMarket(NamedTuple):
    """A simulated market with the JDs of its ideal generators; texts are row numbers of `texts`, times are days."""

    texts: list[str]  # each once
    versions: pl.DataFrame  # of CVs: job_seeker_id, cv, best (JD), second (JD of the second-best job), updated_at
    decisions: pl.DataFrame  # the same of the decision's CV version, jd, matched, decided_at


def market_data(seed: int, n_blocks: int, encoder: SentenceTransformerEncoder, cache: Path) -> ColdStartData:
    """Simulate a market with two ideal generators, which write the best and the second-best job's JD of each CV."""
    texts, versions, decisions = ideal_market(n_blocks, seed)
    vectors = _encoded(texts, encoder, cache)
    train_from, train_until, test_from = np.quantile(decisions["decided_at"], (TRAIN_FROM, TRAIN_UNTIL, TEST_FROM))
    decided_at, seeker = pl.col("decided_at"), pl.col(JOB_SEEKER_ID)
    warm = decisions.filter(decided_at >= train_from, decided_at < train_until)[JOB_SEEKER_ID].to_list()
    tested = decisions.filter(decided_at >= test_from)[JOB_SEEKER_ID].to_list()
    decisions = decisions.with_columns(is_cold_start=~seeker.is_in(warm))
    taught = versions.filter(pl.col("updated_at") < train_until, ~seeker.is_in(tested) | seeker.is_in(warm))
    untested = versions.filter(~seeker.is_in(tested))
    contract = made_up_contract("ideal", encoder.contract)
    second_contract = made_up_contract("second-best", encoder.contract)
    ends = [train_from, train_until, test_from, SPAN_DAYS + 1]
    untested_seekers = untested[JOB_SEEKER_ID].to_numpy().astype(np.str_)
    return ColdStartData(
        f"market {seed}",
        True,
        _parts(decisions, vectors, "best", ends, contract),
        StudentData(taught[JOB_SEEKER_ID].to_list(), vectors[taught["cv"]], vectors[taught["best"]]),
        contract,
        _parts(decisions, vectors, "second", ends, second_contract),
        SharedCVs(untested_seekers, vectors[untested["second"]], vectors[untested["best"]]),
    )


def stored_data(config: GirlConfig) -> ColdStartData:
    """Read the ranking windows of a config, joined to the vectors of its store's newest contract."""
    store = PartsStore(config.store_dir)
    contract = store.newest_contract()
    with open_tables(config) as tables:
        split = ranking_split(tables, cut_windows(tables, config.windows))
    parts = RankingParts(*(LabelledPairs.of(join_pairs(config.feast_repo, contract, part), part) for part in split))
    cold = parts.test.seeker_ids[parts.test.is_cold_start]
    taught = read_student_data(store, contract, config.student.max_rows)
    taught = taught.take(np.flatnonzero(~np.isin(np.array(taught.seeker_ids), cold)))
    return ColdStartData(config.name, False, parts, taught, contract)


def ideal_market(n_blocks: int, seed: int) -> IdealMarket:
    """Simulate a market of `n_blocks` blocks, at least two."""
    blocks = [simulate_block(seed, block) for block in range(n_blocks)]
    tables = [block_tables(seed, block, BLOCK_SEEKERS, 0) for block in range(n_blocks)]
    all_versions, all_decisions = [], []
    for block, market in enumerate(blocks):
        other = (block + 1) % n_blocks
        best_jobs = _jobs_by_fit(market.versions.people, blocks[other].jobs)[:, :2]
        other_jds = pl.Series(tables[other]["jobs"][JD])
        versions = pl.DataFrame(
            {
                JOB_SEEKER_ID: [f"{block}-{i}" for i in market.versions.seeker.tolist()],
                "cv": pl.Series(tables[block]["job_seekers"][CV]),
                "best": other_jds.gather(best_jobs[:, 0]),
                "second": other_jds.gather(best_jobs[:, 1]),
                "updated_at": market.versions.updated_at,
            }
        )
        decisions = versions[market.decisions.version].with_columns(
            jd=pl.Series(tables[block]["jobs"][JD]).gather(market.decisions.job),
            matched=pl.Series(market.decisions.matched),
            decided_at=pl.Series(market.decisions.decided_at),
        )
        all_versions.append(versions)
        all_decisions.append(decisions)
    versions, decisions = pl.concat(all_versions), pl.concat(all_decisions)
    texts = pl.concat([versions["cv"], versions["best"], versions["second"], decisions["jd"]])
    texts = texts.unique(maintain_order=True)
    numbers = (selectors.string() - selectors.by_name(JOB_SEEKER_ID)).replace_strict(texts, np.arange(len(texts)))
    return IdealMarket(texts.to_list(), versions.with_columns(numbers), decisions.with_columns(numbers))


def _jobs_by_fit(people: People, jobs: Jobs) -> np.ndarray:
    """Return (n people, n jobs) numbers of the jobs, the best first."""
    rows = People(*(column[:, None] for column in people))
    columns = Jobs(*(column[None, :] for column in jobs))
    return np.argsort(-true_fit(rows, columns), axis=1, kind="stable")


def _parts(
    decisions: pl.DataFrame, vectors: np.ndarray, generated: str, ends: list[float], contract: FeatureContract
) -> RankingParts:
    """Return the decisions in three windows of time, with the JDs of the column `generated` as the generator's."""
    parts = []
    for start, end in pairwise(ends):
        rows = decisions.filter(pl.col("decided_at") >= start, pl.col("decided_at") < end)
        tier = np.full(len(rows), Tier.GENERATED, np.int8)
        features = PairFeatures(
            vectors[rows["cv"]], vectors[rows["jd"]], vectors[rows[generated]], tier, contract.fingerprint
        )
        parts.append(LabelledPairs.of(features, rows))
    return RankingParts(*parts)


def _encoded(texts: list[str], encoder: SentenceTransformerEncoder, cache: Path) -> np.ndarray:
    """Return (n, d) vectors of the texts. They are kept in the folder `cache` under a hash of the texts."""
    text_hash = hashlib.sha256("\0".join([encoder.contract.fingerprint, *texts]).encode()).hexdigest()
    path = cache / f"{text_hash[:16]}.npy"
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False))
    batches = []
    with Progress("encode", len(texts), "texts") as progress:
        for start in range(0, len(texts), ENCODED_AT_ONCE):
            batches.append(encoder.encode(texts[start : start + ENCODED_AT_ONCE]).vectors)
            progress.advance(len(batches[-1]))
    vectors = np.concatenate(batches)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(path, vectors, allow_pickle=False)
    return vectors
