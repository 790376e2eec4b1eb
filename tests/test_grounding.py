"""Grounding: which jobs are open, who comes first, and how that is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features.errors import ShapeError
from girl_features.lab.grounding.nearest import ApproximateIndex, ExactIndex, make_index
from girl_features.lab.grounding.open_jobs import (
    JobTable,
    Query,
    RankedOpenJobs,
    chance_recall,
    ground,
    measure_grounding,
    open_at,
    read_jobs,
    reorder,
)
from tests.input_tables import day, load, write_tables


def moment(n: float) -> np.datetime64:
    return np.datetime64(day(n).replace(tzinfo=None), "us")


NEVER = np.datetime64("NaT", "us")
JOBS = JobTable(
    ["a", "b", "c", "d"],
    ["jd a", "jd b", "jd c", "jd d"],
    np.array([moment(1), moment(1), moment(5), moment(9)]),
    np.array([NEVER, moment(4), moment(8), NEVER]),
)
VECTORS = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)


def query(at: float, vector: tuple[float, float], matched: tuple[int, ...]) -> Query:
    own = np.array(vector, np.float32)
    return Query("s", day(at), "cv", own, own, matched)


def test_a_job_is_open_from_when_it_is_known_to_its_first_match() -> None:
    assert open_at(JOBS, day(1)).tolist() == [False] * 4, "known strictly before"
    assert open_at(JOBS, day(2)).tolist() == [True, True, False, False]
    assert open_at(JOBS, day(4)).tolist() == [True, True, False, False], "the match itself finds it open"
    assert open_at(JOBS, day(7)).tolist() == [True, False, True, False]
    assert open_at(JOBS, day(10)).tolist() == [True, False, False, True]
    assert open_at(JOBS, day(10), taken_by_first_match=False).all()


def test_jobs_are_read_with_their_first_match(tmp_path: Path) -> None:
    decisions = [("s1", "j1", False, day(3)), ("s1", "j1", True, day(5)), ("s1", "j1", True, day(9)),
                 ("s1", "j2", False, day(15))]  # fmt: skip
    with load(write_tables(tmp_path, {"interactions": decisions})) as tables:
        jobs = read_jobs(tables)
    assert jobs.job_ids == ["j1", "j2"] and jobs.jds == ["weld ships", "sell shoes"]
    assert jobs.taken_at[0] == moment(5) and np.isnat(jobs.taken_at[1])
    assert jobs.known_at.tolist() == [moment(1).item(), moment(2).item()]


def test_grounding_ranks_the_open_jobs_by_distance_or_by_a_matcher() -> None:
    asked = [query(4, (1, 0), (1,)), query(7, (0, 1), (2,))]
    against = {"distance": None, "backwards": lambda q, rows: rows.astype(float)}
    found = ground(JOBS, VECTORS, asked, against)
    assert [one.rows.tolist() for one in found["distance"]] == [[0, 1], [2, 0]]
    assert [one.rows.tolist() for one in found["backwards"]] == [[1, 0], [2, 0]]
    first = ground(JOBS, VECTORS, asked, {"distance": None}, size=1)["distance"]
    assert [one.rows.tolist() for one in first] == [[0], [2]]
    assert ground(JOBS, VECTORS, [query(1, (1, 0), ())], against)["backwards"][0].rows.size == 0, "none is open"


def test_recall_and_ndcg_by_hand() -> None:
    ranked = [RankedOpenJobs(np.array([0, 1, 2]), np.zeros(3)), RankedOpenJobs(np.array([3]), np.zeros(1))]
    asked = [query(4, (1, 0), (1, 2)), query(7, (0, 1), (0,))]
    metrics = measure_grounding(ranked, asked, JOBS)
    assert metrics.recall[1].tolist() == [0, 0]
    assert metrics.recall[5].tolist() == [1, 0]
    # hits at ranks 2 and 3: (1/log2 3 + 1/log2 4) / (1/log2 2 + 1/log2 3) = 1.13093 / 1.63093
    assert metrics.ndcg[5] == pytest.approx([0.69343, 0], abs=1e-5)
    assert metrics.n_open.tolist() == [2, 2]
    assert chance_recall(np.array([2, 10]), 5) == pytest.approx((1 + 0.5) / 2)


def test_equal_scores_keep_the_order_by_distance_and_bad_ones_are_refused() -> None:
    ranked = RankedOpenJobs(np.array([7, 3, 5]), np.array([0.9, 0.8, 0.7]))
    assert reorder(ranked, np.array([1.0, 1.0, 2.0])).rows.tolist() == [5, 7, 3]
    with pytest.raises(ShapeError, match="3 jobs want as many finite scores"):
        reorder(ranked, np.array([1.0, np.nan, 2.0]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 12))
def test_the_exact_index_is_a_sort_by_cosine(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, one, allowed = rng.normal(size=(n, 5)), rng.normal(size=(1, 5)), rng.random(n) < 0.6
    found = ExactIndex(vectors).search(one, k, allowed)
    cosines = (vectors @ one[0]) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(one)
    wanted = sorted(np.flatnonzero(allowed), key=lambda i: -cosines[i])[:k]
    assert found.rows[0][: len(wanted)].tolist() == wanted
    assert (found.rows[0][len(wanted) :] == -1).all()
    np.testing.assert_allclose(found.similarity[0][: len(wanted)], cosines[wanted], atol=1e-5)


def test_the_approximate_index_finds_what_the_exact_one_finds() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 32))
    vectors = (centres[rng.integers(0, 40, 4000)] + 0.5 * rng.normal(size=(4000, 32))).astype(np.float32)
    queries = (centres[rng.integers(0, 40, 40)] + 0.5 * rng.normal(size=(40, 32))).astype(np.float32)
    exact, near = ExactIndex(vectors), make_index(vectors, exact_limit=100)
    assert isinstance(near, ApproximateIndex) and isinstance(make_index(vectors), ExactIndex)
    rare = rng.random(4000) < 0.02  # 80 rows: most of the graph has to be passed over
    for allowed in (None, rare):
        true, found = exact.search(queries, 10, allowed), near.search(queries, 10, allowed)
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(true.rows, found.rows, strict=True)])
        assert recall >= 0.95, recall
        if allowed is not None:
            assert allowed[found.rows].all()
    assert (near.search(queries, 10, np.zeros(4000, bool)).rows == -1).all()


def test_a_vector_of_zeros_has_no_direction() -> None:
    with pytest.raises(ShapeError, match="vector 1 of 2 is all zero"):
        make_index(np.array([[1, 0], [0, 0]], np.float32))
