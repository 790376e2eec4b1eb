"""`girl map`: map the vectors of a new contract to an old one, so that a ranker of the old contract can go on.

A new generator makes vectors that no ranker has been trained on. Seekers with a generated JD under both contracts
teach a linear map from the new vectors to the old ones. The mapped rows are stored under the old contract, and name
the map as their engine. The old ranker uses them until it is retrained. The report says what that costs: a ranker of
the old contract on mapped vectors is compared with a retrained ranker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from girl_features.batch.publish import publish_contract
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError, EmptyWindowError, require
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.evaluation.results import SliceMetrics, gains_over, make_slice, measure_slice
from girl_features.input.splits import cut_windows, ranking_split
from girl_features.input.tables import open_tables
from girl_features.lookup.vector_map import VectorMap
from girl_features.mapping.fit import SharedCVs, fit_map, read_shared_cvs, write_mapped
from girl_features.pairs import join_pairs
from girl_features.ranker import PairFeatures, Ranker
from girl_features.schema import Tier
from girl_features.store.parts import PartsStore
from girl_features.store.user_files import keep_out_of_git

MakeRanker = Callable[[str, str, int], Ranker]  # from predictor, form and seed


class MapLoss(NamedTuple):
    """AUC and log loss of a ranker of the old contract on mapped vectors, and of a ranker retrained on the new ones."""

    predictor: str
    n_pairs: int
    auc_old: float  # old ranker on vectors of the old contract
    auc_mapped: float
    auc_retrained: float
    auc_loss: float  # `auc_retrained` minus `auc_mapped`
    auc_loss_low: float | None
    auc_loss_high: float | None
    logloss_mapped: float
    logloss_retrained: float


class MapReport(NamedTuple):
    """Result of `girl map`."""

    from_contract: str
    to_contract: str
    kind: str
    n_seekers: int
    cosine: float
    cosine_unmapped: float | None
    n_rows: int  # written to the store
    losses: list[MapLoss]


def run_map(config: GirlConfig, source: FeatureContract, target: FeatureContract, make_ranker: MakeRanker) -> MapReport:
    """Fit the map from `source` to `target`, measure its loss, write the rows that `target` lacks, and publish.

    Raises:
        ConfigError: both contracts are the same.
        EmptyWindowError: too few seekers have vectors of both contracts, or a ranking window is empty.
        LeakageError: a generator has seen ranking decisions.
    """
    if source == target:
        raise ConfigError(f"both contracts are {source.fingerprint!r}; `girl contracts` lists those to map between")
    keep_out_of_git(config.workspace)
    store = PartsStore(config.store_dir)
    shared = read_shared_cvs(store, source, target)
    losses = measure_losses(config, shared, source, target, make_ranker)  # before mapped rows join the old ones
    fitted = fit_map(shared)
    with store.lock():
        n_rows = write_mapped(store, source, target, fitted.map, datetime.now(UTC))
    path = config.workspace / "maps" / f"{source.fingerprint}-to-{target.fingerprint}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    require("safetensors.numpy", "serve").save_file(fitted.map.arrays(), path)
    publish_contract(config, store, target)
    return MapReport(
        from_contract=source.fingerprint,
        to_contract=target.fingerprint,
        kind=fitted.kind,
        n_seekers=fitted.n_seekers,
        cosine=fitted.cosine,
        cosine_unmapped=fitted.cosine_unmapped,
        n_rows=n_rows,
        losses=losses,
    )


def measure_losses(
    config: GirlConfig, shared: SharedCVs, source: FeatureContract, target: FeatureContract, make_ranker: MakeRanker
) -> list[MapLoss]:
    """Measure the loss of each predictor in `evaluate:` on the test window.

    The measured map is fitted without the seekers of the test window.
    """
    with open_tables(config) as tables:
        split = ranking_split(tables, cut_windows(tables, config.windows))
    old, new = (
        RankingParts(*(LabelledPairs.of(join_pairs(config.feast_repo, contract, part), part) for part in split))
        for contract in (target, source)
    )
    mapping = fit_map(shared.take(~np.isin(shared.seeker_ids, old.test.seeker_ids))).map
    settings = config.evaluate
    return compare_mapped(old, new, mapping, settings.predictors, settings.seeds, settings.n_bootstrap, make_ranker)


def compare_mapped(
    old: RankingParts,
    new: RankingParts,
    mapping: VectorMap,
    predictors: Sequence[str],
    seeds: Sequence[int],
    n_bootstrap: int,
    make_ranker: MakeRanker,
) -> list[MapLoss]:
    """Compare rankers of the old contract on mapped vectors with rankers of the new contract, on the test part.

    `old` and `new` are the same pairs, with vectors of the old and the new contract; `mapping` maps new vectors to old.
    Results are averaged over `seeds`, and their intervals are from `n_bootstrap` resamples of the test seekers.
    """
    test = old.test
    mapped = with_mapped_vectors(test.features, new.test.features, mapping)
    part = make_slice("all", test.labels, test.seeker_ids, np.ones(len(test.labels), bool), n_bootstrap, 0)
    losses = []
    for predictor in predictors:
        old_scores, mapped_scores, retrained_scores = [], [], []
        for seed in seeds:
            ranker = _fitted(make_ranker(predictor, "enhanced", seed), old)
            old_scores.append(ranker.score(test.features))
            mapped_scores.append(ranker.score(mapped))
            retrained = _fitted(make_ranker(predictor, "enhanced", seed), new)
            retrained_scores.append(retrained.score(new.test.features))
        metrics = [measure_slice(np.stack(scores), part) for scores in (old_scores, mapped_scores, retrained_scores)]
        losses.append(_loss(predictor, len(part.labels), *metrics))
    return losses


def with_mapped_vectors(old: PairFeatures, new: PairFeatures, mapping: VectorMap) -> PairFeatures:
    """Return `old` with the generated vectors of `new`, mapped."""
    has_vector = new.has_generated_jd
    vectors = np.zeros((new.n_pairs, mapping.skip.shape[1]), np.float32)
    vectors[has_vector] = mapping(new.generated_jd[has_vector])
    return old._replace(generated_jd=vectors, tier=np.where(has_vector, Tier.GENERATED, Tier.PRIOR).astype(np.int8))


def _fitted(ranker: Ranker, parts: RankingParts) -> Ranker:
    ranker.fit(parts.train.features, parts.train.labels, parts.valid.features, parts.valid.labels)
    return ranker


def _loss(
    predictor: str, n_pairs: int, old: SliceMetrics | None, mapped: SliceMetrics | None, retrained: SliceMetrics | None
) -> MapLoss:
    if old is None or mapped is None or retrained is None:
        raise EmptyWindowError("the ranking test window has only one class; move `windows.valid_end`")
    gains = gains_over(retrained, mapped)
    assert gains.auc_gain is not None
    return MapLoss(
        predictor=predictor,
        n_pairs=n_pairs,
        auc_old=float(old.auc.mean()),
        auc_mapped=float(mapped.auc.mean()),
        auc_retrained=float(retrained.auc.mean()),
        auc_loss=gains.auc_gain,
        auc_loss_low=gains.auc_gain_low,
        auc_loss_high=gains.auc_gain_high,
        logloss_mapped=float(mapped.log_loss.mean()),
        logloss_retrained=float(retrained.log_loss.mean()),
    )
