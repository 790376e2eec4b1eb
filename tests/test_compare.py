"""The comparison of rows: planted gains, no gains, intervals that cover, and everything that cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import erf

import numpy as np
import polars as pl
import pytest

from girl_features.config import GirlConfig
from girl_features.errors import ConfigError, ShapeError, UndefinedMetricError
from girl_features.evaluation.bootstrap import (
    percentile_interval,
    resample_seekers,
    resampled_auc,
    resampled_log_loss,
    seed_shares,
)
from girl_features.evaluation.compare import LabelledPairs, RankingParts, compare_rows
from girl_features.evaluation.metrics import auc, log_loss
from girl_features.evaluation.reference import CosineRanker
from girl_features.evaluation.results import Comparison, ResultRow
from girl_features.evaluation.run import save_comparison
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.tiers import CAVEAT, LowerTiers
from girl_features.vectors.regression import platt_scale
from girl_features.vectors.similarity import cosine
from tests.fakes import ColumnRanker
from tests.input_tables import write_tables

PAIRS_PER_SEEKER = 5


def planted_pairs(
    rng: np.random.Generator, n_seekers: int = 80, base: float = 1.0, enhanced: float = 1.0, seeker_sd: float = 0.0
) -> LabelledPairs:
    """Matches score `base` higher in cv[:, 0] and `enhanced` higher in generated_jd[:, 0], noise SD 1.

    Every seeker also has a match rate, and an effect of `seeker_sd` on the enhanced scores, of their own.
    """
    seekers = np.repeat(np.arange(n_seekers), PAIRS_PER_SEEKER)
    labels = rng.random(len(seekers)) < rng.choice([0.15, 0.6], n_seekers)[seekers]
    shape = (len(seekers), 4)
    cv, jd, generated = (rng.normal(size=shape) for _ in range(3))
    cv[:, 0] += base * labels
    generated[:, 0] += enhanced * labels + rng.normal(0, seeker_sd, n_seekers)[seekers]
    features = PairFeatures(cv, jd, generated, np.full(len(seekers), Tier.GENERATED, np.int8), "aaaaaaaaaaaa")
    ids = np.array([f"seeker-{seeker}" for seeker in seekers])
    return LabelledPairs(features, labels, ids, seekers % 2 == 0)


def parts_of(test: LabelledPairs) -> RankingParts:
    train = planted_pairs(np.random.default_rng(99), n_seekers=20)
    return RankingParts(train, train, test)


def column_ranker(predictor: str, form: str, seed: int) -> ColumnRanker:
    return ColumnRanker(form, noise=0.1 if predictor == "noisy" else 0.0, seed=seed)


def compare(
    test: LabelledPairs, make_ranker=column_ranker, predictors=("column",), seeds=(0, 1, 2), n_bootstrap=200, **kwargs
) -> Comparison:
    splits = {"base": parts_of(test), "girl-sft": parts_of(test)}
    return compare_rows("planted", splits, predictors, make_ranker, seeds, n_bootstrap, **kwargs)


def cell(
    comparison: Comparison, row: str = "girl-sft", slice_name: str = "all", predictor: str = "column"
) -> ResultRow:
    (found,) = [r for r in comparison.rows if (r.predictor, r.row, r.slice) == (predictor, row, slice_name)]
    return found


def true_auc(gap: float, sd: float = 1.0) -> float:
    """Chance that N(gap, sd²) exceeds N(0, sd²): Phi(gap / (sd sqrt 2))."""
    return 0.5 * (1 + erf(gap / sd / 2))


def test_a_planted_better_feature_is_better():
    result = cell(compare(planted_pairs(np.random.default_rng(0), base=0.5, enhanced=2.0)))
    assert result.verdict == "better"
    assert 0 < result.auc_gain_low < result.auc_gain < result.auc_gain_high
    assert result.auc_low < result.auc < result.auc_high
    assert result.auc_gain == pytest.approx(true_auc(2.0) - true_auc(0.5), abs=0.06)


def test_a_gain_in_log_loss_is_the_row_less_base():
    comparison = compare(planted_pairs(np.random.default_rng(0), base=0.5, enhanced=2.0))
    result, base = cell(comparison), cell(comparison, row="base")
    assert result.logloss_gain == pytest.approx(result.logloss - base.logloss)
    assert result.logloss_gain_low < result.logloss_gain < result.logloss_gain_high


def test_a_planted_worse_feature_is_worse():
    result = cell(compare(planted_pairs(np.random.default_rng(0), base=2.0, enhanced=0.5)))
    assert result.verdict == "worse" and result.auc_gain_high < 0


def test_identical_rows_gain_nothing():
    test = planted_pairs(np.random.default_rng(0))
    same = test._replace(features=test.features._replace(generated_jd=test.features.cv))
    result = cell(compare(same))
    gains = (result.auc_gain, result.auc_gain_low, result.auc_gain_high, result.logloss_gain, result.auc_gain_seed_sd)
    assert gains == (0, 0, 0, 0, 0)
    assert result.verdict == "not shown"


def gain_interval(test: LabelledPairs, clusters: np.ndarray, seed: int = 0, n: int = 200) -> tuple[float, float]:
    resamples = resample_seekers(test.labels, clusters, n, seed)
    base, enhanced = test.features.cv[:, :1].T, test.features.generated_jd[:, :1].T
    difference = resampled_auc(test.labels, enhanced, resamples) - resampled_auc(test.labels, base, resamples)
    return percentile_interval(difference)


@pytest.mark.parametrize("enhanced", [1.0, 1.6])
def test_intervals_cover_the_true_gain_about_95_times_in_a_hundred(enhanced):
    # the seeker effect widens the spread of enhanced scores from 1 to sqrt(1 + .7²)
    true_gain = true_auc(enhanced, np.hypot(1, 0.7)) - true_auc(1.0)
    rng = np.random.default_rng(5)
    intervals = [gain_interval(planted_pairs(rng, enhanced=enhanced, seeker_sd=0.7), ids(80), i) for i in range(150)]
    covered = np.mean([low <= true_gain <= high for low, high in intervals])
    assert 0.85 <= covered <= 0.995


def ids(n_seekers: int) -> np.ndarray:
    return np.repeat(np.arange(n_seekers), PAIRS_PER_SEEKER).astype(str)


def test_noise_is_not_shown_about_95_times_in_a_hundred():
    rng = np.random.default_rng(7)
    intervals = [gain_interval(planted_pairs(rng), ids(80), i) for i in range(150)]
    shown = np.mean([low > 0 or high < 0 for low, high in intervals])
    assert 0.005 <= shown <= 0.15


def test_luck_with_seeds_is_not_shown_either():
    """Rankers of one row are better or worse by seed alone, on test seekers so many that they hardly matter."""
    rng, n_shown = np.random.default_rng(9), 0
    for i in range(60):
        test = planted_pairs(rng, n_seekers=400)
        signal = test.labels * 1.0
        rows = [np.stack([signal * q + rng.normal(size=len(signal)) for q in rng.normal(1, 0.3, 5)]) for _ in "ab"]
        resamples = resample_seekers(test.labels, test.seeker_ids, 200, i)
        low, high = percentile_interval(np.subtract(*(resampled_auc(test.labels, row, resamples) for row in rows)))
        n_shown += low > 0 or high < 0
    assert n_shown <= 15, "of 60; five seeds tell their own spread a little too small"


def test_resampling_seekers_is_wider_than_resampling_pairs_of_dependent_seekers():
    test = planted_pairs(np.random.default_rng(1), n_seekers=200, seeker_sd=3.0)
    by_seeker = np.ptp(gain_interval(test, test.seeker_ids, n=500))
    by_pair = np.ptp(gain_interval(test, np.arange(len(test.labels)).astype(str), n=500))
    assert by_seeker > 1.1 * by_pair


def test_resampled_metrics_equal_metrics_of_the_repeated_rows():
    test = planted_pairs(np.random.default_rng(2), n_seekers=12)
    resamples = resample_seekers(test.labels, test.seeker_ids, 20, seed=4)
    rng = np.random.default_rng(3)
    scores = rng.random((2, len(test.labels))).round(1)  # two seeds, with ties
    aucs, losses = (f(test.labels, scores, resamples) for f in (resampled_auc, resampled_log_loss))
    names, shares = np.unique(test.seeker_ids), seed_shares(20, 2)
    assert set(shares[:, 0]) == {0, 0.5, 1} and (shares.sum(axis=1) == 1).all()
    for r, drawn in enumerate(resamples.counts):
        assert drawn.sum() == len(names)
        rows = np.concatenate([np.flatnonzero(test.seeker_ids == s) for s in np.repeat(names, drawn)])
        assert aucs[r] == pytest.approx(shares[r] @ [auc(test.labels[rows], one[rows]) for one in scores])
        assert losses[r] == pytest.approx(shares[r] @ [log_loss(test.labels[rows], one[rows]) for one in scores])


def test_many_resamples_are_measured_in_portions_of_the_same_values():
    test = planted_pairs(np.random.default_rng(2), n_seekers=1000)  # 5,000 rows: 400 resamples a portion
    resamples = resample_seekers(test.labels, test.seeker_ids, 450, seed=4)
    scores = test.features.cv[:, :1].T
    last = resamples._replace(counts=resamples.counts[-60:])
    assert (resampled_auc(test.labels, scores, resamples)[-60:] == resampled_auc(test.labels, scores, last)).all()


def test_the_percentile_interval_by_hand():
    # of 0, 1, ... 1000, 2.5 % lie below 25 and 2.5 % above 975
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25, 975))


def test_resamples_without_both_classes_are_drawn_again_and_counted():
    labels, seekers = np.array([True, False, False, False]), np.array(["a", "b", "c", "d"])
    resamples = resample_seekers(labels, seekers, 300, seed=0)
    assert (resamples.counts[:, 0] > 0).all() and (resamples.counts[:, 1:].sum(axis=1) > 0).all()
    # a draw of four misses "a" with chance .75^4 = .316, so about 300 * .316 / .684 = 139 are drawn again
    assert 100 < resamples.n_redrawn < 180


def test_resampling_is_repeatable_and_follows_its_seed():
    test = planted_pairs(np.random.default_rng(0))
    assert compare(test).to_json() == compare(test).to_json()
    assert cell(compare(test)).auc_low != cell(compare(test, bootstrap_seed=1)).auc_low


def test_one_class_cannot_be_resampled():
    with pytest.raises(UndefinedMetricError, match="all 2 labels are True"):
        resample_seekers(np.array([True, True]), np.array(["a", "b"]), 10, seed=0)


def test_seeds_are_averaged_and_their_spread_is_reported():
    test = planted_pairs(np.random.default_rng(0))
    comparison = compare(test, predictors=("noisy",), seeds=(3, 4, 5))
    result = cell(comparison, predictor="noisy")
    rankers = [ColumnRanker("enhanced", noise=0.1, seed=seed) for seed in (3, 4, 5)]
    aucs = [auc(test.labels, ranker.score(test.features)) for ranker in rankers]
    assert result.auc == pytest.approx(np.mean(aucs))
    assert result.auc_seed_sd == pytest.approx(np.std(aucs, ddof=1))
    assert result.seeds == 3
    assert cell(compare(test, seeds=(0,))).auc_seed_sd is None


def test_rows_come_for_every_predictor_row_and_slice_with_the_cosine_as_reference():
    done: list[int] = []
    comparison = compare(planted_pairs(np.random.default_rng(0)), predictors=("a", "b"), progress=done.append)
    keys = [(row.slice, row.predictor, row.row) for row in comparison.rows]
    trained = [(p, r) for p in ("a", "b") for r in ("base", "girl-sft")]
    assert keys == [(s, p, r) for s in ("all", "cold") for p, r in [("cosine", "base"), *trained]]
    assert sum(done) == 2 * 2 * 3
    assert all(row.verdict is None and row.auc_gain is None for row in comparison.rows if row.row == "base")


def test_the_cold_slice_holds_cold_start_seekers_alone():
    test = planted_pairs(np.random.default_rng(0))
    result = cell(compare(test), slice_name="cold")
    cold = test.is_cold_start
    assert result.auc == pytest.approx(auc(test.labels[cold], test.features.generated_jd[cold, 0]))
    assert (result.n, result.n_seekers) == (200, 40)


def test_json_has_the_promised_keys_and_plain_values():
    printed = json.loads(json.dumps(compare(planted_pairs(np.random.default_rng(0))).to_json(), allow_nan=False))
    promised = ["data", "predictor", "row", "slice", "auc", "auc_low", "auc_high", "logloss", "seeds", "n"]
    assert all(list(row)[:10] == promised for row in printed["rows"])
    assert printed["meta"]["contracts"] == {"base": "aaaaaaaaaaaa", "girl-sft": "aaaaaaaaaaaa"}
    assert printed["meta"]["parts"]["test"]["n"] == 400


def test_scores_are_kept_for_every_pair():
    test = planted_pairs(np.random.default_rng(0))
    comparison = compare(test)
    assert comparison.scores.height == 400 * (1 + 2 * 3)
    kept = comparison.scores.filter(predictor="column", row="girl-sft", seed=1).sort("pair")
    assert auc(kept["matched"].to_numpy(), kept["score"].to_numpy()) == cell(comparison).auc
    assert kept["job_seeker_id"].to_list() == list(test.seeker_ids)


def test_kept_scores_name_nobody(tmp_path):
    comparison = compare(planted_pairs(np.random.default_rng(0)))
    config = GirlConfig(workspace=tmp_path / "workspace", tables=write_tables(tmp_path))
    kept = pl.read_parquet(save_comparison(config, comparison) / "scores.parquet")
    assert "job_seeker_id" not in kept.columns
    assert "seeker-" not in kept.write_csv()
    assert kept["seeker"].n_unique() == comparison.scores["job_seeker_id"].n_unique() == 80
    same = comparison.scores.with_columns(kept["seeker"]).group_by("seeker").agg(pl.col("job_seeker_id").n_unique())
    assert same["job_seeker_id"].to_list() == [1] * 80


@pytest.mark.parametrize("cold", ["nobody", "matches alone"])
def test_a_slice_without_both_classes_has_a_row_of_nulls_and_a_note(cold):
    test = planted_pairs(np.random.default_rng(0))
    mask = np.zeros(400, bool) if cold == "nobody" else test.labels
    result = cell(compare(test._replace(is_cold_start=mask)), slice_name="cold")
    assert (result.auc, result.auc_low, result.logloss, result.auc_gain, result.verdict) == (None,) * 5
    assert result.n == mask.sum() and "no AUC without both classes" in result.note


def test_a_slice_of_few_seekers_has_values_but_no_interval():
    test = planted_pairs(np.random.default_rng(0))
    few = np.isin(test.seeker_ids, [f"seeker-{i}" for i in range(6)])
    result = cell(compare(test._replace(is_cold_start=few)), slice_name="cold")
    assert result.auc is not None and result.auc_gain is not None
    assert (result.auc_low, result.auc_gain_low, result.verdict) == (None, None, None)
    assert "no interval below 10" in result.note


@pytest.mark.parametrize("field", ["labels", "seeker_ids", "is_cold_start"])
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_rows_of_other_pairs_are_an_error(part, field):
    base = parts_of(planted_pairs(np.random.default_rng(0)))
    pairs: LabelledPairs = getattr(base, part)
    other = base._replace(**{part: pairs._replace(**{field: np.roll(getattr(pairs, field), 1)})})
    with pytest.raises(ShapeError, match=f"the {part} parts of rows 'base' and 'girl-sft' differ in {field}"):
        compare_rows("planted", {"base": base, "girl-sft": other}, ["column"], column_ranker, [0], 100)


def test_labels_of_another_length_than_the_pairs_are_an_error():
    test = planted_pairs(np.random.default_rng(0))
    with pytest.raises(ShapeError, match=r"row 'base', test part: labels has shape \(399,\) for 400 pairs"):
        compare(test._replace(labels=test.labels[1:]))


class BrokenRanker(ColumnRanker):
    """Returns what it was told to return."""

    def __init__(self, scores: np.ndarray) -> None:
        super().__init__("base")
        self._scores = scores

    def score(self, features: PairFeatures) -> np.ndarray:
        return self._scores


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (np.full(399, 0.5), ShapeError, r"ranker 'column', row 'base', seed 0 returned scores of shape \(399,\)"),
        (np.full(400, np.nan), UndefinedMetricError, "row 'base', seed 0 returned scores that are not probabilities"),
        (np.full(400, 1.2), UndefinedMetricError, "row 'base', seed 0 returned scores that are not probabilities"),
    ],
)
def test_a_ranker_that_returns_no_probabilities_is_named(scores, error, message):
    with pytest.raises(error, match=message):
        compare(planted_pairs(np.random.default_rng(0)), make_ranker=lambda *_: BrokenRanker(scores))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictors": ()}, "evaluate.predictors must be one or more"),
        ({"predictors": ("a", "a")}, "evaluate.predictors must be one or more distinct"),
        ({"seeds": ()}, "evaluate.seeds must be one or more"),
        ({"predictors": ("cosine",)}, "'cosine' is always evaluated"),
        ({"n_bootstrap": 99}, "n_bootstrap is 99"),
    ],
)
def test_a_plan_that_makes_no_sense_is_an_error(change: Mapping, message):
    with pytest.raises(ConfigError, match=message):
        compare(planted_pairs(np.random.default_rng(0)), **change)


def test_a_comparison_without_base_is_an_error():
    parts = parts_of(planted_pairs(np.random.default_rng(0)))
    with pytest.raises(ConfigError, match=r"needs the row 'base' and one more, found \['girl-sft'\]"):
        compare_rows("planted", {"girl-sft": parts}, ["column"], column_ranker, [0], 100)


def test_cosine_by_hand():
    # (3, 4) and (4, 3): 24 / 25; a zero row has none, so 0
    assert cosine(np.array([[3, 4], [0, 0]]), np.array([[4, 3], [1, 1]])) == pytest.approx([0.96, 0])


def test_platt_scaling_by_hand():
    # of the pairs at 0 one in four matched, at 1 three in four: intercept -ln 3, slope 2 ln 3
    scores, labels = np.repeat([0.0, 1.0], 4), np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)
    assert platt_scale(scores, labels) == pytest.approx((2 * np.log(3), -np.log(3)), abs=1e-4)


@pytest.mark.parametrize("labels", [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
def test_the_calibrated_cosine_keeps_the_order_whatever_the_valid_part_says(labels):
    angles = np.linspace(0, np.pi, 6)
    cv, jd = np.tile([1.0, 0.0], (6, 1)), np.stack([np.cos(angles), np.sin(angles)], axis=1)
    features = PairFeatures(cv, jd, np.zeros((6, 2)), np.zeros(6, np.int8), "aaaaaaaaaaaa")
    ranker = CosineRanker()
    ranker.fit(features, np.array(labels, bool), features, np.array(labels, bool))
    scores = ranker.score(features)
    assert (np.diff(scores) < 0).all() and scores.min() >= 0 and scores.max() <= 1


def test_each_lower_tier_is_a_slice_of_its_own_in_the_json() -> None:
    test = planted_pairs(np.random.default_rng(0), base=0.3, enhanced=1.5)
    half = test.features.generated_jd / 2

    def stand_ins(features: PairFeatures) -> LowerTiers:
        return {Tier.STUDENT: half, Tier.PRIOR: np.zeros_like(half)}

    comparison = compare(test, stand_ins=stand_ins, n_bootstrap=100)
    found = {row["slice"]: row for row in comparison.to_json()["rows"] if row["row"] == "girl-sft"}
    assert set(found) == {"all", "cold", "tier_student", "tier_prior"}
    # the ranker's score grows with the first entry of j': half of it keeps the order, and zeros have none
    assert found["tier_student"]["auc"] == pytest.approx(found["all"]["auc"])
    assert found["tier_student"]["logloss"] != pytest.approx(found["all"]["logloss"])
    assert found["tier_prior"]["auc"] == 0.5
    assert found["tier_prior"]["verdict"] == "worse"
    assert comparison.to_json()["meta"]["tiers"] == CAVEAT
    assert "tiers" not in compare(test, n_bootstrap=100).to_json()["meta"]
    assert {row.slice for row in comparison.rows} == {"all", "cold"}  # what pages and plots show
