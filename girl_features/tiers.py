"""Pairs as the lower tiers of a lookup would answer them, so that a ranker learns what each tier is worth.

Offline joins know two tiers, generated and prior; a service meets the others too. What they would answer can be had
from the CV vector alone, so training can put it in the place of some generated vectors (tier dropout), and an
evaluation in the place of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from girl_features.config import GirlConfig
from girl_features.errors import ConfigError
from girl_features.lookup.vector_map import unit_rows
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier

if TYPE_CHECKING:
    from girl_features.lookup.bundle import Bundle

ROWS_AT_ONCE = 256  # CVs compared with all stored ones at a time
SAME_CV = 1 - 1e-5  # a stored CV of a higher cosine is the seeker's own: a newcomer would not find it there
CAVEAT = (
    "the student has learnt from these seekers too, and neighbours are of the whole store, so `student` and "
    "`neighbours` read better than for seekers never met; benchmarks/cold_start.py leaves those of the test window out"
)

LowerTiers = Mapping[Tier, np.ndarray]  # tier -> (n, d) float32 vectors it would give n pairs
StandIns = Callable[[PairFeatures], LowerTiers]


class TierDropout(NamedTuple):
    """How much of a training part is moved to lower tiers, and what those would answer."""

    share: float  # of the pairs, 0 to 1
    stand_ins: StandIns
    seed: int = 0


def at_tier(features: PairFeatures, tier: Tier, vectors: np.ndarray) -> PairFeatures:
    """The same n pairs, every one answered at `tier` with its row of the (n, d) `vectors`."""
    return features._replace(generated_jd=vectors, tier=np.full(features.n_pairs, tier, np.int8))


def drop_tiers(features: PairFeatures, lower: LowerTiers, share: float, seed: int) -> PairFeatures:
    """`features` with a random share of the pairs moved to a tier below their own, drawn evenly from `lower`.

    Raises:
        ConfigError: `share` is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of pairs to move to lower tiers should be from 0 to 1, found {share}")
    rng = np.random.default_rng(seed)
    chosen, draw = rng.random(features.n_pairs) < share, rng.random(features.n_pairs)
    tiers = np.array(sorted(lower), np.int8)
    n_higher = np.searchsorted(tiers, features.tier, side="right")  # of `tiers`, those not below the pair's own
    chosen &= n_higher < len(tiers)
    picked = (n_higher + (len(tiers) - n_higher) * draw).astype(np.int64)
    tier, generated = features.tier.copy(), features.generated_jd.copy()
    for place, each in enumerate(tiers.tolist()):
        rows = chosen & (picked == place)
        tier[rows], generated[rows] = each, lower[Tier(each)][rows]
    return features._replace(tier=tier, generated_jd=generated)


def prior_alone(features: PairFeatures) -> LowerTiers:
    """What there is without a bundle: no generated vector."""
    return {Tier.PRIOR: np.zeros_like(features.generated_jd)}


def stand_ins_of(config: GirlConfig) -> StandIns:
    """What the bundle of a pair's contract answers, where the workspace has one; the prior where it has none.

    Raises, when asked:
        CheckpointError: the bundle is damaged.
        ContractMismatchError: `lookup.bundle` names one of another contract.
    """
    known: dict[str, StandIns] = {}

    def stand_ins(features: PairFeatures) -> LowerTiers:
        if features.contract not in known:
            known[features.contract] = _stand_ins_of(config, features.contract)
        return known[features.contract](features)

    return stand_ins


def _stand_ins_of(config: GirlConfig, contract: str) -> StandIns:
    from girl_features.lookup.bundle import read_bundle

    folder = config.lookup.bundle or config.students_dir / contract
    if config.lookup.bundle is None and not folder.is_dir():
        return prior_alone
    return bundle_stand_ins(read_bundle(folder, contract), config.lookup.n_neighbours)


def bundle_stand_ins(bundle: Bundle, n_neighbours: int) -> StandIns:
    """What a bundle's student, neighbours and prior answer for a pair's CV vector."""

    def stand_ins(features: PairFeatures) -> LowerTiers:
        distinct, places = _distinct(features.cv)
        lower = {Tier.PRIOR: np.zeros_like(features.generated_jd)}
        if bundle.student is not None:
            lower[Tier.STUDENT] = bundle.student(distinct)[places]
        if bundle.neighbours_cv is not None and bundle.neighbours_generated is not None:
            near = (bundle.neighbours_cv, bundle.neighbours_generated)
            means = mean_of_others(distinct, *near, n_neighbours, bundle.neighbours_seeker)
            lower[Tier.NEIGHBOURS] = means[places]
        return lower

    return stand_ins


def mean_of_others(
    cv_vectors: np.ndarray, stored_cvs: np.ndarray, generated: np.ndarray, k: int, seekers: np.ndarray | None = None
) -> np.ndarray:
    """(n, d) means of the generated vectors of the k stored CVs nearest to each CV, the seeker's own left out.

    Args:
        cv_vectors: (n, d) float32.
        stored_cvs: (m, d) float32 unit vectors.
        generated: (m, d) float32.
        k: how many; fewer where there are not as many, and the mean of all where there are none.
        seekers: (m,) numbers of the stored CVs' seekers, so that their other versions are left out too; without them
            only the same CV is.
    """
    k = min(k, len(stored_cvs))
    means = np.zeros((len(cv_vectors), generated.shape[1]), np.float32)
    for start in range(0, len(cv_vectors), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        cosines = unit_rows(cv_vectors[rows]) @ stored_cvs.T  # (b, m)
        own = cosines > SAME_CV
        if seekers is not None:
            for i in np.flatnonzero(own.any(axis=1)):
                own[i] |= np.isin(seekers, seekers[own[i]])
        cosines[own] = -np.inf
        nearest = np.argpartition(cosines, -k, axis=1)[:, -k:]  # (b, k)
        counts = np.isfinite(np.take_along_axis(cosines, nearest, axis=1)).astype(np.float32)
        n_others = counts.sum(axis=1, keepdims=True)
        total = np.einsum("bk,bkd->bd", counts, generated[nearest])
        means[rows] = np.where(n_others > 0, total / np.maximum(n_others, 1), generated.mean(axis=0))
    return means


def _distinct(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows, and where in them each row is."""
    rows = np.ascontiguousarray(vectors)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    _, first, places = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], places
