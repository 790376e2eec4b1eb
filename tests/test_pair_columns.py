"""Columns beside the vectors: rankers read them by name, and the controls that fill them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from girl_features.errors import ConfigError, InvalidVectorError, ShapeError
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.evaluation.controls.columns import add_columns, author_warning, column_aucs, control_columns
from girl_features.evaluation.controls.popularity import popularity
from girl_features.evaluation.controls.style import function_words, style_tokens
from girl_features.evaluation.controls.text_cosine import fit_lexical, fit_style
from girl_features.evaluation.metrics import auc
from girl_features.evaluation.reference import ColumnRanker
from girl_features.input.decision_texts import DecisionTexts
from girl_features.integrations.rankers.registry import load_ranker, make_ranker
from girl_features.ranker import PairColumns
from tests.contracts import Labelled, fit, planted
from tests.text_pairs import objects

FIXTURE = Path(__file__).parent / "fixtures" / "rankers_without_columns"
UNTIL = datetime(2024, 1, 1, tzinfo=UTC)
READING = [("mlp", "base"), ("mlp", "enhanced"), ("dot", "base"), ("lightgbm", "base"), ("lightgbm", "enhanced")]


def with_columns(pairs: Labelled, seed: int, names: tuple[str, ...] = ("told", "noise")) -> Labelled:
    """Add a column that tells the label with an AUC of about .9, and a random one."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(pairs.labels), 2)).astype(np.float32)
    values[:, 0] += 2 * pairs.labels
    return pairs._replace(features=pairs.features._replace(columns=PairColumns(names, values)))


def decisions(jobs: list[str], matched: list[bool], cvs: list[str] | None = None) -> DecisionTexts:
    n = len(jobs)
    texts = objects(cvs or [f"cv {i}" for i in range(n)]), objects([f"jd {job}" for job in jobs])
    return DecisionTexts(np.array([f"s{i}" for i in range(n)]), np.array(jobs), *texts, np.array(matched))


@pytest.mark.parametrize(("predictor", "row"), READING)
def test_a_ranker_reads_the_columns_and_keeps_their_names(predictor: str, row: str, tmp_path: Path) -> None:
    train, valid, test = (with_columns(planted(600, seed), seed) for seed in range(3))
    without = fit(make_ranker(predictor, "base", 0), planted(600, 0), planted(600, 1))
    ranker = fit(make_ranker(predictor, row, 0), train, valid)
    scores = ranker.score(test.features)
    assert auc(test.labels, without.score(planted(600, 2).features)) < 0.6, "the base vectors tell nothing"
    assert auc(test.labels, scores) > 0.85
    ranker.save(tmp_path)
    np.testing.assert_array_equal(load_ranker(tmp_path).score(test.features), scores)
    for features in (planted(600, 2).features, with_columns(planted(600, 2), 2, ("noise", "told")).features):
        with pytest.raises(ShapeError, match="trained with told, noise; give it these, in this order"):
            ranker.score(features)


def test_rankers_saved_before_there_were_columns_score_as_they_did() -> None:
    # saved by the code of commit ba1357e, trained on planted(300, 0, 4), valid planted(150, 1, 4)
    scores = json.loads((FIXTURE / "scores.json").read_text())
    for predictor in ("dot", "lightgbm"):
        ranker = load_ranker(FIXTURE / predictor)
        np.testing.assert_allclose(ranker.score(planted(5, 2, 4).features), scores[predictor], atol=2e-6)


def test_the_papers_plain_forms_refuse_columns() -> None:
    train, valid = (with_columns(planted(100, seed), seed) for seed in range(2))
    for predictor in ("mlp-plain", "dot-plain", "lightgbm-plain"):
        with pytest.raises(ShapeError, match="reads the vectors alone, but the pairs have the columns told, noise"):
            fit(make_ranker(predictor, "base", 0), train, valid)


def test_bad_columns_are_named() -> None:
    pairs = with_columns(planted(50, 0), 0)
    assert pairs.features.columns is not None
    values = pairs.features.columns.values.copy()
    values[7, 1] = np.nan
    broken = pairs._replace(features=pairs.features._replace(columns=PairColumns(("told", "noise"), values)))
    with pytest.raises(InvalidVectorError, match=r"1 bad numbers .* the first, 'noise' of row 7, is nan"):
        fit(make_ranker("mlp", "base", 0), broken, pairs)
    for names in (("told",), ("told", "told")):
        broken = pairs._replace(features=pairs.features._replace(columns=PairColumns(names, values)))
        with pytest.raises(ShapeError, match="wanted one column for each of these names"):
            fit(make_ranker("mlp", "base", 0), broken, pairs)


def test_one_column_ranks_alone_in_its_own_order() -> None:
    pairs = with_columns(planted(200, 0), 0)
    ranker = ColumnRanker()
    with pytest.raises(ShapeError, match="just one, found told, noise"):
        ranker.fit(pairs.features, pairs.labels, pairs.features, pairs.labels)
    assert pairs.features.columns is not None
    alone = pairs.features._replace(columns=pairs.features.columns.only(["told"]))
    ranker.fit(alone, pairs.labels, alone, pairs.labels)
    assert alone.columns is not None
    assert (np.argsort(ranker.score(alone)) == np.argsort(alone.columns.values[:, 0])).all()
    assert abs(ranker.score(alone).mean() - pairs.labels.mean()) < 0.01, "calibrated"


def test_style_keeps_grammar_and_drops_content() -> None:
    text = "Managed the IT team of 12 in Oslo; don't ask.\n\n- macOS"
    wanted = ["/Aa", "the", "/AA", "/a", "of", "/9", "in", "/Aa", ";", "don't", "/a", ".", "/n", "-", "/aA"]
    assert style_tokens(text) == wanted
    assert style_tokens("A nurse AND US") == ["A", "/a", "/AA", "/AA"], "a word in capitals is no pronoun"
    assert style_tokens("A experiência não é tudo") == ["A", "/a", "não", "é", "/a"], "Portuguese too"
    assert style_tokens("na\u0303o a car") == ["não", "a", "/a"], "accents belong to their letters"
    assert style_tokens("हिन्दी भाषा") == ["/a", "/a"], "marks of other scripts are no punctuation"
    assert not {"nurse", "java", "manager", "experience"} & function_words()


def test_style_finds_the_author_and_words_find_the_topic() -> None:
    terse = ["- Built roads; - Paved lots; - Led crews", "- Cut hair; - Dyed wigs; - Met clients"]
    wordy = ["I have built the roads and I led a crew.", "I have cut the hair and I met a client."]
    texts = [*terse, *wordy]
    style, lexical = fit_style(texts), fit_lexical(texts)
    same_author, same_topic = style.score([terse[0]], [terse[1]])[0], style.score([terse[0]], [wordy[0]])[0]
    assert same_author > 0.9 > 0.5 > same_topic
    assert lexical.score([terse[0]], [wordy[0]])[0] > lexical.score([terse[0]], [terse[1]])[0] == 0


def test_a_cosine_of_words_by_hand() -> None:
    # "red" and "red car" are in both texts, "car" in all three; "fast" and "old" in one each, which min_df leaves out
    lexical = fit_lexical(["red car fast", "red car old", "car"])
    assert lexical.score(["red car"], ["red car fast"])[0] == pytest.approx(1, abs=1e-6)
    # sublinear counts are all 1: idf(red) = idf(red car) = 1 + ln(4/3), idf(car) = 1; cosine = 1 / sqrt(1 + 2 * idf^2)
    assert lexical.score(["car"], ["red car"])[0] == pytest.approx(
        1 / np.sqrt(1 + 2 * (1 + np.log(4 / 3)) ** 2), abs=1e-6
    )
    assert lexical.score(["boat", ""], ["red car", "red car"]).tolist() == [0, 0]
    for nothing in ([], ["", ""], ["one word each", "shares none with another"]):
        assert fit_lexical(nothing).score(["no known term"], ["no known term"]).tolist() == [0]
        assert fit_style(nothing[:1]).score(["a b c"], ["x y z"]).tolist() == [0], "nothing to learn from"


def test_popularity_counts_earlier_matches_only() -> None:
    history = decisions(["a", "a", "a", "b", "c"], [True, True, False, True, False])
    np.testing.assert_allclose(popularity(np.array(["a", "b", "c", "new"]), history), np.log1p([2, 1, 0, 0]), rtol=1e-6)


def test_controls_are_columns_in_the_order_asked_for() -> None:
    history = decisions(["a", "b"], [True, True], ["red car", "blue car"])
    parts = [decisions(["a"], [True]), decisions(["b", "a"], [False, True])]
    asked = []

    def tuned_cosines(_: DecisionTexts, given: Sequence[DecisionTexts], until: datetime) -> list[np.ndarray]:
        asked.append(until)
        return [np.full(len(part.jds), 0.5) for part in given]

    columns = control_columns(history, parts, ["popularity", "tuned"], UNTIL, tuned_cosines)
    assert asked == [UNTIL]
    assert [part.names for part in columns] == [("popularity", "tuned")] * 2
    np.testing.assert_allclose(columns[1].values, [[np.log(2), 0.5]] * 2, rtol=1e-6)
    with pytest.raises(ConfigError, match="needs a function that tunes an encoder"):
        control_columns(history, parts, ["tuned"], UNTIL, None)
    with pytest.raises(ConfigError, match="each control should be named once"):
        control_columns(history, parts, ["style", "style"], UNTIL, None)


def test_controls_know_no_outcome_and_no_text_of_the_ranking_windows() -> None:
    history = decisions(["a", "b", "a"], [True, False, True], ["red car", "blue car", "red van"])
    part = decisions(["a", "b"], [True, False], ["red car sold", "blue van sold"])
    flipped = part._replace(matched=~part.matched)
    longer = decisions(["a", "b", "b"], [True, False, True], ["red car sold", "blue van sold", "red car sold again"])
    names = ["lexical", "style", "popularity"]
    [given], [other], [more] = (control_columns(history, [p], names, UNTIL, None) for p in (part, flipped, longer))
    np.testing.assert_array_equal(given.values, other.values)
    np.testing.assert_array_equal(given.values, more.values[:2])


def test_a_style_that_ranks_too_well_is_warned_of() -> None:
    rng = np.random.default_rng(0)
    pairs = planted(400, 0)
    style = (pairs.labels + rng.normal(size=400)).astype(np.float32)  # AUC about .76
    test = LabelledPairs(pairs.features, pairs.labels, np.array([f"s{i % 80}" for i in range(400)]), pairs.labels)
    for values, is_warned in ((style, True), (rng.normal(size=400).astype(np.float32), False)):
        column = PairColumns(("style",), values[:, None])
        parts = add_columns(RankingParts(test, test, test), [column] * 3)
        [row] = column_aucs(parts.test, 200)
        assert row.auc is not None and row.auc_low is not None and row.auc_high is not None
        assert row.auc == pytest.approx(auc(pairs.labels, values.astype(float)))
        assert row.auc_low < row.auc < row.auc_high
        assert (author_warning([row]) is not None) == is_warned
    assert author_warning([row._replace(auc=0.7, auc_low=0.52)]) is None, "it may be chance"
    assert author_warning([row._replace(auc=0.7, auc_low=None)]) is None
    warning = author_warning([row._replace(auc=0.82, auc_low=0.7)])
    assert warning is not None and "an AUC of 0.82" in warning and "recognition of the author" in warning
    assert author_warning([row._replace(name="lexical", auc=0.9, auc_low=0.8)]) is None
    assert column_aucs(test, 200) == []
