"""Test suites for the protocols of this project. Every implementation of a protocol passes its suite.

A test class inherits the suite and defines the fixture that the suite asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from girl_features.errors import ContractMismatchError, GirlError, InvalidVectorError, ShapeError
from girl_features.evaluation.metrics import auc
from girl_features.ranker import PairFeatures, Ranker
from girl_features.schema import Tier

CONTRACT = "0123456789ab"
OTHER_CONTRACT = "ba9876543210"


class Labelled(NamedTuple):
    """Pairs with their labels."""

    features: PairFeatures
    labels: np.ndarray


def planted(n: int, seed: int, dimension: int = 6, share_generated: float = 1.0) -> Labelled:
    """Return n pairs whose label only the generated JD tells: the sign of its first entry, wrong one time in ten."""
    rng = np.random.default_rng(seed)
    cv, jd, generated = (rng.normal(size=(n, dimension)).astype(np.float32) for _ in range(3))
    jd[:, 0] = 2.0  # all JDs share it, so that a product of j' and j can be a sum over j' alone
    labels = rng.random(n) < 0.5
    hinted = labels ^ (rng.random(n) < 0.1)
    generated[:, 0] = np.where(hinted, 2.0, -2.0)
    tier = np.where(rng.random(n) < share_generated, Tier.GENERATED, Tier.PRIOR).astype(np.int8)
    generated[tier == Tier.PRIOR] = 0
    return Labelled(PairFeatures(cv, jd, generated, tier, CONTRACT), labels)


MakeRanker = Callable[[str, int], Ranker]  # (row, seed) to a fresh ranker


class RankerContract:
    """Suite for Ranker. Subclasses define a class-scoped fixture `make`: MakeRanker."""

    @pytest.fixture(scope="class", params=["base", "enhanced"])
    @classmethod
    def row(cls, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, make: MakeRanker, row: str) -> Ranker:
        return fit(make(row, 0), planted(500, 0, share_generated=0.9), planted(200, 1, share_generated=0.9))

    def test_scores_are_probabilities_one_a_pair(self, fitted: Ranker) -> None:
        scores = fitted.score(planted(50, 2, share_generated=0.5).features)
        assert scores.dtype == np.float64 and scores.shape == (50,)
        assert ((scores > 0) & (scores < 1)).all()

    def test_no_pairs_no_scores(self, fitted: Ranker) -> None:
        assert fitted.score(planted(5, 2).features.take(np.arange(0))).shape == (0,)

    def test_a_score_does_not_depend_on_the_other_pairs(self, fitted: Ranker) -> None:
        features = planted(40, 3, share_generated=0.7).features
        rows = np.array([31, 4, 17])
        np.testing.assert_allclose(fitted.score(features.take(rows)), fitted.score(features)[rows], rtol=1e-5)

    def test_same_seed_same_scores(self, make: MakeRanker, row: str, fitted: Ranker) -> None:
        again = fit(make(row, 0), planted(500, 0, share_generated=0.9), planted(200, 1, share_generated=0.9))
        features = planted(50, 2, share_generated=0.5).features
        np.testing.assert_array_equal(again.score(features), fitted.score(features))

    def test_enhanced_finds_what_only_the_generated_jd_tells(self, make: MakeRanker) -> None:
        test = planted(400, 9)
        scores = {row: fit(make(row, 0), planted(600, 7), planted(300, 8)).score(test.features) for row in ROWS}
        assert auc(test.labels, scores["enhanced"]) > 0.8  # 0.9 at best
        assert 0.4 < auc(test.labels, scores["base"]) < 0.6

    def test_scores_are_calibrated(self, make: MakeRanker) -> None:
        ranker = fit(make("enhanced", 0), planted(600, 7), planted(300, 8))
        test = planted(400, 9)
        assert abs(ranker.score(test.features).mean() - test.labels.mean()) < 0.1

    def test_base_never_looks_at_the_generated_jd(self, make: MakeRanker) -> None:
        train, valid, test = planted(200, 0), planted(100, 1), planted(20, 2)
        plain = fit(make("base", 0), train, valid).score(test.features)
        blind = fit(make("base", 0), _spoilt(train), _spoilt(valid)).score(_spoilt(test).features)
        np.testing.assert_array_equal(blind, plain)

    def test_a_pair_without_generated_jd_scores_the_same_whatever_lies_there(self, make: MakeRanker) -> None:
        ranker = fit(make("enhanced", 0), planted(300, 0, share_generated=0.7), planted(200, 1, share_generated=0.7))
        features = planted(20, 2, share_generated=0.0).features
        other = features._replace(generated_jd=np.full_like(features.generated_jd, np.nan))
        np.testing.assert_array_equal(ranker.score(other), ranker.score(features))

    def test_trains_where_no_pair_has_a_generated_jd(self, make: MakeRanker) -> None:
        ranker = fit(make("enhanced", 0), planted(200, 0, share_generated=0), planted(100, 1, share_generated=0))
        scores = ranker.score(planted(50, 2, share_generated=0.5).features)
        assert ((scores > 0) & (scores < 1)).all()

    def test_another_contract_is_refused(self, make: MakeRanker, fitted: Ranker, row: str) -> None:
        other = planted(10, 2).features._replace(contract=OTHER_CONTRACT)
        with pytest.raises(ContractMismatchError, match=f"{OTHER_CONTRACT}.*trained on '{CONTRACT}'"):
            fitted.score(other)
        valid = planted(50, 1)
        with pytest.raises(ContractMismatchError, match=OTHER_CONTRACT):
            fit(make(row, 0), planted(50, 0), valid._replace(features=valid.features._replace(contract=OTHER_CONTRACT)))

    def test_another_dimension_is_refused(self, fitted: Ranker) -> None:
        with pytest.raises(InvalidVectorError, match=r"7 dimensions.*trained on 6"):
            fitted.score(planted(10, 2, dimension=7).features)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
    def test_a_bad_entry_is_refused_with_its_row(
        self, make: MakeRanker, fitted: Ranker, row: str, value: float
    ) -> None:
        for column in ("cv", "jd") if row == "base" else ("cv", "jd", "generated_jd"):
            broken = planted(60, 2)
            getattr(broken.features, column)[7, 3] = value
            with pytest.raises(InvalidVectorError, match=rf"1 bad {column} vectors: the first, of row 7"):
                fitted.score(broken.features)
            with pytest.raises(InvalidVectorError, match=rf"{column} vectors.*row 7"):
                fit(make(row, 0), broken, planted(60, 1))

    def test_an_all_zero_vector_is_refused(self, fitted: Ranker) -> None:
        features = planted(10, 2).features
        features.cv[4] = 0
        with pytest.raises(InvalidVectorError, match="row 4, is all zero"):
            fitted.score(features)

    def test_arrays_that_do_not_line_up_are_refused(self, make: MakeRanker, fitted: Ranker, row: str) -> None:
        features = planted(10, 2).features
        with pytest.raises(ShapeError, match=r"\(10, 6\).*\(9, 6\)"):
            fitted.score(features._replace(jd=features.jd[:9]))
        train = planted(50, 0)
        with pytest.raises(ShapeError, match=r"training part.*49.*50 pairs"):
            fit(make(row, 0), train._replace(labels=train.labels[:49]), planted(50, 1))

    @pytest.mark.parametrize("bad_part", ["training", "valid"])
    def test_one_class_is_refused(self, make: MakeRanker, row: str, bad_part: str) -> None:
        good, one_class = planted(50, 0), planted(50, 1)._replace(labels=np.zeros(50, bool))
        parts = (one_class, good) if bad_part == "training" else (good, one_class)
        with pytest.raises(ShapeError, match=f"{bad_part} part: all 50 labels are False"):
            fit(make(row, 0), *parts)

    def test_an_empty_part_is_refused(self, make: MakeRanker, row: str) -> None:
        with pytest.raises(ShapeError, match="valid part has no pairs"):
            fit(make(row, 0), planted(50, 0), planted(0, 1))

    def test_an_untrained_ranker_does_not_score(self, make: MakeRanker, row: str) -> None:
        with pytest.raises(GirlError, match="not trained yet"):
            make(row, 0).score(planted(5, 0).features)


ROWS = ("base", "enhanced")


def fit(ranker: Ranker, train: Labelled, valid: Labelled) -> Ranker:
    ranker.fit(train.features, train.labels, valid.features, valid.labels)
    return ranker


def _spoilt(pairs: Labelled) -> Labelled:
    """Return the pairs with generated JDs of NaN and of another dimension."""
    n = pairs.features.n_pairs
    wrong = np.full((n, 1), np.nan, np.float32)
    return pairs._replace(features=pairs.features._replace(generated_jd=wrong, tier=np.full(n, Tier.PRIOR, np.int8)))
