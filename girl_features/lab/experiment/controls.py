"""Controls: features that replace the generated JD or leave it out, to compare a lift with.

Each function takes the ranking windows with a generator's features and returns the same pairs with other features.
A control learns from the generator's windows alone (`History`), never from a ranking label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from girl_features.errors import ShapeError
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.lab.experiment.data import History
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.vectors.regression import LinearMap, ridge_path
from girl_features.vectors.similarity import mean_of_nearest

N_NEIGHBOURS = 5
_RIDGES = (0.1, 1.0, 10.0, 100.0)  # on unit vectors of some thousand pairs


def cv_twice(parts: RankingParts) -> RankingParts:
    """Return [c; j; c]: the CV in the generated JD's place, so as wide as the enhanced row without new content."""
    return _map(parts, lambda f: _with_generated(f, f.cv))


def shuffled(parts: RankingParts, seed: int) -> RankingParts:
    """Return the pairs with j' and tier of another job seeker, always the same one for each seeker."""
    seekers = np.unique(np.concatenate([part.seeker_ids for part in parts]))
    if len(seekers) < 2:
        raise ShapeError("generated JDs cannot be shuffled among fewer than two seekers; widen the ranking windows")
    order = np.random.default_rng(seed).permutation(len(seekers))
    donor_of = dict(
        zip(seekers[order], seekers[np.roll(order, 1)], strict=True)
    )  # one cycle, so nobody keeps their own
    pool: dict[str, tuple[list[np.ndarray], list[int]]] = {seeker: ([], []) for seeker in seekers}
    for part in parts:
        for seeker, vector, tier in zip(part.seeker_ids, part.features.generated_jd, part.features.tier, strict=True):
            pool[seeker][0].append(vector)
            pool[seeker][1].append(int(tier))
    return RankingParts(*(_from_donors(part, donor_of, pool) for part in parts))


def regression(parts: RankingParts, cv_vectors: np.ndarray, jd_vectors: np.ndarray) -> RankingParts:
    """Return the pairs with j' predicted from c by a ridge regression, fitted on m matched pairs (m, d)."""
    expected_jd = fit_jd_regression(cv_vectors, jd_vectors)
    return _map(parts, lambda f: _with_generated(f, expected_jd(f.cv)))


def neighbour(parts: RankingParts, cv_vectors: np.ndarray, jd_vectors: np.ndarray) -> RankingParts:
    """Return the pairs with j' as the mean JD vector of the N_NEIGHBOURS matched pairs whose CVs are nearest to c."""
    return _map(parts, lambda f: _with_generated(f, mean_of_nearest(f.cv, cv_vectors, jd_vectors, N_NEIGHBOURS)))


def more_training_pairs(parts: RankingParts, cv: np.ndarray, jd: np.ndarray, history: History) -> RankingParts:
    """Return base with m more training pairs, from the generator's windows, without j', which base does not read."""
    train, m = parts.train, len(history.matched)
    features = train.features
    all_features = PairFeatures(
        np.concatenate([cv, features.cv]),
        np.concatenate([jd, features.jd]),
        np.concatenate([np.zeros((m, features.generated_jd.shape[1]), np.float32), features.generated_jd]),
        np.concatenate([np.full(m, Tier.PRIOR, np.int8), features.tier]),
        features.contract,
    )
    all_pairs = LabelledPairs(
        all_features,
        np.concatenate([history.matched, train.labels]),
        np.concatenate([history.job_seeker_ids, train.seeker_ids]),
        np.concatenate([np.zeros(m, bool), train.is_cold_start]),
    )
    return parts._replace(train=all_pairs)


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
    changed_parts = []
    for part, (cv, jd) in zip(parts, vectors, strict=True):
        blank, tier = np.zeros_like(cv), np.full(len(cv), Tier.PRIOR, np.int8)
        changed_parts.append(part._replace(features=PairFeatures(cv, jd, blank, tier, contract)))
    return RankingParts(*changed_parts)


def _map(parts: RankingParts, change: Callable[[PairFeatures], PairFeatures]) -> RankingParts:
    return RankingParts(*(part._replace(features=change(part.features)) for part in parts))


def _with_generated(features: PairFeatures, vectors: np.ndarray) -> PairFeatures:
    tier = np.full(features.n_pairs, Tier.GENERATED, np.int8)
    return features._replace(generated_jd=vectors.astype(np.float32), tier=tier)


def _from_donors(
    part: LabelledPairs, donor_of: dict[str, str], pool: dict[str, tuple[list[np.ndarray], list[int]]]
) -> LabelledPairs:
    """Give each pair the next vector and tier of the seeker's donor, starting again after the last."""
    generated, tier = part.features.generated_jd.copy(), part.features.tier.copy()
    n_pairs_of: Counter[str] = Counter()  # pairs of each seeker so far
    for row, seeker in enumerate(part.seeker_ids):
        vectors, tiers = pool[donor_of[seeker]]
        turn = n_pairs_of[seeker] % len(vectors)
        generated[row], tier[row] = vectors[turn], tiers[turn]
        n_pairs_of[seeker] += 1
    return part._replace(features=part.features._replace(generated_jd=generated, tier=tier))
