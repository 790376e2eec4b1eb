"""Stage 2 on a market of four trades: what is learned, cut, saved, measured and refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import TrainerCallback

from girl_features.errors import CheckpointError, EmptyWindowError, ShapeError, TrainingError
from girl_features.generator.checkpoint import REWARD_RECORD_NAME, read_record, trained_reward_models
from girl_features.generator.prompts import TINY
from girl_features.generator.reward_model import TransformersRewardModel, encode_pair, sequence_scores
from girl_features.input.splits import Windows
from girl_features.trainers.reward import quality_warnings, reward_model_quality, train_reward
from girl_features.trainers.sft import train_sft
from girl_features.trainers.tiny import train_tokenizer
from girl_features.trainers.training_data import hold_out_seekers, limit_pairs_per_cv, tokenize_preferences
from tests.input_tables import day, load, write_tables
from tests.training_world import WINDOWS, config_for, market


@pytest.fixture(scope="module")
def trained(tmp_path_factory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("reward")
    config = config_for(folder / "workspace")
    with load(write_tables(folder, market(240))) as tables:
        train_sft(tables, WINDOWS, config)
        return train_reward(tables, WINDOWS, config), config, folder


def test_it_tells_the_matched_trade_for_seekers_it_has_not_seen(trained) -> None:  # type: ignore[no-untyped-def]
    folder, config, _ = trained
    record = read_record(folder, REWARD_RECORD_NAME)
    assert (record.stage, record.trained_until) == ("reward", WINDOWS.reward_end)
    assert record.metrics["pair_accuracy"] > 0.8
    assert record.metrics["auc"] > 0.8
    assert record.metrics["n_heldout_seekers"] > 1
    assert record.metrics["reload_difference"] < 1e-4
    assert trained_reward_models(config.rewards_dir) == [folder]
    assert (folder / "curves.png").is_file()
    assert pl.read_parquet(folder / "metrics.parquet")["loss"].drop_nulls().len() > 1


def test_the_same_inputs_are_not_trained_twice(trained) -> None:  # type: ignore[no-untyped-def]
    folder, config, data = trained
    before = (folder / REWARD_RECORD_NAME).stat().st_mtime_ns
    with load(write_tables(data, market(240))) as tables:
        assert train_reward(tables, WINDOWS, config) == folder
    assert (folder / REWARD_RECORD_NAME).stat().st_mtime_ns == before


def test_lora_saves_the_head_too(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, config, data = trained
    lora = config_for(config.workspace, reward={"tuning": "lora", "lora_rank": 8, "learning_rate": 2e-3, "epochs": 30})
    with load(write_tables(data, market(240))) as tables:
        folder = train_reward(tables, WINDOWS, lora)
    record = read_record(folder, REWARD_RECORD_NAME)
    assert record.metrics["reload_difference"] < 1e-4
    assert record.metrics["pair_accuracy"] > 0.6
    assert not (folder / "adapter_config.json").exists(), "merged: the folder stands alone"


def test_scores_do_not_depend_on_the_batch_or_on_padding(trained) -> None:  # type: ignore[no-untyped-def]
    folder = trained[0]
    cvs = ["I am a cook", "I am a nurse of 9 years, and before that a driver", "x"]
    jds = ["Wanted: a cook.", "", "Wanted: a driver. Shifts."]
    together = TransformersRewardModel(folder).score(cvs, jds)
    alone = np.concatenate(
        [TransformersRewardModel(folder, batch_size=1).score([c], [j]) for c, j in zip(cvs, jds, strict=True)]
    )
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)
    with pytest.raises(ShapeError, match="3 CVs came with 1 JDs"):
        TransformersRewardModel(folder).score(cvs, jds[:1])


def test_the_head_reads_the_end_token_as_the_trainer_did(trained) -> None:  # type: ignore[no-untyped-def]
    model = TransformersRewardModel(trained[0])
    rows = [model.encode(cv, "Wanted: a cook.").ids for cv in ("I am a cook", "I am")]
    assert all(row[-1] == model.tokenizer.eos_token_id for row in rows)
    width = max(map(len, rows))
    pad = model.tokenizer.pad_token_id
    assert pad != model.tokenizer.eos_token_id
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    with torch.no_grad():
        theirs = model.model(input_ids=ids, attention_mask=(ids != pad).long()).logits[:, 0]
        ours = sequence_scores(model.model, rows, pad)
    torch.testing.assert_close(ours, theirs)


def test_long_rows_are_cut_and_counted_not_dropped() -> None:
    tokenizer = train_tokenizer(["x"], 300)  # no merges: one token a byte
    pairs = pl.DataFrame({"cv": ["c" * 20, "c"], "chosen": ["a" * 30, "a"], "rejected": ["b" * 40, "b" * 9]})
    result = tokenize_preferences(tokenizer, pairs, max_cv_tokens=10, max_jd_tokens=8)
    assert (len(result.rows), result.n_cv_truncated, result.n_jd_truncated) == (2, 1, 3)
    assert [len(ids) for row in result.rows for ids in row.values()] == [21, 21, 5, 12]  # 2 markers, CV, JD, end
    assert all(ids[-1] == tokenizer.eos_token_id for row in result.rows for ids in row.values())


def test_a_blank_jd_is_the_prompt_and_the_end_token() -> None:
    tokenizer = train_tokenizer(["x"], 300)
    assert tokenizer.decode(encode_pair(tokenizer, TINY, "abc", "", 9, 9).ids) == "<|cv|>abc<|jd|><|end|>"


class _WordCounter:
    """A RewardModel that loves long JDs and nothing else."""

    def score(self, cvs, jds):  # type: ignore[no-untyped-def]
        return np.array([len(jd.split()) / 10 for jd in jds], np.float32)


def test_a_reward_model_that_loves_length_is_reported_as_such() -> None:
    rng = np.random.default_rng(0)
    pairs = pl.DataFrame(
        {
            "job_seeker_id": [f"s{i}" for i in range(40)],
            "cv": ["cv"] * 40,
            "chosen": [" ".join(["w"] * n) for n in rng.integers(20, 60, 40)],
            "rejected": [" ".join(["w"] * n) for n in rng.integers(1, 40, 40)],
        }
    )
    metrics = reward_model_quality(_WordCounter(), pairs)  # type: ignore[arg-type]
    assert metrics["length_correlation"] == pytest.approx(1, abs=1e-6)
    assert metrics["length_slope"] == pytest.approx(10, abs=1e-4)  # a tenth a word
    assert metrics["pair_accuracy"] == metrics["longer_is_matched"] > 0.7
    first, second = quality_warnings(metrics)
    assert "loves long JDs" in first
    assert "length alone" in second
    fine = {**metrics, "length_correlation": 0.1, "longer_is_matched": 0.5}
    assert quality_warnings(fine) == ()
    (chance,) = quality_warnings({**fine, "pair_accuracy": 0.6, "n_heldout_seekers": 64.0})  # .6 - 1/8 < .5
    assert "not shown to beat chance" in chance


def test_without_pairs_or_generator_the_next_step_is_named(tmp_path: Path) -> None:
    with load(write_tables(tmp_path, market(12))) as tables:
        with pytest.raises(CheckpointError, match="run `girl train sft` first"):
            train_reward(tables, WINDOWS, config_for(tmp_path / "none"))
        with pytest.raises(EmptyWindowError, match=r"windows\.reward_end"):
            train_reward(tables, Windows(*(day(1000) for _ in range(5))), config_for(tmp_path / "none"))


class _KilledError(Exception):
    pass


class _KillAfter(TrainerCallback):
    """Ends the run in the middle of an epoch, as a crash would."""

    def __init__(self, epoch: float) -> None:
        self._epoch = epoch

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.epoch > self._epoch:
            raise _KilledError


def test_a_killed_run_goes_on_and_past_a_damaged_checkpoint_to_the_same_weights(trained) -> None:  # type: ignore[no-untyped-def]
    _, config, data = trained
    short = config_for(config.workspace, reward={"epochs": 3, "learning_rate": 1e-3})
    weights = []
    with load(write_tables(data, market(240))) as tables:
        for damage in (False, True):
            with pytest.raises(_KilledError):
                train_reward(tables, WINDOWS, short, force=True, callbacks=[_KillAfter(2.3)])
            (work,) = config.rewards_dir.glob(".reward-*")
            newest = max((work / "steps").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
            if damage:
                damaged = newest / "model.safetensors"
                damaged.write_bytes(damaged.read_bytes()[:-9] + b"\0" * 9)
            weights.append(read_record(train_reward(tables, WINDOWS, short, force=True), REWARD_RECORD_NAME))
            assert not work.exists()
        weights.append(read_record(train_reward(tables, WINDOWS, short, force=True), REWARD_RECORD_NAME))
    assert len({record.weights_sha256 for record in weights}) == 1


def test_a_run_that_diverges_stops_and_publishes_nothing(trained) -> None:  # type: ignore[no-untyped-def]
    _, config, data = trained
    before = trained_reward_models(config.rewards_dir)
    wild = config_for(config.workspace, reward={"learning_rate": 1e30, "epochs": 3})
    with (
        load(write_tables(data, market(240))) as tables,
        pytest.raises(TrainingError, match=r"Lower `reward\.learning"),
    ):
        train_reward(tables, WINDOWS, wild)
    assert trained_reward_models(config.rewards_dir) == before


def test_pickled_weights_are_refused(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "model"
    shutil.copytree(trained[0], folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Canary()))
    with pytest.raises(CheckpointError, match="may run code"):
        TransformersRewardModel(folder)
    assert not _Canary.ran


class _Canary:
    ran = False

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return setattr, (_Canary, "ran", True)


def test_few_pairs_of_a_cv_are_kept_and_always_the_same_ones() -> None:
    rows = [("a", "cv", j, k) for j in "xyz" for k in "uvw"] + [("b", "cv", "x", "u"), ("a", "later cv", "x", "u")]
    pairs = pl.DataFrame(rows, schema=["job_seeker_id", "cv", "chosen", "rejected"], orient="row")
    few = limit_pairs_per_cv(pairs, 2, seed=0)
    assert few.group_by("job_seeker_id", "cv").len().sort("job_seeker_id", "cv")["len"].to_list() == [2, 1, 1]
    assert few.equals(limit_pairs_per_cv(pairs, 2, seed=0))
    assert any(not limit_pairs_per_cv(pairs, 2, seed).equals(few) for seed in range(1, 6))
    assert limit_pairs_per_cv(pairs, None, seed=0).equals(pairs)


@pytest.mark.parametrize(("share", "n_held_out"), [(0.25, 5), (0.01, 2)])
def test_a_share_of_the_seekers_is_held_out_and_at_least_two(share: float, n_held_out: int) -> None:
    rows = pl.DataFrame({"job_seeker_id": [f"s{i % 20}" for i in range(60)], "n": range(60)})
    train, held_out = hold_out_seekers(rows, share, seed=1)
    assert held_out["job_seeker_id"].n_unique() == n_held_out
    assert len(held_out) == 3 * n_held_out
    assert not set(train["job_seeker_id"]) & set(held_out["job_seeker_id"])
    assert sorted([*train["n"], *held_out["n"]]) == list(range(60))
