"""Stage 3 from tables to a generator folder, on the market of tests/training_world.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from girl_features.contract import SamplingContract
from girl_features.errors import CheckpointError, EmptyWindowError
from girl_features.generator.checkpoint import RECORD_NAME, read_record, trained_generators
from girl_features.generator.draw import generate_chunk
from girl_features.generator.opening import find_generator, find_reward_model, load_generator, make_contract
from girl_features.generator.transformers_engine import TransformersGenerator
from girl_features.input.splits import Windows, preference_pairs
from girl_features.schema import CVVersion
from girl_features.trainers.reward import newest_sft, train_reward
from girl_features.trainers.rl import hash_rl_inputs, reward_model_for, train_ppo
from girl_features.trainers.sft import train_sft
from girl_features.trainers.written_jds import text_statistics
from tests.fakes import HashingEncoder
from tests.input_tables import day, load, write_tables
from tests.training_world import WINDOWS, config_for, market

FAST = {"reward": {"epochs": 1}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):  # type: ignore[no-untyped-def]
    """A workspace with stages 1 and 2."""
    folder = tmp_path_factory.mktemp("rl")
    config = config_for(folder / "workspace", **FAST)
    with load(write_tables(folder, market(120))) as tables:
        train_sft(tables, WINDOWS, config)
        train_reward(tables, WINDOWS, config)
    return config.workspace, folder


@pytest.fixture(scope="module")
def trained(prepared):  # type: ignore[no-untyped-def]
    workspace, folder = prepared
    config = config_for(workspace, **FAST)
    with load(write_tables(folder, market(120))) as tables:
        return train_ppo(tables, WINDOWS, config), config, folder


def test_it_leaves_a_whole_generator_that_the_pipeline_takes(trained) -> None:  # type: ignore[no-untyped-def]
    folder, config, _ = trained
    found, record = find_generator(config)
    assert found == folder
    assert (record.stage, record.trained_until, record.base) == ("ppo", WINDOWS.rl_end, "tiny")
    (sft,) = trained_generators(config.generators_dir, stage="sft")
    assert record.parents["sft"] == read_record(sft).weights_sha256 != record.weights_sha256
    assert record.metrics["best_iteration"] in (2.0, 4.0)
    assert record.metrics["reward_gain"] == pytest.approx(record.metrics["score"] - record.metrics["sft_score"])
    sampling = SamplingContract(n=1, temperature=0.7, top_p=0.9, max_new_tokens=8, seed=0)
    generator = TransformersGenerator(folder, sampling, max_cv_tokens=24)
    assert len(generator.generate(["I am a cook"], [[1, 2]])[0]) == 2
    assert not list(config.generators_dir.glob(".ppo-*")), "work folders are gone"


def test_best_of_n_knows_what_its_reward_model_has_seen(prepared) -> None:  # type: ignore[no-untyped-def]
    workspace, _ = prepared
    plain, best = (
        config_for(workspace, generator={"stage": "sft"}, sampling=sampling)
        for sampling in ({}, {"n": 1, "best_of": 4})
    )
    encoder = HashingEncoder()
    contracts = [make_contract(config, find_generator(config)[1], encoder) for config in (plain, best)]
    assert [c.trained_until for c in contracts] == [WINDOWS.sft_end, WINDOWS.reward_end]
    assert contracts[1].sampling.reward_sha256 == find_reward_model(best)[1].weights_sha256
    opened = load_generator(best, encoder)
    version = CVVersion("s1", "I am a cook of 3 years", day(0), "0" * 16)
    chunk = generate_chunk(opened.generator, [version], opened.contract, opened.reward_model)
    assert len(chunk.texts[0]) == (chunk.failures == [None])


def test_metrics_have_one_row_an_iteration_and_a_picture(trained) -> None:  # type: ignore[no-untyped-def]
    folder = trained[0]
    metrics = pl.read_parquet(folder / "metrics.parquet")
    assert metrics["iteration"].to_list() == [0, 1, 2, 3]
    assert metrics["actor_loss"].null_count() == 1, "the first iteration warms the critic up"
    assert {"kl", "words", "unfinished", "defective", "distinct_2", "explained_variance"} <= set(metrics.columns)
    assert pl.read_parquet(folder / "evaluations.parquet")["iteration"].to_list() == [0, 2, 4]
    assert (folder / "curves.png").is_file()


def test_the_same_inputs_are_not_trained_twice(trained) -> None:  # type: ignore[no-untyped-def]
    folder, config, data = trained
    before = (folder / RECORD_NAME).stat().st_mtime_ns
    with load(write_tables(data, market(120))) as tables:
        assert train_ppo(tables, WINDOWS, config) == folder
    assert (folder / RECORD_NAME).stat().st_mtime_ns == before


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_killed_run_goes_on_to_the_same_weights_and_metrics(prepared, tuning: str) -> None:  # type: ignore[no-untyped-def]
    workspace, data = prepared
    config = config_for(workspace, **FAST, ppo={"tuning": tuning, "lora_rank": 2, "learning_rate": 2e-4, "seed": 7})

    class _KilledError(Exception):
        pass

    def kill(iteration: int, row: dict[str, float]) -> None:
        if iteration == 3:
            raise _KilledError

    with load(write_tables(data, market(120))) as tables:
        with pytest.raises(_KilledError):
            train_ppo(tables, WINDOWS, config, after_iteration=kill)
        resumed = train_ppo(tables, WINDOWS, config)
        metrics = pl.read_parquet(resumed / "metrics.parquet")
        weights = read_record(resumed).weights_sha256
        whole = train_ppo(tables, WINDOWS, config, force=True)
    assert read_record(whole).weights_sha256 == weights
    assert metrics.equals(pl.read_parquet(whole / "metrics.parquet"))
    assert not (whole / "adapter_config.json").exists(), "merged: the folder stands alone"


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    config = config_for(tmp_path / "workspace", **FAST)
    with load(write_tables(tmp_path, market(24))) as tables:
        with pytest.raises(CheckpointError, match="run `girl train sft` first"):
            train_ppo(tables, WINDOWS, config)
        train_sft(tables, WINDOWS, config)
        with pytest.raises(CheckpointError, match="run `girl train reward` first"):
            train_ppo(tables, WINDOWS, config)


def test_a_reward_model_of_another_generator_is_refused(prepared) -> None:  # type: ignore[no-untyped-def]
    workspace, data = prepared
    import shutil

    other = data / "other"
    shutil.copytree(workspace, other)
    config = config_for(other, **FAST, sft={"seed": 5})
    with load(write_tables(data, market(120))) as tables:
        train_sft(tables, WINDOWS, config)
        with pytest.raises(CheckpointError, match="run `girl train reward` again"):
            train_ppo(tables, WINDOWS, config)
        newest = train_reward(tables, WINDOWS, config)
        assert reward_model_for(newest_sft(config)[1], config)[0] == newest
        first = config_for(other, **FAST)
        older, record = reward_model_for(newest_sft(first)[1], first)
        assert older != newest and record.parents["sft"] == newest_sft(first)[1].weights_sha256


def test_an_rl_window_without_new_seekers_is_named(prepared) -> None:  # type: ignore[no-untyped-def]
    workspace, data = prepared
    with load(write_tables(data, market(120))) as tables, pytest.raises(EmptyWindowError, match="rl_share"):
        train_ppo(tables, Windows(*WINDOWS[:2], day(201), day(400), day(500)), config_for(workspace, **FAST))


@pytest.mark.parametrize(("algo", "tuning"), [("rloo", "full"), ("grpo", "lora"), ("dpo", "full")])
def test_the_alternatives_leave_a_generator_of_their_own(prepared, algo: str, tuning: str) -> None:  # type: ignore[no-untyped-def]
    workspace, data = prepared
    own = {"algo": algo, "tuning": tuning, "lora_rank": 2, "iterations": 2, "evaluate_every": 1, "learning_rate": 1e-4}
    config = config_for(workspace, **FAST, ppo=own)
    with load(write_tables(data, market(120))) as tables:
        folder = train_ppo(tables, WINDOWS, config)
        assert train_ppo(tables, WINDOWS, config) == folder
    record = read_record(folder)
    assert (record.stage, record.trained_until) == (algo, WINDOWS.rl_end)
    (sft,) = trained_generators(workspace / "generators", stage="sft")
    assert record.weights_sha256 != read_record(sft).weights_sha256
    assert 0 < record.metrics["kl_per_sequence"] < 10
    assert trained_generators(workspace / "generators", stage=algo) == [folder]
    assert pl.read_parquet(folder / "metrics.parquet")["loss"].drop_nulls().len() >= 2


def test_the_pairs_dpo_learns_from_are_inputs_of_dpo_alone(tmp_path: Path) -> None:
    def hashed(algo: str, jds: list[str] | None) -> str:
        columns = {"job_seeker_id": ["a", "b"], "cv": ["cook", "nurse"], "chosen": jds, "rejected": ["c", "d"]}
        pairs = None if jds is None else pl.DataFrame(columns)
        cvs = pl.DataFrame({"job_seeker_id": ["s"], "cv_hash": ["h"]})
        made = SimpleNamespace(weights_sha256="w", adapter_sha256=None, max_cv_tokens=24)
        config = config_for(tmp_path, **FAST, ppo={"algo": algo})
        return hash_rl_inputs(cvs, pairs, WINDOWS.rl_end, config.ppo, 12, made, made)  # type: ignore[arg-type]

    assert hashed("dpo", ["x", "y"]) == hashed("dpo", ["x", "y"])
    assert len({hashed("dpo", jds) for jds in (["x", "y"], ["x", "z"], ["y", "x"])}) == 3
    assert hashed("ppo", None) == hashed("ppo", None)


def test_dpo_trains_again_on_other_pairs(prepared, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    workspace, data = prepared
    seen: list[pl.DataFrame | None] = []

    def keep(cvs, pairs, *_):  # type: ignore[no-untyped-def]
        seen.append(pairs)
        raise EmptyWindowError("far enough")

    monkeypatch.setattr("girl_features.trainers.rl.hash_rl_inputs", keep)
    with load(write_tables(data, market(120))) as tables:
        for algo in ("dpo", "ppo"):
            with pytest.raises(EmptyWindowError, match="far enough"):
                train_ppo(tables, WINDOWS, config_for(workspace, **FAST, ppo={"algo": algo}))
        assert seen[0] is not None and seen[0].equals(preference_pairs(tables, WINDOWS)) and seen[0].height
    assert seen[1] is None


def test_signs_of_gaming_by_hand() -> None:
    # bigrams: (a b) (b a) (a b) and (x y): 3 distinct of 4; "a b a b a b" has runs abab baba abab: 2 of 3 distinct
    assert text_statistics(["a b a b", "x y"]) == {"words": 3.0, "distinct_2": 3 / 4, "repetition": 0.0}
    assert text_statistics(["a b a b a b"])["repetition"] == pytest.approx(1 / 3)
    assert text_statistics([""]) == {"words": 0.0, "distinct_2": 0.0, "repetition": 0.0}
    assert np.isfinite(list(text_statistics(["one"]).values())).all()
