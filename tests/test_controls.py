"""Controls and poolings: what each hands to a ranker, on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features.errors import ShapeError
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.evaluation.metrics import auc
from girl_features.input.decision_texts import DecisionTexts
from girl_features.lab.experiment import controls
from girl_features.lab.experiment.row_names import JDPooling, parse_pooling
from girl_features.lab.experiment.several_jds import SpreadRanker, pool_generated_jds
from girl_features.lab.text_vectors import VectorTable
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.vectors.similarity import mean_of_nearest
from tests.text_pairs import objects

D = 4


def part(seekers: list[str], seed: int = 0) -> LabelledPairs:
    """j' of a seeker's every row is that seeker's own number, in its first entry."""
    rng = np.random.default_rng(seed)
    n = len(seekers)
    cv, jd = (rng.normal(size=(n, D)).astype(np.float32) for _ in range(2))
    generated = np.zeros((n, D), np.float32)
    generated[:, 0] = [1 + int(s[1:]) for s in seekers]
    features = PairFeatures(cv, jd, generated, np.zeros(n, np.int8), "0123456789ab")
    return LabelledPairs(features, rng.random(n) < 0.5, np.array(seekers), np.zeros(n, bool))


def parts(train: list[str], valid: list[str], test: list[str]) -> RankingParts:
    return RankingParts(part(train, 0), part(valid, 1), part(test, 2))


def test_cv_twice_is_the_cv_in_the_generated_jds_place() -> None:
    given_parts = parts(["s0", "s1"], ["s0"], ["s2"])
    changed = controls.cv_twice(given_parts)
    for before, after in zip(given_parts, changed, strict=True):
        np.testing.assert_array_equal(after.features.generated_jd, before.features.cv)
        assert after.features.has_generated_jd.all()
        np.testing.assert_array_equal(after.labels, before.labels)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=6, max_size=30), st.integers(0, 5))
def test_a_shuffled_jd_is_another_seekers_and_always_the_same_ones(numbers: list[int], seed: int) -> None:
    seekers = [f"s{n}" for n in numbers]
    if len(set(seekers)) < 2:
        return
    third = len(seekers) // 3
    given_parts = parts(seekers[:third], seekers[third : 2 * third], seekers[2 * third :])
    donors: dict[str, set[float]] = {}
    for changed in controls.shuffled(given_parts, seed):
        for seeker, vector in zip(changed.seeker_ids, changed.features.generated_jd, strict=True):
            assert vector[0] != 1 + int(seeker[1:]), "nobody keeps their own"
            donors.setdefault(seeker, set()).add(float(vector[0]))
    assert all(len(found) == 1 for found in donors.values())
    assert len({found.pop() for found in donors.values()}) == len(donors), "no donor serves two"


def test_one_seeker_cannot_be_shuffled() -> None:
    with pytest.raises(ShapeError, match="fewer than two seekers"):
        controls.shuffled(parts(["s0"], ["s0"], ["s0"]), 0)


def test_the_regression_finds_a_linear_map() -> None:
    rng = np.random.default_rng(0)
    truth, x = rng.normal(size=(D, D)), rng.normal(size=(400, D))
    y = x @ truth + 2.0 + rng.normal(0, 0.01, (400, D))
    regression = controls.fit_jd_regression(x, y)
    np.testing.assert_allclose(regression.weights, truth, atol=0.02)
    np.testing.assert_allclose(regression.intercept, 2.0, atol=0.02)  # the intercept is not shrunk
    with pytest.raises(ShapeError, match="9 matched pairs"):
        controls.fit_jd_regression(x[:9], y[:9])


def test_the_neighbours_are_those_of_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    keys, queries, values = (rng.normal(size=(n, D)).astype(np.float32) for n in (30, 5, 30))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    found = mean_of_nearest(queries, keys, values, 3)
    for query, mean in zip(queries, found, strict=True):
        order = sorted(range(30), key=lambda i: -float(query @ keys[i]))[:3]
        np.testing.assert_allclose(mean, values[order].mean(axis=0), atol=1e-6)


def test_more_training_pairs_come_first_and_change_nothing_else() -> None:
    given_parts = parts(["s0", "s1"], ["s0"], ["s2"])
    ids, labels = np.array(["x"] * 3), np.array([True, False, True])
    history = DecisionTexts(ids, ids, objects(["a"] * 3), objects(["b"] * 3), labels)
    cv = np.ones((3, D), np.float32)
    grown = controls.more_training_pairs(given_parts, cv, 2 * cv, history)
    assert grown.train.features.n_pairs == 5
    assert grown.train.labels[:3].tolist() == [True, False, True]
    np.testing.assert_array_equal(grown.train.features.cv[3:], given_parts.train.features.cv)
    assert not grown.train.features.has_generated_jd[:3].any()
    assert grown.test is given_parts.test and grown.valid is given_parts.valid


# two samples of a CV, at right angles; a job that is the second
TABLE = VectorTable({"x": 0, "y": 1}, np.array([[1, 0, 0, 0], [0, 1, 0, 0]], np.float32))
SECOND = np.array([[0, 1, 0, 0]], np.float32)


def pool(pooling: str, k: int, own: tuple[str, ...] = ("x", "y")) -> PairFeatures:
    one = part(["s0"])
    one = one._replace(features=one.features._replace(jd=SECOND))
    texts = {name: objects([own]) for name in RankingParts._fields}
    return pool_generated_jds(RankingParts(one, one, one), texts, TABLE, JDPooling(pooling, k)).test.features


def test_k_samples_become_one_vector() -> None:
    np.testing.assert_allclose(pool("mean", 2).generated_jd, [[0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(pool("mean", 1).generated_jd, [[1, 0, 0, 0]])  # the first alone
    np.testing.assert_allclose(pool("max", 2).generated_jd, SECOND)  # the nearest to the job
    np.testing.assert_allclose(pool("max", 1).generated_jd, [[1, 0, 0, 0]])
    # labels of one class: temperature 1, so weights e^0 : e^1 = .2689 : .7311
    np.testing.assert_allclose(pool("attention", 2).generated_jd, [[0.26894, 0.73106, 0, 0]], atol=1e-4)
    assert np.linalg.norm(pool("dispersion", 2).generated_jd) == pytest.approx(
        0.5**0.5
    )  # of unit vectors at 90 degrees


def test_no_sample_no_generated_jd() -> None:
    features = pool("attention", 2, own=())
    assert features.tier.tolist() == [Tier.PRIOR] and not features.generated_jd.any()
    assert pool("mean", 4, own=("x",)).has_generated_jd.all(), "fewer than k are pooled as they are"


def test_rows_of_several_jds_are_read_from_their_names() -> None:
    assert parse_pooling("mean-4") == JDPooling("mean", 4) and parse_pooling("attention-16") == JDPooling(
        "attention", 16
    )
    assert parse_pooling("girl-4") is None and parse_pooling("mean-0") is None and parse_pooling("mean-4x") is None


class LogitOfJd:
    """A ranker that says what the job's first entry says, of which half the pairs' is noise."""

    def fit(self, *_: object) -> None:
        pass

    def score(self, features: PairFeatures) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-features.jd[:, 0].astype(float))))


def test_the_spread_says_when_to_trust_a_score() -> None:
    rng = np.random.default_rng(0)

    def world(n: int) -> tuple[PairFeatures, np.ndarray]:
        labels, alike = rng.random(n) < 0.5, rng.random(n) < 0.5
        jd = np.zeros((n, D), np.float32)
        jd[:, 0] = np.where(alike, np.where(labels, 2, -2), rng.choice([-2, 2], n))  # noise where they are not alike
        generated = np.zeros((n, D), np.float32)
        generated[:, 0] = np.where(alike, 1.0, 0.2)
        tier = np.full(n, Tier.GENERATED, np.int8)
        return PairFeatures(np.ones((n, D), np.float32), jd, generated, tier, "0123456789ab"), labels

    (train, labels), (valid, valid_labels), (test, test_labels) = world(10), world(500), world(500)
    plain, spread = LogitOfJd(), SpreadRanker(LogitOfJd())
    spread.fit(train, labels, valid, valid_labels)
    scores = spread.score(test)
    assert ((scores > 0) & (scores < 1)).all()
    assert auc(test_labels, scores) > auc(test_labels, plain.score(test)) + 0.05
    doubtful = np.linalg.norm(test.generated_jd, axis=1) < 0.5
    assert np.abs(scores[doubtful] - 0.5).max() < 0.2
