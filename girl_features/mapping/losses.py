"""Measure what mapped vectors cost: a ranker of the old contract on mapped vectors, against a retrained ranker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.errors import EmptyWindowError
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.evaluation.results import EvaluationSlice, gains_over, make_slice, measure_slice
from girl_features.input.splits import cut_windows, ranking_split
from girl_features.input.tables import open_tables
from girl_features.lookup.vector_map import VectorMap
from girl_features.mapping.fit import SharedCVs, fit_map
from girl_features.pairs import join_pairs
from girl_features.ranker import PairFeatures, Ranker
from girl_features.schema import Tier

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

    Args:
        old: pairs with vectors of the old contract.
        new: the same pairs with vectors of the new contract.
        mapping: map from the new vectors to the old.
        predictors: predictor names for `make_ranker`.
        seeds: seeds of the rankers; results are averaged.
        n_bootstrap: bootstrap resamples of the test seekers.
        make_ranker: makes an untrained ranker from a predictor, a form and a seed.
    """
    mapped = with_mapped_vectors(old.test.features, new.test.features, mapping)
    all_rows = np.ones(len(old.test.labels), bool)
    part = make_slice("all", old.test.labels, old.test.seeker_ids, all_rows, n_bootstrap, 0)
    losses = []
    for predictor in predictors:
        old_scores, mapped_scores, retrained_scores = [], [], []
        for seed in seeds:
            ranker = _fitted(make_ranker(predictor, "enhanced", seed), old)
            old_scores.append(ranker.score(old.test.features))
            mapped_scores.append(ranker.score(mapped))
            retrained = _fitted(make_ranker(predictor, "enhanced", seed), new)
            retrained_scores.append(retrained.score(new.test.features))
        losses.append(_loss(predictor, old_scores, mapped_scores, retrained_scores, part))
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
    predictor: str,
    old_scores: list[np.ndarray],
    mapped_scores: list[np.ndarray],
    retrained_scores: list[np.ndarray],
    part: EvaluationSlice,
) -> MapLoss:
    old, mapped, retrained = (
        measure_slice(np.stack(scores), part) for scores in (old_scores, mapped_scores, retrained_scores)
    )
    if old is None or mapped is None or retrained is None:
        raise EmptyWindowError("the ranking test window has only one class; move `windows.valid_end`")
    gains = gains_over(retrained, mapped)
    assert gains.auc_gain is not None
    return MapLoss(
        predictor=predictor,
        n_pairs=len(part.labels),
        auc_old=float(old.auc.mean()),
        auc_mapped=float(mapped.auc.mean()),
        auc_retrained=float(retrained.auc.mean()),
        auc_loss=gains.auc_gain,
        auc_loss_low=gains.auc_gain_low,
        auc_loss_high=gains.auc_gain_high,
        logloss_mapped=float(mapped.log_loss.mean()),
        logloss_retrained=float(retrained.log_loss.mean()),
    )
