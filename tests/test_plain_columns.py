"""Plain columns: values by hand, gaps, saving, and a user's own ranker on top."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from girl_features.errors import CheckpointError, ConfigError, ContractMismatchError, InvalidVectorError, ShapeError
from girl_features.evaluation.metrics import auc
from girl_features.integrations.plain_columns import ARRAYS, PlainReduction, fit_reduction, plain_columns
from girl_features.integrations.rankers.registry import load_ranker
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.vectors.regression import fit_logistic
from tests.contracts import CONTRACT, OTHER_CONTRACT, planted


def three_pairs() -> PairFeatures:
    """The generated JDs lie on the line from (0, 1) to (0, 3); the third pair has none."""
    return PairFeatures(
        cv=np.array([[1, 0], [1, 0], [0, 1]], np.float32),
        jd=np.array([[3, 4], [0, 1], [0, 2]], np.float32),
        generated_jd=np.array([[0, 1], [0, 3], [0, 0]], np.float32),
        tier=np.array([Tier.GENERATED, Tier.GENERATED, Tier.PRIOR], np.int8),
        contract=CONTRACT,
    )


def test_columns_by_hand() -> None:
    features = three_pairs()
    frame = plain_columns(features, fit_reduction(features, 1))
    assert frame.schema == {
        "girl_cos_cv_jd": pl.Float64,
        "girl_cos_generated_jd_jd": pl.Float64,
        "girl_cos_cv_generated_jd": pl.Float64,
        "girl_generated_jd_pca_00": pl.Float64,
        "girl_has_generated_jd": pl.Boolean,
        "girl_tier": pl.Int8,
    }
    # cos((1,0), (3,4)) = 3/5; cos((0,1), (3,4)) = 4/5; generated JDs about their mean (0, 2): -1 and 1
    assert frame["girl_cos_cv_jd"].to_list() == pytest.approx([0.6, 0.0, 1.0])
    assert frame["girl_cos_generated_jd_jd"].to_list()[:2] == pytest.approx([0.8, 1.0])
    assert frame["girl_cos_cv_generated_jd"].to_list()[:2] == pytest.approx([0.0, 0.0])
    assert frame["girl_generated_jd_pca_00"].to_list()[:2] == pytest.approx([-1.0, 1.0])
    assert frame["girl_has_generated_jd"].to_list() == [True, True, False]
    assert frame["girl_tier"].to_list() == [0, 0, 4]  # generated, generated, prior


def test_what_is_drawn_from_an_absent_generated_jd_is_null() -> None:
    features = three_pairs()
    last = plain_columns(features, fit_reduction(features, 2)).row(2, named=True)
    absent = {name for name, value in last.items() if value is None}
    assert absent == {
        "girl_cos_generated_jd_jd",
        "girl_cos_cv_generated_jd",
        "girl_generated_jd_pca_00",
        "girl_generated_jd_pca_01",
    }


def test_another_make_of_ranker_finds_the_signal_in_them() -> None:
    train, test = planted(400, 0), planted(400, 1)
    reduction = fit_reduction(train.features, 3)
    numbers = [plain_columns(part.features, reduction).to_numpy() for part in (train, test)]
    weights = fit_logistic(numbers[0].astype(np.float64), train.labels)
    assert auc(test.labels, numbers[1].astype(np.float64) @ weights[:-1]) > 0.8


def test_no_pairs_no_rows_same_columns() -> None:
    reduction = fit_reduction(planted(30, 0).features, 3)
    full, empty = (plain_columns(planted(20, 1).features.take(np.arange(n)), reduction) for n in (20, 0))
    assert empty.height == 0 and empty.schema == full.schema


def test_a_saved_reduction_gives_the_same_columns(tmp_path: Path) -> None:
    reduction = fit_reduction(planted(50, 0).features, 3)
    reduction.save(tmp_path / "reduction")
    loaded = PlainReduction.load(tmp_path / "reduction")
    test = planted(20, 1, share_generated=0.5).features
    assert plain_columns(test, loaded).equals(plain_columns(test, reduction))
    assert loaded.contract == CONTRACT


def test_altered_or_foreign_files_are_refused(tmp_path: Path) -> None:
    fit_reduction(planted(50, 0).features, 3).save(tmp_path)
    with pytest.raises(CheckpointError, match="no manifest this version reads"):
        load_ranker(tmp_path)
    (tmp_path / ARRAYS).write_bytes((tmp_path / ARRAYS).read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="not the file its manifest"):
        PlainReduction.load(tmp_path)


def test_another_contract_or_dimension_is_refused() -> None:
    reduction = fit_reduction(planted(50, 0).features, 3)
    with pytest.raises(ContractMismatchError, match=OTHER_CONTRACT):
        plain_columns(planted(5, 1).features._replace(contract=OTHER_CONTRACT), reduction)
    with pytest.raises(InvalidVectorError, match="7 dimensions"):
        plain_columns(planted(5, 1, dimension=7).features, reduction)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ShapeError, match="none of 5 pairs has a generated JD"):
        fit_reduction(planted(5, 0, share_generated=0).features, 2)
    with pytest.raises(ConfigError, match="found 0"):
        fit_reduction(planted(5, 0).features, 0)
    features = planted(5, 0).features
    features.generated_jd[3, 1] = np.nan
    with pytest.raises(InvalidVectorError, match="row 3"):
        fit_reduction(features, 2)


def test_more_components_than_dimensions_gives_one_a_dimension() -> None:
    frame = plain_columns(planted(5, 1).features, fit_reduction(planted(50, 0).features, 99))
    assert sum(name.startswith("girl_generated_jd_pca_") for name in frame.columns) == 6
