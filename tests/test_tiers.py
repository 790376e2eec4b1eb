"""Lower tiers offline: which pairs are moved, what stands in, and what rankers learn of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from girl_features.errors import ConfigError
from girl_features.evaluation.metrics import auc, log_loss
from girl_features.integrations.rankers.lightgbm_ranker import LightGBMRanker
from girl_features.integrations.rankers.registry import WITH_FALLBACK, make_ranker
from girl_features.lookup.bundle import Bundle
from girl_features.lookup.vector_map import VectorMap
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.tiers import LowerTiers, at_tier, bundle_stand_ins, drop_tiers, mean_of_others, prior_alone
from tests.contracts import CONTRACT, Labelled, fit, planted
from tests.fakes import feature_contract

DIMENSION = 12


@given(
    tiers=st.lists(st.sampled_from(list(Tier)), min_size=1, max_size=30),
    lower=st.sets(st.sampled_from(list(Tier)), max_size=4),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_pairs_move_to_a_lower_tier_or_stay_as_they_are(
    tiers: list[Tier], lower: set[Tier], share: float, seed: int
) -> None:
    n = len(tiers)
    features = planted(n, 0, 3).features._replace(tier=np.array(tiers, np.int8))
    given_vectors: LowerTiers = {tier: np.full((n, 3), float(tier) + 10 * np.arange(n)[:, None]) for tier in lower}
    dropped = drop_tiers(features, given_vectors, share, seed)
    for i in range(n):
        if dropped.tier[i] == tiers[i]:
            assert (dropped.generated_jd[i] == features.generated_jd[i]).all()
            assert share < 1 or not any(tier > tiers[i] for tier in lower)
        else:
            assert share > 0 and tiers[i] < dropped.tier[i] and dropped.tier[i] in lower
            assert (dropped.generated_jd[i] == int(dropped.tier[i]) + 10 * i).all()
    again = drop_tiers(features, given_vectors, share, seed)
    assert (again.tier == dropped.tier).all()
    assert (features.tier == np.array(tiers)).all()  # what came in is left alone


def test_the_share_is_met_and_spread_evenly() -> None:
    features = planted(6000, 0, 2).features
    lower = dict.fromkeys((Tier.STUDENT, Tier.NEIGHBOURS, Tier.PRIOR), features.generated_jd)
    counts = np.bincount(drop_tiers(features, lower, 0.3, 0).tier, minlength=5)
    # 6000 * 0.3 / 3 = 600 each, give or take 5 standard deviations: sqrt(6000 * 0.1 * 0.9) = 23
    assert (abs(counts[2:] - 600) < 116).all() and counts[1] == 0


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    features = planted(4, 0).features
    with pytest.raises(ConfigError, match="from 0 to 1"):
        drop_tiers(features, prior_alone(features), share, 0)


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 5), st.integers(0, 500))
def test_the_mean_of_others_leaves_the_seekers_own_cv_out(m: int, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stored = rng.normal(size=(m, 4)).astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    generated = rng.normal(size=(m, 4)).astype(np.float32)
    asked = np.concatenate([2 * stored[:n], rng.normal(size=(2, 4)).astype(np.float32)])
    got = mean_of_others(asked, stored, generated, k)
    for row, vector in zip(got, asked, strict=True):
        cosines = [float(own @ vector / np.linalg.norm(vector)) for own in stored]
        others = sorted((i for i in range(m) if cosines[i] < 0.9999), key=lambda i: -cosines[i])[: min(k, m)]
        wanted = generated[others].mean(axis=0) if others else generated.mean(axis=0)
        np.testing.assert_allclose(row, wanted, atol=1e-5)


def test_no_version_of_the_seekers_own_cv_is_a_neighbour() -> None:
    # rows 0 and 1 are two versions of one seeker's CV, 2 and 3 are of others
    stored = np.array([[1, 0], [0.9, 0.435], [0.6, 0.8], [0, 1]], np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    generated = np.array([[1, 0], [2, 0], [3, 0], [4, 0]], np.float32)
    asked, seekers = stored[:1], np.array([7, 7, 8, 9], np.int32)
    assert mean_of_others(asked, stored, generated, 1).tolist() == [[2, 0]], "without numbers the other version is left"
    assert mean_of_others(asked, stored, generated, 1, seekers).tolist() == [[3, 0]]
    assert mean_of_others(asked, stored, generated, 4, seekers).tolist() == [[3.5, 0]]  # (3 + 4) / 2
    stranger = np.array([[0.95, 0.3]], np.float32)
    assert mean_of_others(stranger, stored, generated, 1, seekers).tolist() == [[2, 0]], "nobody's own"


def test_a_bundle_stands_in_for_the_tiers_it_has() -> None:
    contract = feature_contract(dimension=2)
    student = VectorMap.linear(np.eye(2, dtype=np.float32)[::-1], np.zeros(2, np.float32), 1.0)  # swaps the two
    cvs, generated = np.eye(2, dtype=np.float32), np.array([[3, 0], [0, 5]], np.float32)
    zeros = np.zeros(2, np.float32)
    pairs = PairFeatures(cvs[[0, 1, 0]], cvs[[0, 0, 0]], cvs[[0, 0, 0]], np.zeros(3, np.int8), contract.fingerprint)
    lower = bundle_stand_ins(Bundle(contract, zeros, zeros, student, cvs, generated), 1)(pairs)
    assert sorted(lower) == [Tier.STUDENT, Tier.NEIGHBOURS, Tier.PRIOR]
    assert lower[Tier.STUDENT].tolist() == [[0, 1], [1, 0], [0, 1]]
    assert lower[Tier.NEIGHBOURS].tolist() == [[0, 5], [3, 0], [0, 5]]  # of the other CV, never the own
    assert not lower[Tier.PRIOR].any()
    one = Bundle(contract, zeros, zeros, None, cvs, generated, np.zeros(2, np.int32))  # both CVs are one seeker's
    assert bundle_stand_ins(one, 1)(pairs)[Tier.NEIGHBOURS].tolist() == [generated.mean(axis=0).tolist()] * 3
    assert list(bundle_stand_ins(Bundle(contract, zeros, zeros, None, None, None), 1)(pairs)) == [Tier.PRIOR]


def misleading(n: int, seed: int) -> Labelled:
    """The CV's cosine tells the match; j' repeats the CV so strongly that a ranker may subtract the CV's own part."""
    rng = np.random.default_rng(seed)
    cv, jd, wish = (rng.normal(size=(n, DIMENSION)).astype(np.float32) for _ in range(3))
    labels = rng.random(n) < 0.5
    jd += np.where(labels[:, None], 0.5, 0) * cv + np.where(labels[:, None], 0.8, 0) * wish
    return Labelled(PairFeatures(cv, jd, cv + 0.5 * wish, np.zeros(n, np.int8), CONTRACT), labels)


def noise(features: PairFeatures) -> LowerTiers:
    """A student that says nothing: vectors drawn at random, the same for the same CV."""
    rng = np.random.default_rng(int(abs(features.cv.sum()) * 1e6))
    return {Tier.STUDENT: rng.normal(size=features.cv.shape).astype(np.float32)}


def test_with_dropout_less_is_lost_on_the_prior_tier() -> None:
    train, valid, test = misleading(800, 0), misleading(400, 1), misleading(600, 2)
    prior = at_tier(test.features, Tier.PRIOR, np.zeros_like(test.features.generated_jd))

    def scores(share: float) -> np.ndarray:
        parts = (
            part._replace(features=drop_tiers(part.features, prior_alone(part.features), share, i))
            for i, part in enumerate((train, valid))
        )
        return fit(LightGBMRanker("lightgbm", "enhanced"), *parts).score(prior)

    # without dropout, the trees have learnt to read cos(cv, jd) beside a j' that is not there now
    assert auc(test.labels, scores(0.3)) > auc(test.labels, scores(0.0)) + 0.02
    assert log_loss(test.labels, scores(0.3)) < log_loss(test.labels, scores(0.0))


@pytest.mark.parametrize("predictor", WITH_FALLBACK)
def test_with_dropout_a_bad_student_is_not_trusted(predictor: str) -> None:
    train, valid, test = misleading(800, 0), misleading(400, 1), misleading(600, 2)
    student = at_tier(test.features, Tier.STUDENT, noise(test.features)[Tier.STUDENT])
    loss = {}
    for share in (0.0, 0.3):
        ranker = fit(make_ranker(predictor, "enhanced", 0, share, noise), train, valid)
        loss[share] = log_loss(test.labels, ranker.score(student))
    assert loss[0.3] < loss[0.0] - 0.02
