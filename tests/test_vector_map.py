"""The small network in numpy, and the linear map it starts from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features.errors import CheckpointError, ShapeError
from girl_features.lookup.vector_map import VectorMap, fit_ridge
from girl_features.vectors.similarity import mean_cosine, mean_of_nearest


def small_map() -> VectorMap:
    """Two dimensions to two, one hidden unit that reads the first."""
    arrays = ([[1, 0], [0, 1]], [0, 0], [[1], [0]], [0], [[0, 2]], 3)
    return VectorMap(*(np.asarray(array, np.float32) for array in arrays))


def test_a_result_worked_out_by_hand() -> None:
    # x = (1, 0): hidden silu(1) = 1 / (1 + e^-1) = .7311; y = (1, 2 * .7311) = (1, 1.4621), of length 1.7714;
    # scaled to length 3: (1.6936, 2.4762)
    [result] = small_map()(np.array([[1, 0]], np.float32))
    assert result == pytest.approx([1.6936, 2.4762], abs=1e-4)
    assert math.hypot(*result) == pytest.approx(3)


def test_vectors_of_another_dimension_are_refused() -> None:
    with pytest.raises(ShapeError, match="takes 2 dimensions"):
        small_map()(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("out", np.zeros((2, 2), np.float32), "h = 2, wanted 1"),
        ("bias", np.array([np.nan, 0], np.float32), "NaN or infinite"),
        ("skip", np.zeros((2, 2), np.float64), "no float32 array 'skip'"),
        ("length", np.zeros(1, np.float32), "no float32 array 'length'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(name: str, array: np.ndarray, message: str) -> None:
    assert VectorMap.checked(small_map().arrays(), "here").n_parameters == 11
    with pytest.raises(CheckpointError, match=message):
        VectorMap.checked({**small_map().arrays(), name: array}, "here")


def test_ridge_finds_a_linear_truth_and_shrinks_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 4)).astype(np.float32)
    truth = rng.normal(size=(4, 3))
    targets = (inputs @ truth + [1, 2, 3]).astype(np.float32)
    found = fit_ridge(inputs[:200], targets[:200], (inputs[200:], targets[200:]))
    assert found.cosine > 0.999
    assert found.map.skip == pytest.approx(truth, abs=0.01)
    noise = rng.normal(size=(300, 3)).astype(np.float32) + 5
    shrunk = fit_ridge(inputs[:20], noise[:20], (inputs[200:], noise[200:]))
    assert shrunk.penalty == 100
    assert np.abs(shrunk.map.skip).max() < 0.3


vectors = st.lists(st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(asked=vectors, n_stored=st.integers(1, 8), k=st.integers(1, 10), seed=st.integers(0, 9))
def test_neighbours_are_those_of_the_highest_cosine(asked: list[list[float]], n_stored: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stored = rng.normal(size=(n_stored, 3))
    stored = (stored / np.linalg.norm(stored, axis=1, keepdims=True)).astype(np.float32)
    generated = rng.normal(size=(n_stored, 3)).astype(np.float32)
    found = mean_of_nearest(np.array(asked, np.float32), stored, generated, k)
    for one, mean in zip(asked, found, strict=True):
        length = np.linalg.norm(one)
        if length < 1e-3:
            continue  # no direction: any neighbours will do
        nearest = sorted(range(n_stored), key=lambda i: -float(np.dot(one, stored[i]) / length))[:k]
        assert mean == pytest.approx(np.mean([generated[i] for i in nearest], axis=0), abs=1e-5)


def test_mean_cosine_worked_out_by_hand() -> None:
    a = np.array([[1, 0], [1, 1]], np.float32)
    b = np.array([[2, 0], [1, 0]], np.float32)
    assert mean_cosine(a, b) == pytest.approx((1 + 1 / math.sqrt(2)) / 2)
