"""Controls: features that replace the generated JD or leave it out, to compare a lift with.

Each function takes the ranking windows with a generator's features and returns the same pairs with other features.
A control learns from the generator's windows alone (`DecisionTexts`), never from a ranking label.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import numpy as np

from girl_features.errors import ShapeError
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.input.decision_texts import DecisionTexts
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.tiers import at_tier
from girl_features.vectors.regression import LinearMap, ridge_path
from girl_features.vectors.similarity import mean_of_nearest

N_NEIGHBOURS = 5
_RIDGES = (0.1, 1.0, 10.0, 100.0)  # on unit vectors of some thousand pairs


def cv_twice(parts: RankingParts) -> RankingParts:
    """Return [c; j; c]: the CV in the generated JD's place, so as wide as the enhanced row without new content."""
    return _from_cv(parts, lambda cv: cv)


def shuffled(parts: RankingParts, seed: int) -> RankingParts:
    """Return the pairs with j' and tier of another job seeker, always the same one for each seeker.

    In each part, the pairs of a seeker take the donor's pairs of all parts in turn.
    """
    seekers, number = np.unique(np.concatenate([part.seeker_ids for part in parts]), return_inverse=True)
    if len(seekers) < 2:
        raise ShapeError("generated JDs cannot be shuffled among fewer than two seekers; widen the ranking windows")
    order = np.random.default_rng(seed).permutation(len(seekers))
    donor_of = dict(zip(order, np.roll(order, 1), strict=True))  # one cycle, so nobody keeps their own
    rows_of = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    vectors, tiers = (
        np.concatenate([getattr(part.features, field) for part in parts]) for field in ("generated_jd", "tier")
    )
    ends = np.cumsum([len(part.seeker_ids) for part in parts])
    changed_parts = []
    for part, part_number in zip(parts, np.split(number, ends[:-1]), strict=True):
        turns = {seeker: cycle(rows_of[donor_of[seeker]]) for seeker in np.unique(part_number)}
        rows = np.array([next(turns[seeker]) for seeker in part_number], int)
        changed_parts.append(
            part._replace(features=part.features._replace(generated_jd=vectors[rows], tier=tiers[rows]))
        )
    return RankingParts(*changed_parts)


def regression(parts: RankingParts, cv_vectors: np.ndarray, jd_vectors: np.ndarray) -> RankingParts:
    """Return the pairs with j' predicted from c by a ridge regression, fitted on m matched pairs (m, d)."""
    predicted_jd = fit_jd_regression(cv_vectors, jd_vectors)
    return _from_cv(parts, lambda cv: predicted_jd(cv))


def neighbour(parts: RankingParts, cv_vectors: np.ndarray, jd_vectors: np.ndarray) -> RankingParts:
    """Return the pairs with j' as the mean JD vector of the N_NEIGHBOURS matched pairs whose CVs are nearest to c."""
    return _from_cv(parts, lambda cv: mean_of_nearest(cv, cv_vectors, jd_vectors, N_NEIGHBOURS))


def more_training_pairs(parts: RankingParts, cv: np.ndarray, jd: np.ndarray, history: DecisionTexts) -> RankingParts:
    """Return base with m more training pairs, from the generator's windows, without j', which base does not read."""
    train, contract = parts.train, parts.train.features.contract
    added = without_generated_jd(cv, jd, contract)
    features = PairFeatures(
        np.concatenate([added.cv, train.features.cv]),
        np.concatenate([added.jd, train.features.jd]),
        np.concatenate([added.generated_jd, train.features.generated_jd]),
        np.concatenate([added.tier, train.features.tier]),
        contract,
    )
    labels = np.concatenate([history.matched, train.labels])
    seeker_ids = np.concatenate([history.job_seeker_ids, train.seeker_ids])
    is_cold_start = np.concatenate([np.zeros(len(cv), bool), train.is_cold_start])
    return parts._replace(train=LabelledPairs(features, labels, seeker_ids, is_cold_start))


def fit_jd_regression(cv_vectors: np.ndarray, jd_vectors: np.ndarray) -> LinearMap:
    """Fit the ridge regression of (m, e) JD vectors on (m, d) CV vectors; a held-out fifth chooses the penalty.

    Raises:
        ShapeError: fewer than ten pairs.
    """
    if len(cv_vectors) < 10:
        raise ShapeError(f"{len(cv_vectors)} matched pairs are too few for a regression; widen the generator's windows")
    held_out = np.arange(len(cv_vectors)) % 5 == 4
    candidates = ridge_path(cv_vectors[~held_out], jd_vectors[~held_out], _RIDGES)
    errors = [((candidate(cv_vectors[held_out]) - jd_vectors[held_out]) ** 2).mean() for candidate in candidates]
    [regression] = ridge_path(cv_vectors, jd_vectors, [_RIDGES[int(np.argmin(errors))]])
    return regression


def with_vectors(parts: RankingParts, vectors: list[tuple[np.ndarray, np.ndarray]], contract: str) -> RankingParts:
    """Return the pairs with other (n, d) CV and JD vectors for each part, of this contract, without generated JDs."""
    pairs = zip(parts, vectors, strict=True)
    return RankingParts(*(part._replace(features=without_generated_jd(cv, jd, contract)) for part, (cv, jd) in pairs))


def without_generated_jd(cv: np.ndarray, jd: np.ndarray, contract: str) -> PairFeatures:
    """Return n pairs of (n, d) vectors without generated JDs."""
    return PairFeatures(cv, jd, np.zeros_like(cv), np.full(len(cv), Tier.PRIOR, np.int8), contract)


def _from_cv(parts: RankingParts, generate: Callable[[np.ndarray], np.ndarray]) -> RankingParts:
    """Return the pairs with j' made from c, for every pair."""
    changed_parts = []
    for part in parts:
        vectors = generate(part.features.cv).astype(np.float32)
        changed_parts.append(part._replace(features=at_tier(part.features, Tier.GENERATED, vectors)))
    return RankingParts(*changed_parts)
