"""A map between two contracts' vectors, for a ranker that is still of the older one.

A new generator makes vectors that no ranker has been trained on. Seekers who have a generated JD under both contracts
teach a linear map from the new vectors to the old; mapped rows go into the store under the old contract, and the ranker
goes on until it is trained again. A mapped row names its map as its engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from girl_features.batch.publish import publish_contract
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError, EmptyWindowError, require
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.evaluation.results import EvaluationSlice, gains_over, make_slice, measure
from girl_features.input.splits import cut_windows, ranking_split
from girl_features.input.tables import open_tables
from girl_features.lookup.vector_map import VectorMap, fit_ridge, mean_cosine
from girl_features.mapping.rows import write_mapped
from girl_features.pairs import join_pairs
from girl_features.ranker import PairFeatures, Ranker
from girl_features.schema import (
    ENGINE,
    GENERATED_JD_VECTOR,
    JOB_SEEKER_ID,
    Tier,
)
from girl_features.sql import connected
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import GENERATED_JDS, vectors_of

MIN_SEEKERS = 50
HELD_OUT = 5  # one seeker in so many measures the map
MakeRanker = Callable[[str, str, int], Ranker]


class Both(NamedTuple):
    """n CVs with a generated JD under both contracts."""

    seeker_ids: np.ndarray  # (n,) str
    from_vectors: np.ndarray  # (n, d_from) float32
    to_vectors: np.ndarray  # (n, d_to) float32


class Mapped(NamedTuple):
    """A map and how near it comes, on seekers it was not fitted on."""

    map: VectorMap
    kind: str  # "ridge" or "orthogonal"
    n_seekers: int
    cosine: float  # of mapped and true vectors, mean
    cosine_unmapped: float | None  # of the vectors as they are, where the dimensions agree


class MapLoss(NamedTuple):
    """AUC and LogLoss of a ranker of the old contract on mapped vectors, beside one trained again on the new ones."""

    predictor: str
    n_pairs: int
    auc_old: float  # the old ranker on the old contract's own vectors
    auc_mapped: float
    auc_retrained: float
    auc_loss: float  # retrained less mapped: what not training again costs
    auc_loss_low: float | None
    auc_loss_high: float | None
    logloss_mapped: float
    logloss_retrained: float


class MapReport(NamedTuple):
    """What `girl map` did."""

    from_contract: str
    to_contract: str
    kind: str
    n_seekers: int
    cosine: float
    cosine_unmapped: float | None
    n_rows: int  # written
    losses: list[MapLoss]


def run_map(config: GirlConfig, source: FeatureContract, target: FeatureContract, make_ranker: MakeRanker) -> MapReport:
    """Learn the map from `source` to `target`, measure its loss, write what `target` lacks, and publish.

    Raises:
        ConfigError: twice the same contract.
        EmptyWindowError: too few seekers have vectors of both, or a ranking window is empty.
        LeakageError: a generator has seen ranking decisions.
    """
    if source == target:
        raise ConfigError(f"both contracts are {source.fingerprint!r}; `girl contracts` lists those to map between")
    store = PartsStore(config.store_dir)
    both = read_both(store, source, target)
    losses = measure_losses(config, both, source, target, make_ranker)  # before mapped rows are joined too
    fitted = fit_map(both)
    with store.lock():
        n_rows = write_mapped(store, source, target, fitted.map, datetime.now(UTC))
    require("safetensors.numpy", "serve").save_file(fitted.map.arrays(), _map_file(config, source, target))
    publish_contract(config, store, target)
    return MapReport(source.fingerprint, target.fingerprint, *fitted[1:], n_rows, losses)


def read_both(store: PartsStore, source: FeatureContract, target: FeatureContract) -> Both:
    """The CVs that were generated for under both contracts; rows that are mapped themselves teach nothing.

    Raises:
        EmptyWindowError: of fewer than MIN_SEEKERS seekers.
    """
    relations = [store.scan(GENERATED_JDS, contract.fingerprint) for contract in (source, target)]
    table = None
    if all(relations):
        with connected() as connection:
            table = connection.execute(
                f"""SELECT ours.{JOB_SEEKER_ID} AS id, ours.{GENERATED_JD_VECTOR} AS ours,
                    theirs.{GENERATED_JD_VECTOR} AS theirs
                FROM {relations[0]} AS ours JOIN {relations[1]} AS theirs USING (job_seeker_id, cv_hash)
                WHERE NOT starts_with(ours.{ENGINE}, 'map:') AND NOT starts_with(theirs.{ENGINE}, 'map:')
                QUALIFY row_number() OVER (PARTITION BY id, cv_hash ORDER BY ours.updated_at, theirs.updated_at) = 1
                ORDER BY id, ours.updated_at"""
            ).to_arrow_table()
    n_seekers = 0 if table is None else len(table["id"].unique())
    if table is None or n_seekers < MIN_SEEKERS:
        raise EmptyWindowError(
            f"{n_seekers} seekers have vectors of both {source.fingerprint!r} and {target.fingerprint!r}, but a map "
            f"needs {MIN_SEEKERS} to learn from; materialize some CVs under both"
        )
    vectors = [
        vectors_of(table[name], contract.encoder.dimension) for name, contract in (("ours", source), ("theirs", target))
    ]
    return Both(np.array(table["id"].to_pylist(), np.str_), *vectors)


def fit_map(both: Both) -> Mapped:
    """The better of a ridge regression and a rotation, by the cosine on one in HELD_OUT seekers."""
    held = _is_held_out(both.seeker_ids)
    x, y = both.from_vectors, both.to_vectors
    ridge = fit_ridge(x[~held], y[~held], (x[held], y[held]))
    kind, best, cosine = "ridge", ridge.map, ridge.cosine
    unmapped = None
    if x.shape[1] == y.shape[1]:
        rotation = fit_rotation(x[~held], y[~held])
        unmapped = mean_cosine(x[held], y[held])
        if (turned := mean_cosine(rotation(x[held]), y[held])) > cosine:
            kind, best, cosine = "orthogonal", rotation, turned
    return Mapped(best, kind, len(set(both.seeker_ids.tolist())), cosine, unmapped)


def fit_rotation(inputs: np.ndarray, targets: np.ndarray) -> VectorMap:
    """The rotation or reflection of the centred (n, d) `inputs` that comes nearest to `targets` (Procrustes)."""
    centre, mean = inputs.mean(axis=0, dtype=np.float64), targets.mean(axis=0, dtype=np.float64)
    left, _, right = np.linalg.svd((inputs - centre).T @ (targets - mean))
    skip = left @ right
    return VectorMap.linear(skip, mean - centre @ skip, float(np.linalg.norm(targets, axis=1).mean()))


def measure_losses(
    config: GirlConfig, both: Both, source: FeatureContract, target: FeatureContract, make_ranker: MakeRanker
) -> list[MapLoss]:
    """What mapped vectors cost each predictor of `evaluate:` on the test window, against training again.

    The map that is measured has seen no seeker of the test window.
    """
    with open_tables(config) as tables:
        split = ranking_split(tables, cut_windows(tables, config.windows))
    old, new = (
        [LabelledPairs.of(join_pairs(config.feast_repo, contract, part), part) for part in split]
        for contract in (target, source)
    )
    unseen = ~np.isin(both.seeker_ids, old[2].seeker_ids)
    mapping = fit_map(Both(*(column[unseen] for column in both))).map
    settings = config.evaluate
    return compare_mapped(
        RankingParts(*old),
        RankingParts(*new),
        mapping,
        settings.predictors,
        settings.seeds,
        settings.n_bootstrap,
        make_ranker,
    )


def compare_mapped(
    old: RankingParts,
    new: RankingParts,
    mapping: VectorMap,
    predictors: Sequence[str],
    seeds: Sequence[int],
    n_bootstrap: int,
    make_ranker: MakeRanker,
) -> list[MapLoss]:
    """Rankers of the old contract on mapped vectors of the new one, and rankers of the new one, on the test part.

    Args:
        old: the same pairs with the old contract's vectors ...
        new: ... and with the new one's.
        mapping: from the new vectors to the old.
        predictors: names that `make_ranker` knows.
        seeds: of the rankers.
        n_bootstrap: resamples of the test seekers.
        make_ranker: (predictor, form, seed) to a fresh ranker.
    """
    mapped = as_mapped(old.test.features, new.test.features, mapping)
    everything = np.ones(len(old.test.labels), bool)
    part = make_slice("all", old.test.labels, old.test.seeker_ids, everything, n_bootstrap, 0)
    losses = []
    for predictor in predictors:
        scores: dict[str, list[np.ndarray]] = {"old": [], "mapped": [], "retrained": []}
        for seed in seeds:
            ranker = make_ranker(predictor, "enhanced", seed)
            ranker.fit(old.train.features, old.train.labels, old.valid.features, old.valid.labels)
            scores["old"].append(ranker.score(old.test.features))
            scores["mapped"].append(ranker.score(mapped))
            again = make_ranker(predictor, "enhanced", seed)
            again.fit(new.train.features, new.train.labels, new.valid.features, new.valid.labels)
            scores["retrained"].append(again.score(new.test.features))
        losses.append(_loss(predictor, scores, part))
    return losses


def as_mapped(old: PairFeatures, new: PairFeatures, mapping: VectorMap) -> PairFeatures:
    """The pairs of the old contract with the new one's vectors, mapped, as their generated vectors."""
    has = new.has_generated_jd
    vectors = np.zeros((new.n_pairs, mapping.skip.shape[1]), np.float32)
    vectors[has] = mapping(new.generated_jd[has])
    return old._replace(generated_jd=vectors, tier=np.where(has, Tier.GENERATED, Tier.PRIOR).astype(np.int8))


def _loss(predictor: str, scores: dict[str, list[np.ndarray]], part: EvaluationSlice) -> MapLoss:
    old, mapped, retrained = (measure(np.stack(own), part) for own in scores.values())
    if old is None or mapped is None or retrained is None:
        raise EmptyWindowError("the ranking test window holds one class only; move `windows.valid_end`")
    gains = gains_over(retrained, mapped)
    assert gains.auc_gain is not None
    return MapLoss(
        predictor,
        len(part.labels),
        float(old.auc.mean()),
        float(mapped.auc.mean()),
        float(retrained.auc.mean()),
        gains.auc_gain,
        gains.auc_gain_low,
        gains.auc_gain_high,
        float(mapped.log_loss.mean()),
        float(retrained.log_loss.mean()),
    )


def _is_held_out(seeker_ids: np.ndarray) -> np.ndarray:
    """(n,) bool: one seeker in HELD_OUT, by hash of the id."""
    return np.array([hashlib.sha256(name.encode()).digest()[0] % HELD_OUT == 0 for name in seeker_ids.tolist()], bool)


def _map_file(config: GirlConfig, source: FeatureContract, target: FeatureContract) -> Path:
    folder = config.workspace / "maps"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{source.fingerprint}-to-{target.fingerprint}.safetensors"
