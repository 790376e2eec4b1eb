"""Small data sets of ids and words with a known answer, and a test suite for rankers that read texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from girl_features.errors import GirlError, ShapeError
from girl_features.evaluation.metrics import auc
from girl_features.ranker import PairTexts, TextRanker

TRADES = ("welding", "nursing", "teaching", "cooking")
FILLER = ("punctual", "friendly", "degree", "references", "driving", "english", "team", "flexible")


class LabelledTexts(NamedTuple):
    """Pairs of texts with their labels."""

    texts: PairTexts
    labels: np.ndarray


def objects(values: list[object]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def trade_pairs(n: int, seed: int, noise: float = 0.1) -> LabelledTexts:
    """Return n pairs that match if CV and JD name the same trade; one label in ten is wrong.

    Neither CV nor JD alone predicts a match. Every seeker and job is new, so ids tell nothing. The generated JD names
    the CV's trade.
    """
    rng = np.random.default_rng(seed)
    cv_trades, jd_trades = rng.integers(0, len(TRADES), (2, n))
    jd_trades = np.where(rng.random(n) < 0.5, cv_trades, jd_trades)
    labels = (cv_trades == jd_trades) ^ (rng.random(n) < noise)

    def text(trade: int) -> str:
        words = [TRADES[trade], *rng.choice(FILLER, 4)]
        return " ".join(rng.permutation(words))

    return LabelledTexts(
        PairTexts(
            np.array([f"s{seed}-{i}" for i in range(n)]),
            np.array([f"j{seed}-{i}" for i in range(n)]),
            objects([text(t) for t in cv_trades]),
            objects([text(t) for t in jd_trades]),
            objects([(text(t),) for t in cv_trades]),
        ),
        labels,
    )


def id_pairs(n: int, seed: int) -> LabelledTexts:
    """Return n pairs that match if both ids are even or both odd; one label in ten is wrong. All texts are equal."""
    rng = np.random.default_rng(seed)
    seeker, job = rng.integers(0, 30, n), rng.integers(0, 30, n)
    labels = (seeker % 2 == job % 2) ^ (rng.random(n) < 0.1)
    same = objects(["any text"] * n)
    texts = PairTexts(
        np.array([f"s{i}" for i in seeker]), np.array([f"j{i}" for i in job]), same, same, objects([()] * n)
    )
    return LabelledTexts(texts, labels)


def fit_texts(ranker: TextRanker, train: LabelledTexts, valid: LabelledTexts) -> TextRanker:
    ranker.fit(train.texts, train.labels, valid.texts, valid.labels)
    return ranker


def auc_of(ranker: TextRanker, test: LabelledTexts) -> float:
    return auc(test.labels, ranker.score(test.texts))


class TextRankerContract:
    """Suite for TextRanker. Subclasses define class-scoped fixtures `make` (seed to a fresh ranker) and `fitted`."""

    @pytest.fixture(scope="class")
    @classmethod
    def world(cls) -> Callable[[int, int], LabelledTexts]:
        return trade_pairs

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, make, world) -> TextRanker:  # type: ignore[no-untyped-def]
        return fit_texts(make(0), world(300, 0), world(150, 1))

    def test_scores_are_probabilities_one_a_pair(self, fitted, world) -> None:  # type: ignore[no-untyped-def]
        scores = fitted.score(world(40, 2).texts)
        assert scores.dtype == np.float64 and scores.shape == (40,)
        assert ((scores > 0) & (scores < 1)).all()

    def test_no_pairs_no_scores(self, fitted, world) -> None:  # type: ignore[no-untyped-def]
        assert fitted.score(world(5, 2).texts.take(np.arange(0))).shape == (0,)

    def test_a_score_does_not_depend_on_the_other_pairs(self, fitted, world) -> None:  # type: ignore[no-untyped-def]
        texts, rows = world(40, 3).texts, np.array([31, 4, 17])
        np.testing.assert_allclose(fitted.score(texts.take(rows)), fitted.score(texts)[rows], rtol=1e-4)

    def test_same_seed_same_scores(self, make, fitted, world) -> None:  # type: ignore[no-untyped-def]
        again = fit_texts(make(0), world(300, 0), world(150, 1))
        texts = world(40, 2).texts
        np.testing.assert_allclose(again.score(texts), fitted.score(texts), rtol=1e-6)

    def test_scores_are_calibrated(self, fitted, world) -> None:  # type: ignore[no-untyped-def]
        test = world(400, 9)
        assert abs(fitted.score(test.texts).mean() - test.labels.mean()) < 0.12

    def test_one_class_or_an_empty_part_is_refused(self, make, world) -> None:  # type: ignore[no-untyped-def]
        good, one_class = world(60, 0), world(60, 1)._replace(labels=np.zeros(60, bool))
        with pytest.raises(ShapeError, match="valid part: all 60 labels are False"):
            fit_texts(make(0), good, one_class)
        with pytest.raises(ShapeError, match="training part: columns and labels"):
            fit_texts(make(0), good._replace(labels=good.labels[:59]), good)
        with pytest.raises(ShapeError, match="valid part has no pairs"):
            fit_texts(make(0), good, LabelledTexts(good.texts.take(np.arange(0)), good.labels[:0]))

    def test_an_untrained_ranker_does_not_score(self, make, world) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(GirlError, match="not trained yet"):
            make(0).score(world(5, 0).texts)
