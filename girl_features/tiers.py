"""Features of pairs as the lower tiers of a look-up would give them, so that a ranker learns how good each tier is.

Offline joins return only the tiers generated and prior, but a service meets the others too. All but stale can be
computed from the CV vector alone. Training replaces some generated vectors by them (tier dropout), and an evaluation
replaces all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from girl_features.config import LookupConfig
from girl_features.errors import ConfigError
from girl_features.lookup.bundle import Bundle, read_bundle
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.vectors.similarity import unit_rows

ROWS_AT_ONCE = 256  # CVs compared with all stored ones at a time
SAME_CV = 1 - 1e-5  # a stored CV with a higher cosine counts as the seeker's own; a new seeker has none stored
CAVEAT = (
    "the student was trained on these seekers too, and neighbours come from the whole store, so `student` and "
    "`neighbours` look better than for new seekers; benchmarks/cold_start.py leaves the seekers of the test window out"
)

LowerTiers = Mapping[Tier, np.ndarray]  # tier -> (n, d) float32 vectors that it would give to n pairs
StandIns = Callable[[PairFeatures], LowerTiers]  # computes these vectors for given pairs


class TierDropout(NamedTuple):
    """Share of the pairs moved to lower tiers in training, and the function that computes these tiers' vectors."""

    share: float  # 0 to 1
    stand_ins: StandIns
    seed: int = 0


def at_tier(features: PairFeatures, tier: Tier, vectors: np.ndarray) -> PairFeatures:
    """Return the same n pairs, each with `tier` and its row of the (n, d) `vectors` as generated-JD vector."""
    return features._replace(generated_jd=vectors, tier=np.full(features.n_pairs, tier, np.int8))


def drop_tiers(features: PairFeatures, lower: LowerTiers, share: float, seed: int) -> PairFeatures:
    """Move a random share of the pairs, each to a tier below its own, drawn evenly from those in `lower`.

    Raises:
        ConfigError: `share` is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of pairs to move to lower tiers should be from 0 to 1, found {share}")
    rng = np.random.default_rng(seed)
    is_moved = rng.random(features.n_pairs) < share
    draw = rng.random(features.n_pairs)
    lower_tiers = np.array(sorted(lower), np.int8)
    # per pair, the number of `lower_tiers` not below its own tier; the pair is moved to one of the rest
    n_skipped = np.searchsorted(lower_tiers, features.tier, side="right")
    n_candidates = len(lower_tiers) - n_skipped
    is_moved &= n_candidates > 0
    drawn = (n_skipped + n_candidates * draw).astype(np.int64)  # index in `lower_tiers`
    tier, generated = features.tier.copy(), features.generated_jd.copy()
    for index, lower_tier in enumerate(lower_tiers.tolist()):
        rows = is_moved & (drawn == index)
        tier[rows] = lower_tier
        generated[rows] = lower[Tier(lower_tier)][rows]
    return features._replace(tier=tier, generated_jd=generated)


def prior_alone(features: PairFeatures) -> LowerTiers:
    """Return the prior tier only, with zero vectors, for when there is no bundle."""
    return {Tier.PRIOR: np.zeros_like(features.generated_jd)}


def stand_ins_of(lookup: LookupConfig, students_dir: Path) -> StandIns:
    """Return a function that computes the lower tiers of pairs with the bundle of their contract.

    It reads a bundle when a contract is first met. Without a bundle it returns the prior only.

    Raises, when the function is called:
        CheckpointError: the bundle is damaged.
        ContractMismatchError: `lookup.bundle` is a bundle of another contract.
    """

    @cache
    def open_stand_ins(contract: str) -> StandIns:
        folder = lookup.bundle or students_dir / contract
        if lookup.bundle is None and not folder.is_dir():
            return prior_alone
        return bundle_stand_ins(read_bundle(folder, contract), lookup.n_neighbours)

    return lambda features: open_stand_ins(features.contract)(features)


def bundle_stand_ins(bundle: Bundle, n_neighbours: int) -> StandIns:
    """Return a function that gives student and neighbour vectors, if `bundle` has them, and zeros as prior."""

    def stand_ins(features: PairFeatures) -> LowerTiers:
        cv_vectors, indices = _distinct_rows(features.cv)
        lower = {Tier.PRIOR: np.zeros_like(features.generated_jd)}
        if bundle.student is not None:
            lower[Tier.STUDENT] = bundle.student(cv_vectors)[indices]
        if bundle.neighbours_cv is not None and bundle.neighbours_generated is not None:
            stored_cvs, generated, seekers = bundle.neighbours_cv, bundle.neighbours_generated, bundle.neighbours_seeker
            lower[Tier.NEIGHBOURS] = mean_of_others(cv_vectors, stored_cvs, generated, n_neighbours, seekers)[indices]
        return lower

    return stand_ins


def mean_of_others(
    cv_vectors: np.ndarray, stored_cvs: np.ndarray, generated: np.ndarray, k: int, seekers: np.ndarray | None = None
) -> np.ndarray:
    """Return the (n, d) means of the generated vectors of the k nearest stored CVs of other seekers.

    Args:
        cv_vectors: (n, d) float32.
        stored_cvs: (m, d) float32 unit vectors.
        generated: (m, d) float32.
        k: number of stored CVs; fewer if all other seekers together have fewer; if they have none, mean of all.
        seekers: (m,) seeker number of each stored CV, to exclude the other versions of the seeker's own CV;
            without them only the same CV is excluded.
    """
    k = min(k, len(stored_cvs))
    means = np.zeros((len(cv_vectors), generated.shape[1]), np.float32)
    for start in range(0, len(cv_vectors), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        cosines = unit_rows(cv_vectors[rows]) @ stored_cvs.T  # (b, m)
        same_seeker = cosines > SAME_CV
        if seekers is not None:
            for i in np.flatnonzero(same_seeker.any(axis=1)):
                same_seeker[i] |= np.isin(seekers, seekers[same_seeker[i]])
        cosines[same_seeker] = -np.inf
        nearest = np.argpartition(cosines, -k, axis=1)[:, -k:]  # (b, k)
        counts = np.isfinite(np.take_along_axis(cosines, nearest, axis=1)).astype(np.float32)
        n_others = counts.sum(axis=1, keepdims=True)
        total = np.einsum("bk,bkd->bd", counts, generated[nearest])
        means[rows] = np.where(n_others > 0, total / np.maximum(n_others, 1), generated.mean(axis=0))
    return means


def _distinct_rows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows, and for each row its index among them.

    Rows are compared as bytes, which is faster than `np.unique` over an axis.
    """
    rows = np.ascontiguousarray(vectors)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    _, first, indices = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], indices
