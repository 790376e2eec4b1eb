"""What the benchmark of the training stages measures with: the planted law read off a text, and its rows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from girl_features.sample.market import BLOCK_JOBS, simulate_block, true_fit
from girl_features.sample.tables import write_sample
from girl_features.sample.texts import N_DRAWS, jd_texts

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import training_truth
from training import add_common_kl, rows_of
from training_run import Written, best


def test_a_jd_of_the_market_says_all_that_the_law_asks() -> None:
    jobs = simulate_block(3, 0).jobs
    texts = jd_texts(jobs, np.random.default_rng(0).integers(0, 1 << 30, (BLOCK_JOBS, N_DRAWS)))
    read = np.array([training_truth.job_of(text) for text in texts])
    np.testing.assert_array_equal(read, np.stack(jobs, axis=1))


def test_the_fit_of_a_real_jd_is_the_laws_and_of_half_a_jd_less(tmp_path: Path) -> None:
    write_sample(tmp_path, n_seekers=40, seed=2)
    people = training_truth.people_by_cv(tmp_path, 2)
    jobs = simulate_block(2, 0).jobs
    texts = jd_texts(jobs, np.zeros((BLOCK_JOBS, N_DRAWS), int))[:50]
    for who in list(people.values())[:10]:
        wanted = true_fit(who, type(jobs)(*(column[:50] for column in jobs)))
        assert [training_truth.fit_of(who, text) for text in texts] == pytest.approx(wanted.tolist())
    assert training_truth.fit_of(who, "Something else.") <= 0.09  # .18 * .5 at most: would move anywhere
    assert training_truth.job_of("") == (training_truth.UNKNOWN, training_truth.UNKNOWN, training_truth.UNKNOWN, 64)


def test_best_of_n_takes_the_highest_of_the_first_n() -> None:
    scores = np.array([[0.1, 0.3, 0.9], [0.5, 0.2, 0.1]], np.float32)
    written = Written([["a", "b", "c"], ["d", "e", "f"]], scores, scores > 0.2, 9.0)
    two = best(written, 2)
    assert two.texts == [["b"], ["d"]]
    assert two.seconds == 6.0
    assert two.finished.tolist() == [[True], [True]]
    assert best(written, 3).texts == [["c"], ["d"]]


def test_the_first_row_of_a_name_is_the_mean_over_the_seeds_that_have_it() -> None:
    parts = {0: {"figures": {"ppo": {"reward": 1.0}}}, 1: {"figures": {"ppo": {"reward": 3.0, "words": 5.0}}}}
    rows = [(row["metric"], row["seed"], row["value"]) for row in rows_of("sample", parts)]
    assert rows == [
        ("reward", "mean", 2.0),
        ("reward", 0, 1.0),
        ("reward", 1, 3.0),
        ("words", "mean", 5.0),
        ("words", 1, 5.0),
    ]


def test_gains_are_compared_at_the_largest_kl_that_all_samplers_reached() -> None:
    figures: dict[str, dict[str, float]] = {row: {} for row in ("ppo", "rloo", "grpo", "dpo")}
    ends = {"ppo": (4.0, 2.0), "rloo": (2.0, 1.5), "grpo": (8.0, 2.0), "dpo": (0.5, 0.1)}
    curves = {row: [{"kl": 0.0, "gain": 0.0}, {"kl": kl, "gain": gain}] for row, (kl, gain) in ends.items()}
    add_common_kl(figures, curves)
    # at 2 nats: PPO half way to 2, RLOO at its end, GRPO a quarter of the way; DPO did not get there
    assert {row: own.get("gain_at_common_kl") for row, own in figures.items()} == {
        "ppo": 1.0,
        "rloo": 1.5,
        "grpo": 0.5,
        "dpo": None,
    }
