"""Training of real bases: the end token that it writes, where sampling ends, and new weights at the same path."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from girl_features.config import SFTConfig
from girl_features.errors import CheckpointError
from girl_features.generator.checkpoint import read_record, weights_hash
from girl_features.generator.opening import find_generator
from girl_features.generator.prompts import template_for
from girl_features.generator.reward_model import PairIds
from girl_features.generator.tokens import open_codec
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.trainers.held_out import mean_loss
from girl_features.trainers.rollouts import end_ids, sample, use_plain_sampling
from girl_features.trainers.sft import build_sft_trainer, train_sft
from girl_features.trainers.training_data import tokenize_pairs
from girl_features.trainers.written_jds import JDTask
from tests.input_tables import load, write_tables
from tests.small_bases import CHATML, LLAMA3, SMOLLM, save_base, small_tokenizer
from tests.training_world import SFT_SETTINGS, SFT_WINDOWS, sft_config, sft_rows

PAIRS = pl.DataFrame({"cv": ["cook", "nurse on a ward"], "jd": ["soups and sauces", "night"]})


@pytest.mark.parametrize("pad", [None, "<|im_end|>", "<pad>"])
def test_the_end_token_is_learned_whatever_pads(tmp_path: Path, pad: str | None) -> None:
    eos = "<|im_end|>" if pad == "<|im_end|>" else "</s>"  # as in SmolLM2, whose end token pads
    model, tokenizer = load_causal_lm(save_base(tmp_path / "base", small_tokenizer(SMOLLM, eos=eos, pad=pad)))
    rows = tokenize_pairs(tokenizer, template_for(tokenizer), PAIRS, 8, 8).rows
    trainer = build_sft_trainer(model, tokenizer, rows, [], SFTConfig(batch_size=2), tmp_path / "steps")
    batch = next(iter(trainer.get_train_dataloader()))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert [(labels == end).sum() for labels in batch["labels"]] == [1, 1]
    assert all(labels[labels != -100][-1] == end for labels in batch["labels"])
    assert end in end_ids(trainer.model)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_new_weights_at_the_same_path_are_tuned_anew(tmp_path: Path, tuning: str) -> None:
    base = save_base(tmp_path / "base", small_tokenizer(LLAMA3), ends=[2, 6])
    changes = {
        "generator": {"base": str(base), "max_cv_tokens": 24, "trained_until": "2010-01-01"},
        "sft": {**SFT_SETTINGS["sft"], "tuning": tuning, "lora_rank": 2, "epochs": 1, "holdout": 0.2},
    }
    config = sft_config(tmp_path / "workspace", **changes)
    with load(write_tables(tmp_path, sft_rows())) as tables:
        first = train_sft(tables, SFT_WINDOWS, config)
        assert train_sft(tables, SFT_WINDOWS, config) == first
        assert find_generator(config)[0] == first
        record = read_record(first)
        assert record.prompt_version.startswith("chat-2:")
        assert record.parents["base"] == weights_hash(base)
        assert open_codec(first, 24, 16).version == record.prompt_version
        assert open_codec(first, 24, 16).stop_ids == [6, 2]
        save_base(base, small_tokenizer(LLAMA3), ends=[2, 6], seed=4)
        with pytest.raises(CheckpointError, match="was trained on other weights"):
            find_generator(config)
        second = train_sft(tables, SFT_WINDOWS, config)
        assert second != first
        assert find_generator(config)[0] == second
        tokenizer = small_tokenizer(CHATML)  # another prompt is another base, too
        tokenizer.save_pretrained(base)
        assert train_sft(tables, SFT_WINDOWS, config) not in (first, second)


def test_pairs_that_are_longer_than_the_base_reads_are_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", family="gpt2", seed=1)
    long = {**sft_rows()}
    long["job_seekers"] = [(seeker, "cook soups " * 400, at) for seeker, _, at in long["job_seekers"]]
    generator = {"base": str(base), "max_cv_tokens": 500, "trained_until": "2010-01-01"}
    config = sft_config(tmp_path / "workspace", generator=generator)
    with (
        load(write_tables(tmp_path, long)) as tables,
        pytest.raises(CheckpointError, match=r"base reads 512 at once; lower `generator.max_cv_tokens` or `sft.max_jd"),
    ):
        train_sft(tables, SFT_WINDOWS, config)


@pytest.fixture
def chat_base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "chat", small_tokenizer(CHATML), ends=[2, 5])


def test_sampling_ends_at_every_end_token(chat_base: Path) -> None:
    model, tokenizer = load_causal_lm(chat_base)
    prompts = [[10, 11], [12, 13, 14]]
    pad = tokenizer.pad_token_id

    def sampled() -> torch.Tensor:
        return sample(model, prompts, [1, 2], max_new_tokens=8, temperature=1.0).completion_ids

    use_plain_sampling(model, [0], pad)
    free = sampled()
    ends = [int(free[0, 3]), int(free[1, 5])]
    assert ends[0] not in free[0, :3] and ends[1] not in free[1, :5] and not {*ends} & {*free[1, :5].tolist()}
    use_plain_sampling(model, ends, pad)
    samples = sample(model, prompts, [1, 2], max_new_tokens=8, temperature=1.0)
    assert samples.finished.tolist() == [True, True]
    assert samples.completion_mask.sum(-1).tolist() == [4, 6]


class _NoReward:
    """A reward model that keeps the JDs that it was asked about."""

    def encode(self, cv: str, jd: str) -> PairIds:
        return PairIds([1], False, False)

    def score(self, cvs: list[str], jds: list[str]) -> np.ndarray:
        self.jds = jds
        return np.zeros(len(jds), np.float32)


def test_stage_3_judges_the_jd_up_to_its_end_and_without_thinking(chat_base: Path) -> None:
    model, tokenizer = load_causal_lm(chat_base)
    reward = _NoReward()
    task = JDTask(["cook"] * 3, tokenizer, 8, reward, 0.5, 0.0, end_ids(model))  # type: ignore[arg-type]
    texts = ["soups<|im_end|>", "<think>hm</think>sauces</s>night", "soups"]
    written = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    scored = task.judge([0, 1, 2], written)
    assert scored.texts == reward.jds == ["soups", "sauces", "soups"]
    assert scored.unfinished.tolist() == [False, False, True]


def test_the_held_out_loss_counts_the_end_of_turn(chat_base: Path) -> None:
    model, tokenizer = load_causal_lm(chat_base)
    [row, _] = tokenize_pairs(tokenizer, template_for(tokenizer), PAIRS, 8, 8).rows
    assert row["input_ids"][-1] == 5
    other = {**row, "input_ids": [*row["input_ids"][:-1], tokenizer.eos_token_id]}
    assert mean_loss(model, [row]) != mean_loss(model, [other])


def test_a_copy_at_another_path_is_the_same_base(chat_base: Path, tmp_path: Path) -> None:
    assert weights_hash(shutil.copytree(chat_base, tmp_path / "copy")) == weights_hash(chat_base)
