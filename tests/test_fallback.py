"""Rankers by name, whole: enhanced rows fall back on their base twin where there is no generated JD."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from girl_features.errors import CheckpointError, ContractMismatchError
from girl_features.evaluation.metrics import auc
from girl_features.integrations.rankers.fallback import FallbackRanker
from girl_features.integrations.rankers.registry import WITH_FALLBACK, load_ranker, make_ranker
from tests.contracts import OTHER_CONTRACT, Labelled, MakeRanker, RankerContract, planted


class TestRegisteredRankers(RankerContract):
    @pytest.fixture(scope="class", params=["lightgbm"])
    @classmethod
    def make(cls, request: pytest.FixtureRequest) -> MakeRanker:
        return lambda row, seed: make_ranker(request.param, row, seed)  # type: ignore[arg-type]


def fitted(predictor: str, row: str, train: Labelled, valid: Labelled):  # type: ignore[no-untyped-def]
    ranker = make_ranker(predictor, row, 3)  # type: ignore[arg-type]
    ranker.fit(train.features, train.labels, valid.features, valid.labels)
    return ranker


def misleading(n: int, seed: int, share_generated: float) -> Labelled:
    """The CV's cosine tells the match; j' repeats the CV so strongly that a ranker may subtract the CV's own part."""
    rng = np.random.default_rng(seed)
    cv, jd, wish = (rng.normal(size=(n, 12)).astype(np.float32) for _ in range(3))
    labels = rng.random(n) < 0.5
    jd += np.where(labels[:, None], 0.5, 0) * cv + np.where(labels[:, None], 0.8, 0) * wish
    has = rng.random(n) < share_generated
    features = planted(n, seed, 12).features
    return Labelled(
        features._replace(cv=cv, jd=jd, generated_jd=cv + 0.5 * wish, tier=np.where(has, 0, 4).astype(np.int8)), labels
    )


@pytest.mark.parametrize("predictor", WITH_FALLBACK)
def test_pairs_without_a_generated_jd_get_the_base_score(predictor: str) -> None:
    train, valid = misleading(400, 0, 1.0), misleading(200, 1, 1.0)
    enhanced, base = (fitted(predictor, row, train, valid) for row in ("enhanced", "base"))
    test = misleading(300, 2, 0.5)
    scores, base_scores = enhanced.score(test.features), base.score(test.features)
    absent = ~test.features.has_generated_jd
    np.testing.assert_allclose(scores[absent], base_scores[absent], rtol=1e-5)
    assert auc(test.labels[absent], scores[absent]) > 0.7
    assert auc(test.labels[~absent], scores[~absent]) > auc(test.labels[~absent], base_scores[~absent])


@pytest.mark.parametrize("predictor", WITH_FALLBACK)
def test_pairs_without_a_generated_jd_do_not_blur_the_enhanced_half(predictor: str) -> None:
    train, valid, test = misleading(600, 0, 0.6), misleading(300, 1, 0.6), misleading(200, 2, 1.0)
    whole = fitted(predictor, "enhanced", train, valid)
    train, valid = (
        Labelled(part.features.take(has := part.features.has_generated_jd), part.labels[has]) for part in (train, valid)
    )
    alone = fitted(predictor, "enhanced", train, valid)
    np.testing.assert_array_equal(whole.score(test.features), alone.score(test.features))


def test_the_papers_plain_forms_have_no_twin() -> None:
    for predictor in ("mlp-plain", "dot-plain", "lightgbm-plain"):
        assert not isinstance(make_ranker(predictor, "enhanced", 0), FallbackRanker)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    fitted("lightgbm", "enhanced", planted(200, 0), planted(100, 1)).save(tmp_path)
    return tmp_path


def test_saved_and_loaded_scores_are_equal(saved: Path) -> None:
    ranker = fitted("lightgbm", "enhanced", planted(200, 0), planted(100, 1))
    test = planted(40, 2, share_generated=0.5).features
    loaded = load_ranker(saved)
    np.testing.assert_array_equal(loaded.score(test), ranker.score(test))
    with pytest.raises(ContractMismatchError):
        loaded.score(test._replace(contract=OTHER_CONTRACT))


def test_a_half_from_another_save_is_refused(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    fitted("lightgbm", "enhanced", planted(200, 5), planted(100, 6)).save(other)
    shutil.rmtree(saved / "base")
    shutil.copytree(other / "base", saved / "base")
    with pytest.raises(CheckpointError, match="not the file its manifest"):
        load_ranker(saved)


def test_a_missing_half_is_refused(saved: Path) -> None:
    shutil.rmtree(saved / "base")
    with pytest.raises(CheckpointError, match=r"base.manifest.json is absent"):
        load_ranker(saved)


def test_halves_that_do_not_belong_together_are_refused(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**manifest, "contract": OTHER_CONTRACT}))
    with pytest.raises(CheckpointError, match="wanted 'lightgbm' 'enhanced' of 'ba98"):
        load_ranker(saved)
