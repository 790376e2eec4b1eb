"""The same pairs, ranked without and with the generated JD: tables III and IV of GIRL, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from girl_features.errors import ConfigError, ShapeError, UndefinedMetricError
from girl_features.evaluation.reference import CosineRanker
from girl_features.evaluation.results import (
    BASE,
    DEFINITIONS,
    Comparison,
    Measured,
    ResultRow,
    make_result,
    make_slice,
    measure,
)
from girl_features.ranker import PairFeatures, Ranker
from girl_features.schema import JOB_SEEKER_ID, MATCHED, Tier
from girl_features.tiers import CAVEAT, StandIns, at_tier, prior_alone

__all__ = ["BASE", "COSINE", "Comparison", "LabelledPairs", "RankingParts", "ResultRow", "compare_rows"]

COSINE = "cosine"


class LabelledPairs(NamedTuple):
    """Features and outcome of n pairs."""

    features: PairFeatures
    labels: np.ndarray  # (n,) bool: matched
    seeker_ids: np.ndarray  # (n,) str
    is_cold_start: np.ndarray  # (n,) bool: the seeker has no interactions in the training window

    @classmethod
    def of(cls, features: PairFeatures, decisions: pl.DataFrame) -> LabelledPairs:
        """Features of the n `decisions` of a ranking window, with their outcomes."""
        seeker_ids = decisions[JOB_SEEKER_ID].to_numpy().astype(np.str_)
        return cls(features, decisions[MATCHED].to_numpy(), seeker_ids, decisions["is_cold_start"].to_numpy())


class RankingParts(NamedTuple):
    """The three windows a ranker is trained, calibrated and judged on."""

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
    progress: Callable[[int], object] | None = None,
    bootstrap_seed: int = 0,
    stand_ins: StandIns = prior_alone,
) -> Comparison:
    """Train every predictor on every row with every seed, and compare each row with base on the test part.

    Args:
        data: name of the data set.
        splits: row name to its parts; `base` and at least one more, of the same pairs in the same order.
        predictors: names `make_ranker` knows; the untrained `cosine` is added as a base-only reference.
        make_ranker: (predictor, form, seed) to a fresh ranker; the form is `base` or `enhanced`.
        seeds: of the rankers; their metrics are averaged.
        n_bootstrap: resamples of the test seekers.
        progress: called with 1 after each of the predictors x rows x seeds fits.
        bootstrap_seed: of the resampling.
        stand_ins: what the lower tiers of a look-up would answer for the test pairs: slices `tier_prior`, ...

    Raises:
        ConfigError: nothing to compare, repeated predictors or seeds, or `cosine` among the predictors.
        ShapeError: rows are not of the same pairs, or a ranker returns the wrong number of scores.
        UndefinedMetricError: a ranker returns something other than probabilities.
    """
    _check_plan(splits, predictors, seeds, n_bootstrap)
    _check_same_pairs(splits)
    test = splits[BASE].test
    masks = {"all": np.ones(len(test.labels), dtype=bool), "cold": test.is_cold_start.astype(bool)}
    cells, tier_cells = _score_all(splits, predictors, make_ranker, seeds, progress, stand_ins)
    slices = [
        make_slice(name, test.labels, test.seeker_ids, mask, n_bootstrap, bootstrap_seed)
        for name, mask in masks.items()
    ]
    rows: list[ResultRow] = []
    of_slice: dict[str, dict[tuple[str, str], Measured | None]] = {}
    for part in slices:
        measured = of_slice[part.name] = {cell: measure(scores, part) for cell, scores in cells.items()}
        for (predictor, row), own in measured.items():
            base = measured[predictor, BASE]
            rows.append(make_result(data, predictor, row, part, own, base, len(cells[predictor, row])))
    tier_rows = []
    for (predictor, row, tier), scores in tier_cells.items():
        part = slices[0]._replace(name=f"tier_{tier.name.lower()}")
        base = of_slice["all"][predictor, BASE]
        tier_rows.append(make_result(data, predictor, row, part, measure(scores, part), base, len(scores)))
    meta = {
        "data": data,
        "seeds": list(seeds),
        "n_bootstrap": n_bootstrap,
        "bootstrap_seed": bootstrap_seed,
        "n_redrawn": {s.name: s.resamples.n_redrawn if s.resamples else None for s in slices},
        "contracts": {row: parts.test.features.contract for row, parts in splits.items()},
        "parts": {name: _describe(part) for name, part in splits[BASE]._asdict().items()},
        "definitions": DEFINITIONS,
    }
    if {Tier.STUDENT, Tier.NEIGHBOURS} & {tier for _, _, tier in tier_cells}:
        meta["tiers"] = CAVEAT
    return Comparison(rows, meta, _score_frame(data, cells, test, seeds), tier_rows)


def _check_plan(
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
    base = splits[BASE]
    for row, parts in splits.items():
        for name, part in parts._asdict().items():
            reference: LabelledPairs = getattr(base, name)
            n = part.features.n_pairs
            for field in ("labels", "seeker_ids", "is_cold_start"):
                ours, theirs = getattr(part, field), getattr(reference, field)
                if ours.shape != (n,):
                    raise ShapeError(f"row {row!r}, {name} part: {field} has shape {ours.shape} for {n} pairs")
                if not np.array_equal(ours, theirs):
                    raise ShapeError(
                        f"the {name} parts of rows {BASE!r} and {row!r} differ in {field}; "
                        f"build both from the same interactions in the same order"
                    )


def _score_all(
    splits: Mapping[str, RankingParts],
    predictors: Sequence[str],
    make_ranker: Callable[[str, str, int], Ranker],
    seeds: Sequence[int],
    progress: Callable[[int], object] | None,
    stand_ins: StandIns,
) -> tuple[dict[tuple[str, str], np.ndarray], dict[tuple[str, str, Tier], np.ndarray]]:
    """(predictor, row) -> (s, n) test probabilities, a seed a line, one line for the cosine; and the same by tier."""
    cells = {(COSINE, BASE): _fit_and_score(CosineRanker(), splits[BASE], "the cosine")[np.newaxis]}
    tier_cells: dict[tuple[str, str, Tier], np.ndarray] = {}
    lower = {row: stand_ins(parts.test.features) for row, parts in splits.items() if row != BASE}
    for predictor in predictors:
        for row, parts in splits.items():
            scores: list[np.ndarray] = []
            by_tier: dict[Tier, list[np.ndarray]] = {tier: [] for tier in lower.get(row, ())}
            for seed in seeds:
                name = f"ranker {predictor!r}, row {row!r}, seed {seed}"
                ranker = make_ranker(predictor, BASE if row == BASE else "enhanced", seed)
                scores.append(_fit_and_score(ranker, parts, name))
                for tier, own in by_tier.items():
                    own.append(_score(ranker, at_tier(parts.test.features, tier, lower[row][tier]), name))
                if progress is not None:
                    progress(1)
            cells[predictor, row] = np.stack(scores)
            tier_cells |= {(predictor, row, tier): np.stack(own) for tier, own in by_tier.items()}
    return cells, tier_cells


def _fit_and_score(ranker: Ranker, parts: RankingParts, name: str) -> np.ndarray:
    ranker.fit(parts.train.features, parts.train.labels, parts.valid.features, parts.valid.labels)
    return _score(ranker, parts.test.features, name)


def _score(ranker: Ranker, features: PairFeatures, name: str) -> np.ndarray:
    scores = np.asarray(ranker.score(features), dtype=np.float64)
    if scores.shape != (features.n_pairs,):
        raise ShapeError(f"{name} returned scores of shape {scores.shape}, wanted {(features.n_pairs,)}")
    if not ((scores >= 0) & (scores <= 1)).all():  # False for NaN too
        raise UndefinedMetricError(f"{name} returned scores that are not probabilities from 0 to 1")
    return scores


def _describe(part: LabelledPairs) -> dict[str, Any]:
    return {
        "n": len(part.labels),
        "n_matched": int(part.labels.sum()),
        "n_seekers": len(np.unique(part.seeker_ids)),
        "n_cold_start": int(part.is_cold_start.sum()),
        "n_with_generated_jd": int(part.features.has_generated_jd.sum()),
    }


def _score_frame(
    data: str, cells: Mapping[tuple[str, str], np.ndarray], test: LabelledPairs, seeds: Sequence[int]
) -> pl.DataFrame:
    """One line a predictor, row, seed and test pair; the seed is null for the cosine."""
    pairs = pl.DataFrame(
        {
            "pair": np.arange(len(test.labels)),
            JOB_SEEKER_ID: test.seeker_ids.astype(str),
            MATCHED: test.labels.astype(bool),
            "is_cold_start": test.is_cold_start.astype(bool),
        }
    )
    frames = []
    for (predictor, row), scores in cells.items():
        for seed, one_seed in zip(seeds if predictor != COSINE else [None], scores, strict=True):
            names = {"data": data, "predictor": predictor, "row": row}
            literals = [pl.lit(value).alias(name) for name, value in names.items()]
            seed_column = pl.lit(seed, dtype=pl.Int64).alias("seed")
            frames.append(pairs.select(*literals, seed_column, pl.all(), pl.Series("score", one_seed)))
    return pl.concat(frames)
