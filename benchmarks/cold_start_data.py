"""Data sets of the cold-start benchmark: a simulated market with ideal generators, and the store of a config."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ideal_market import TEST_FROM, TRAIN_FROM, TRAIN_UNTIL, IdealMarket, ideal_market
from measuring import made_up_contract

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
from girl_features.sample.market import SPAN_DAYS
from girl_features.schema import Tier
from girl_features.store.parts import PartsStore
from girl_features.trainers.student import StudentData, read_student_data

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


def market_data(seed: int, n_blocks: int, encoder: SentenceTransformerEncoder, cache: Path) -> ColdStartData:
    """Simulate a market with two ideal generators, which write the best and the second-best job's JD of each CV."""
    market = ideal_market(n_blocks, seed)
    vectors = _encoded(market.texts, encoder, cache)
    decisions, versions = market.decisions, market.versions
    train_from, train_until, test_from = np.quantile(decisions.decided_at, (TRAIN_FROM, TRAIN_UNTIL, TEST_FROM))
    in_training = (decisions.decided_at >= train_from) & (decisions.decided_at < train_until)
    warm = np.unique(decisions.seeker[in_training])
    is_cold = ~np.isin(decisions.seeker, warm)
    ends = [train_from, train_until, test_from, SPAN_DAYS + 1]
    contract = made_up_contract("ideal", encoder.contract)
    second_contract = made_up_contract("second-best", encoder.contract)
    tested = np.unique(decisions.seeker[decisions.decided_at >= test_from])
    is_tested = np.isin(versions.seeker, tested)
    is_taught = (versions.updated_at < train_until) & (~is_tested | np.isin(versions.seeker, warm))
    taught = StudentData(
        versions.seeker[is_taught].tolist(), vectors[versions.cv[is_taught]], vectors[versions.best[is_taught]]
    )
    both = SharedCVs(
        versions.seeker[~is_tested], vectors[versions.second[~is_tested]], vectors[versions.best[~is_tested]]
    )
    return ColdStartData(
        f"market {seed}",
        True,
        _parts(market, vectors, decisions.best, is_cold, ends, contract),
        taught,
        contract,
        _parts(market, vectors, decisions.second, is_cold, ends, second_contract),
        both,
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


def _parts(
    market: IdealMarket,
    vectors: np.ndarray,
    generated: np.ndarray,
    is_cold: np.ndarray,
    ends: list[float],
    contract: FeatureContract,
) -> RankingParts:
    """Return the decisions in three windows of time, with `generated` as the JDs of the generator."""
    decisions = market.decisions
    tier = np.full(len(generated), Tier.GENERATED, np.int8)
    features = PairFeatures(
        vectors[decisions.cv], vectors[decisions.jd], vectors[generated], tier, contract.fingerprint
    )
    parts = []
    for low, high in pairwise(ends):
        rows = (decisions.decided_at >= low) & (decisions.decided_at < high)
        parts.append(LabelledPairs(features.take(rows), decisions.matched[rows], decisions.seeker[rows], is_cold[rows]))
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
