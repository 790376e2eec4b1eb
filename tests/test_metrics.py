"""Metrics against numbers worked out on paper and against slow, obvious oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from girl_features.errors import ShapeError, UndefinedMetricError
from girl_features.evaluation.metrics import (
    auc,
    brier,
    calibration_curve,
    expected_calibration_error,
    log_loss,
    weighted_auc,
)

LABELS = np.array([True, False, True, False])
GRID = st.sampled_from([-1.0, 0.0, 0.25, 0.25000001, 3.0])  # few values: many ties


@st.composite
def weighted_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = draw(st.lists(st.tuples(st.booleans(), GRID, st.integers(0, 3)), min_size=1, max_size=25))
    rows += [(True, draw(GRID), 1), (False, draw(GRID), 2)]  # both classes, with weight
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    return labels, scores, weights


def brute_force_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    wins = [
        1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
        for i in np.flatnonzero(labels)
        for j in np.flatnonzero(~labels)
    ]
    return sum(wins) / len(wins)


def test_auc_by_hand():
    # matches .8 and .4, mismatches .6 and .4: .8 beats both, .4 loses to .6 and ties with .4: (2 + 0 + 1/2) / 4
    assert auc(LABELS, np.array([0.8, 0.6, 0.4, 0.4])) == 2.5 / 4


def test_auc_takes_zeros_and_ones_and_any_scale():
    assert auc(np.array([0, 1, 1]), np.array([-30, 5, 1000])) == 1.0


@given(weighted_pairs())
def test_auc_equals_comparing_every_pair(rows):
    labels, scores, _ = rows
    assert auc(labels, scores) == pytest.approx(brute_force_auc(labels, scores))


@given(weighted_pairs())
def test_weighted_auc_equals_repeating_the_rows(rows):
    labels, scores, weights = rows
    repeated = brute_force_auc(np.repeat(labels, weights), np.repeat(scores, weights))
    both = weighted_auc(labels, scores, np.stack([weights, np.ones_like(weights)], axis=1))
    assert both == pytest.approx([repeated, brute_force_auc(labels, scores)])


@given(weighted_pairs())
def test_auc_of_reversed_scores_is_the_rest(rows):
    labels, scores, _ = rows
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores))


def test_log_loss_by_hand():
    # -(ln .5 + ln .8 + ln .25 + ln 1) / 4 = (.693147 + .223144 + 1.386294 + 0) / 4 = .575646
    assert log_loss(LABELS, np.array([0.5, 0.2, 0.25, 0.0])) == pytest.approx(0.575646, abs=1e-6)


def test_log_loss_of_sure_and_wrong_is_clipped():
    # -ln 1e-7 = 16.118
    assert log_loss(np.array([True]), np.array([0.0])) == pytest.approx(16.118, abs=1e-3)


def test_brier_by_hand():
    # (.5² + .2² + .75² + 0) / 4 = (.25 + .04 + .5625) / 4
    assert brier(LABELS, np.array([0.5, 0.2, 0.25, 0.0])) == pytest.approx(0.8525 / 4)


def test_calibration_by_hand():
    # bins {.1, .2} with no match: gap .15; {.6, .8} with one of two: mean .7, rate .5, gap .2; ECE (.15 + .2) / 2
    labels, probabilities = np.array([False, True, False, False]), np.array([0.1, 0.8, 0.2, 0.6])
    curve = calibration_curve(labels, probabilities, n_bins=2)
    assert curve.mean_probability == pytest.approx([0.15, 0.7])
    assert curve.match_rate == pytest.approx([0.0, 0.5])
    assert list(curve.n) == [2, 2]
    assert expected_calibration_error(labels, probabilities, n_bins=2) == pytest.approx(0.175)


@given(weighted_pairs(), st.integers(1, 12), st.randoms(use_true_random=False))
def test_calibration_keeps_every_pair_and_ignores_row_order(rows, n_bins, random):
    labels, scores, _ = rows
    probabilities = 1 / (1 + np.exp(-scores))
    curve = calibration_curve(labels, probabilities, n_bins)
    assert curve.n.sum() == len(labels) and curve.n.min() > 0 and len(curve.n) <= n_bins
    assert (curve.match_rate * curve.n).sum() == pytest.approx(labels.sum())
    assert (np.diff(curve.mean_probability) > 0).all()
    order = np.array(random.sample(range(len(labels)), len(labels)))
    shuffled = calibration_curve(labels[order], probabilities[order], n_bins)
    assert shuffled.match_rate == pytest.approx(curve.match_rate)


def test_a_constant_prediction_at_the_match_rate_is_calibrated():
    labels = np.arange(100) % 4 == 0
    assert expected_calibration_error(labels, np.full(100, 0.25)) == pytest.approx(0)


@pytest.mark.parametrize("only", [True, False])
def test_auc_of_one_class_is_an_error(only):
    with pytest.raises(UndefinedMetricError, match="lack one of the two"):
        auc(np.array([only, only]), np.array([0.1, 0.2]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_an_error(bad):
    with pytest.raises(UndefinedMetricError, match="1 of 2 scores are not finite"):
        auc(np.array([True, False]), np.array([0.1, bad]))


@pytest.mark.parametrize("metric", [log_loss, brier, expected_calibration_error])
def test_scores_that_are_not_probabilities_are_an_error(metric):
    with pytest.raises(UndefinedMetricError, match=r"from -0.1 to 1.5 where probabilities"):
        metric(np.array([True, False]), np.array([-0.1, 1.5]))


def test_labels_other_than_zero_and_one_are_an_error():
    with pytest.raises(UndefinedMetricError, match="labels must be 0 or 1, found"):
        auc(np.array([0, 2]), np.array([0.1, 0.2]))


@pytest.mark.parametrize(("n_labels", "n_scores"), [(2, 3), (0, 0)])
def test_labels_and_scores_that_do_not_line_up_are_an_error(n_labels, n_scores):
    with pytest.raises(ShapeError, match="wanted one score for each"):
        auc(np.ones(n_labels, bool), np.ones(n_scores))


def test_no_bins_is_an_error():
    with pytest.raises(UndefinedMetricError, match="n_bins is 0"):
        calibration_curve(LABELS, np.full(4, 0.5), n_bins=0)
