"""The same pairs, ranked without and with the generated JD: tables III and IV of GIRL, with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import polars as pl

from girl_features.errors import ConfigError, ShapeError, UndefinedMetricError
from girl_features.evaluation.reference import CosineRanker
from girl_features.evaluation.results import BASE, DEFINITIONS, Comparison, make_result, make_slice, measure_slice
from girl_features.ranker import PairFeatures, Ranker
from girl_features.schema import JOB_SEEKER_ID, MATCHED, Tier
from girl_features.tiers import CAVEAT, StandIns, at_tier, prior_alone

COSINE = "cosine"


class LabelledPairs(NamedTuple):
    """Features and outcomes of n pairs."""

    features: PairFeatures
    labels: np.ndarray  # (n,) bool: matched
    seeker_ids: np.ndarray  # (n,) str
    is_cold_start: np.ndarray  # (n,) bool: the seeker has no interactions in the training window

    @classmethod
    def of(cls, features: PairFeatures, decisions: pl.DataFrame) -> LabelledPairs:
        """Return the features of the n `decisions` of a ranking window with their outcomes."""
        seeker_ids = decisions[JOB_SEEKER_ID].to_numpy().astype(np.str_)
        return cls(features, decisions[MATCHED].to_numpy(), seeker_ids, decisions["is_cold_start"].to_numpy())

    def counts(self) -> dict[str, int]:
        """Return the numbers of pairs and of seekers, and of pairs of each kind."""
        return {
            "n": len(self.labels),
            "n_matched": int(self.labels.sum()),
            "n_seekers": len(np.unique(self.seeker_ids)),
            "n_cold_start": int(self.is_cold_start.sum()),
            "n_with_generated_jd": int(self.features.has_generated_jd.sum()),
        }


class RankingParts(NamedTuple):
    """The three windows on which a ranker is trained, calibrated and evaluated."""

    train: LabelledPairs
    valid: LabelledPairs
    test: LabelledPairs


def compare_rows(
    data: str,
    splits: Mapping[str, RankingParts],
    predictors: Sequence[str],
    make_ranker: Callable[[str, str, int], Ranker],
    seeds: Sequence[int],
    n_bootstrap: int = 1000,
    progress: Callable[[int], object] = lambda n_fits: None,
    bootstrap_seed: int = 0,
    stand_ins: StandIns = prior_alone,
) -> Comparison:
    """Train every predictor on every row with every seed, and compare each row with base on the test part.

    `splits` has the parts of each row, `base` and at least one more, all of the same pairs in the same order.
    `make_ranker` makes an unfitted ranker from predictor, form (`base` or `enhanced`) and seed. The untrained `cosine`
    is added as a base-only reference. Metrics are averaged over the seeds. `progress` is called with 1 after each fit.
    Each lower tier of a look-up that `stand_ins` gives features for is a slice of its own, `tier_prior` ...

    Raises:
        ConfigError: nothing to compare, repeated predictors or seeds, or `cosine` among the predictors.
        ShapeError: rows hold different pairs, or a ranker returns the wrong number of scores.
        UndefinedMetricError: a ranker returns something other than probabilities.
    """
    _check_settings(splits, predictors, seeds, n_bootstrap)
    _check_same_pairs(splits)
    test = splits[BASE].test
    cells, tier_cells = _score_all(splits, predictors, make_ranker, seeds, progress, stand_ins)
    masks = {"all": np.ones(len(test.labels), dtype=bool), "cold": test.is_cold_start.astype(bool)}
    slices = [
        make_slice(name, test.labels, test.seeker_ids, mask, n_bootstrap, bootstrap_seed)
        for name, mask in masks.items()
    ]
    measured = {pairs.name: {cell: measure_slice(scores, pairs) for cell, scores in cells.items()} for pairs in slices}
    rows = []
    for pairs in slices:
        for cell, metrics in measured[pairs.name].items():
            base = measured[pairs.name][cell[0], BASE]
            rows.append(make_result(data, cell, pairs, metrics, base, len(cells[cell])))
    tier_rows = []
    for (predictor, row, tier), scores in tier_cells.items():
        pairs = slices[0]._replace(name=f"tier_{tier.name.lower()}")
        base = measured["all"][predictor, BASE]
        tier_rows.append(make_result(data, (predictor, row), pairs, measure_slice(scores, pairs), base, len(scores)))
    meta = {
        "data": data,
        "seeds": list(seeds),
        "n_bootstrap": n_bootstrap,
        "bootstrap_seed": bootstrap_seed,
        "n_redrawn": {s.name: s.resamples.n_redrawn if s.resamples else None for s in slices},
        "contracts": {row: parts.test.features.contract for row, parts in splits.items()},
        "parts": {name: part.counts() for name, part in splits[BASE]._asdict().items()},
        "definitions": DEFINITIONS,
    }
    if {Tier.STUDENT, Tier.NEIGHBOURS} & {tier for _, _, tier in tier_cells}:
        meta["tiers"] = CAVEAT
    return Comparison(rows, meta, _score_frame(data, cells, test, seeds), tier_rows)


def check_scores(scores: np.ndarray, n_pairs: int, name: str) -> np.ndarray:
    """Return a ranker's scores as (n,) float64, having checked that they are one probability for each pair.

    Raises:
        ShapeError: another number of scores; the message names the ranker.
        UndefinedMetricError: a score outside 0 to 1, or not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (n_pairs,):
        raise ShapeError(f"{name} returned scores of shape {scores.shape}, wanted {(n_pairs,)}")
    if not ((scores >= 0) & (scores <= 1)).all():  # False for NaN too
        raise UndefinedMetricError(f"{name} returned scores that are not probabilities from 0 to 1")
    return scores


def _check_settings(
    splits: Mapping[str, RankingParts], predictors: Sequence[str], seeds: Sequence[int], n_bootstrap: int
) -> None:
    if BASE not in splits or len(splits) < 2:
        raise ConfigError(f"a comparison needs the row {BASE!r} and one more, found {sorted(splits)}")
    for what, values in (("predictors", predictors), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"evaluate.{what} must be one or more distinct values, found {list(values)}")
    if COSINE in predictors:
        raise ConfigError(f"{COSINE!r} is always evaluated, as the reference; leave it out of the predictors")
    if n_bootstrap < 100:
        raise ConfigError(f"evaluate.n_bootstrap is {n_bootstrap}; a 95 % interval needs 100 resamples or more")


def _check_same_pairs(splits: Mapping[str, RankingParts]) -> None:
    for row, parts in splits.items():
        for name, part, base_part in zip(RankingParts._fields, parts, splits[BASE], strict=True):
            n = part.features.n_pairs
            for field in ("labels", "seeker_ids", "is_cold_start"):
                values = getattr(part, field)
                if values.shape != (n,):
                    raise ShapeError(f"row {row!r}, {name} part: {field} has shape {values.shape} for {n} pairs")
                if not np.array_equal(values, getattr(base_part, field)):
                    raise ShapeError(
                        f"the {name} parts of rows {BASE!r} and {row!r} differ in {field}; "
                        f"build both from the same interactions in the same order"
                    )


def _score_all(
    splits: Mapping[str, RankingParts],
    predictors: Sequence[str],
    make_ranker: Callable[[str, str, int], Ranker],
    seeds: Sequence[int],
    progress: Callable[[int], object],
    stand_ins: StandIns,
) -> tuple[dict[tuple[str, str], np.ndarray], dict[tuple[str, str, Tier], np.ndarray]]:
    """Return (predictor, row) -> (s, n) test probabilities of s seeds (the cosine has one), and the same by tier."""
    cells = defaultdict(list, {(COSINE, BASE): [_fit_and_score(CosineRanker(), splits[BASE], "the cosine")]})
    tier_cells: dict[tuple[str, str, Tier], list[np.ndarray]] = defaultdict(list)
    lower_tiers = {row: {} if row == BASE else stand_ins(parts.test.features) for row, parts in splits.items()}
    for predictor, (row, parts), seed in product(predictors, splits.items(), seeds):
        name = f"ranker {predictor!r}, row {row!r}, seed {seed}"
        ranker = make_ranker(predictor, BASE if row == BASE else "enhanced", seed)
        cells[predictor, row].append(_fit_and_score(ranker, parts, name))
        for tier, vectors in lower_tiers[row].items():
            features = at_tier(parts.test.features, tier, vectors)
            tier_cells[predictor, row, tier].append(_score(ranker, features, name))
        progress(1)
    return (
        {cell: np.stack(scores) for cell, scores in cells.items()},
        {cell: np.stack(scores) for cell, scores in tier_cells.items()},
    )


def _fit_and_score(ranker: Ranker, parts: RankingParts, name: str) -> np.ndarray:
    ranker.fit(parts.train.features, parts.train.labels, parts.valid.features, parts.valid.labels)
    return _score(ranker, parts.test.features, name)


def _score(ranker: Ranker, features: PairFeatures, name: str) -> np.ndarray:
    return check_scores(ranker.score(features), features.n_pairs, name)


def _score_frame(
    data: str, cells: Mapping[tuple[str, str], np.ndarray], test: LabelledPairs, seeds: Sequence[int]
) -> pl.DataFrame:
    """Return one line for each predictor, row, seed and test pair; the seed is null for the cosine."""
    pairs = {
        "pair": np.arange(len(test.labels)),
        JOB_SEEKER_ID: test.seeker_ids.astype(str),
        MATCHED: test.labels.astype(bool),
        "is_cold_start": test.is_cold_start.astype(bool),
    }
    frames = []
    for (predictor, row), scores in cells.items():
        for seed, seed_scores in zip([None] if predictor == COSINE else seeds, scores, strict=True):
            fit = {"data": data, "predictor": predictor, "row": row, "seed": seed}
            frames.append(pl.DataFrame({**fit, **pairs, "score": seed_scores}, schema_overrides={"seed": pl.Int64}))
    return pl.concat(frames)
