"""Stage 2: the reward model U(C, J), trained on preference pairs (GIRL, eq. 2) with TRL's RewardTrainer.

A preference pair is a matched and a mismatched JD of one CV. The saved model is loaded again and must give the scores
that it gave before, so that a head that was not saved is noticed here and not in stage 3.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, TrainerCallback, set_seed
from trl.trainer.reward_config import RewardConfig as TRLConfig
from trl.trainer.reward_trainer import RewardTrainer

from girl_features.config import GirlConfig, RewardConfig
from girl_features.errors import CheckpointError, ConfigError, EmptyWindowError
from girl_features.generator.checkpoint import (
    REWARD_RECORD_NAME,
    GeneratorRecord,
    base_folder,
    is_adapter,
    trained_reward_models,
    weights_hash,
    write_record,
)
from girl_features.generator.opening import find_generator
from girl_features.generator.prompts import template_for
from girl_features.generator.reward_model import TransformersRewardModel, load_scorer, sequence_scores
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.input.splits import Windows, preference_pairs
from girl_features.input.tables import Tables
from girl_features.trainers.curves import write_curves
from girl_features.trainers.lora import reward_adapter
from girl_features.trainers.processes import is_main, wait_for_all
from girl_features.trainers.records import (
    find_trained,
    hash_reward_inputs,
    publish,
    reward_record,
    save_model,
)
from girl_features.trainers.reward_quality import quality_warnings, reward_model_quality
from girl_features.trainers.tiny import PAD_TOKEN
from girl_features.trainers.training_data import hold_out_seekers, limit_pairs_per_cv, tokenize_preferences
from girl_features.trainers.trl_common import (
    CheckpointGuard,
    ProgressCallback,
    epoch_arguments,
    keep_stdout_clean,
    train_from_last_checkpoint,
)

RELOAD_TOLERANCE = 1e-3  # of a score; saved and loaded float32 weights differ by far less


def train_reward(
    tables: Tables,
    windows: Windows,
    config: GirlConfig,
    *,
    force: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Train the reward model and return its folder, or return the folder that the same inputs gave before.

    An interrupted run continues from its last whole epoch when it is started again.

    Args:
        tables: the clean input tables.
        windows: the second one holds the preference pairs.
        config: the section `reward` is used, and what finds the SFT generator.
        force: train again even if these inputs were trained before.
        callbacks: further callbacks of the RewardTrainer.

    Raises:
        EmptyWindowError: no CV of the reward window has both a matched and a mismatched job, or too few seekers do.
        CheckpointError: there is no SFT generator to start from.
        ConfigError: `reward.base` has no linear head that reads the last token.
    """
    settings = config.reward
    pairs = limit_pairs_per_cv(preference_pairs(tables, windows), settings.pairs_per_cv, settings.seed)
    if pairs.is_empty():
        raise EmptyWindowError(
            "no CV of the reward window has both a matched and a mismatched job; change `windows.sft_end` or "
            "`windows.reward_end` (or `windows.reward_share`); `girl check` counts every window"
        )
    sft_folder, sft = newest_sft(config)
    inputs = hash_reward_inputs(pairs, windows.reward_end, settings, sft)
    if not force:
        existing = find_trained(trained_reward_models(config.rewards_dir), inputs, REWARD_RECORD_NAME)
        if existing is not None:
            return existing
    train, held_out = _split_by_seeker(pairs, settings)
    final = config.rewards_dir / f"reward-{inputs[:12]}"
    work = config.rewards_dir / f".{final.name}"  # hidden until complete; kept to resume from
    work.mkdir(parents=True, exist_ok=True)

    base = base_folder(settings.base) if settings.base else sft_folder
    trained = _train(base, train, sft.max_cv_tokens, settings, work, callbacks)
    if is_main():
        prompt_version = template_for(trained.tokenizer).version
        record = reward_record(settings, sft, prompt_version, windows.reward_end, pairs.height, inputs, trained.metrics)
        _save_and_measure(trained, held_out, record, work / "model")
        publish(work / "model", final)
        shutil.rmtree(work)
    wait_for_all()
    return final


def newest_sft(config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    """Return folder and record of the newest stage-1 generator that was trained with the settings of `config`.

    Raises:
        CheckpointError: there is none.
    """
    stage_1 = config.generator.model_copy(update={"stage": "sft", "checkpoint": None})
    return find_generator(config.model_copy(update={"generator": stage_1}))


def _split_by_seeker(pairs: pl.DataFrame, settings: RewardConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the pairs to train on, and those of the held-out seekers."""
    train, held_out = hold_out_seekers(pairs, settings.holdout, settings.seed)
    if train.is_empty():
        raise EmptyWindowError(
            f"{pairs['job_seeker_id'].n_unique()} seekers with preference pairs are too few to hold some out; "
            f"raise `windows.reward_share`"
        )
    return train, held_out


class _TrainedScorer(NamedTuple):
    model: Any  # with the adapters, if it was tuned by LoRA
    tokenizer: Any
    rows: list[dict[str, list[int]]]  # the tokenized preference pairs
    log: list[dict[str, float]]  # of the trainer
    metrics: dict[str, float]


def _train(
    base: Path,
    pairs: pl.DataFrame,
    max_cv_tokens: int,
    settings: RewardConfig,
    work: Path,
    callbacks: Sequence[TrainerCallback],
) -> _TrainedScorer:
    """Train `base` with a new head on the pairs; checkpoints lie in `work`/steps."""
    model, tokenizer = _new_scorer(base, settings.seed, work)
    tokenized = tokenize_preferences(tokenizer, pairs, max_cv_tokens, settings.max_jd_tokens)
    trainer = _build_trainer(model, tokenizer, tokenized.rows, settings, work / "steps")
    metrics = train_from_last_checkpoint(trainer, tokenized, work / "steps", callbacks)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return _TrainedScorer(trained, tokenizer, tokenized.rows, trainer.state.log_history, metrics)


def _new_scorer(base: Path, seed: int, work: Path) -> tuple[Any, Any]:
    """Return the model in `base` with a new scalar head, and its tokenizer with a padding token of its own.

    Raises:
        ConfigError: models of this type have no head on their last token.
    """
    causal, tokenizer = load_causal_lm(base)
    if is_adapter(base):  # the head is put on the merged weights
        base = work / "trunk"
        if is_main():
            causal.save_pretrained(base)
        wait_for_all()
    set_seed(seed)  # the head is drawn at random
    model = AutoModelForSequenceClassification.from_pretrained(
        str(base), num_labels=1, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    )
    if not hasattr(model, "score"):
        raise ConfigError(
            f"`reward.base` {str(base)!r} is a {type(model).__name__}, which has no head on its last token; give a "
            f"causal LM (Llama, Qwen, BLOOM, GPT-2 ...) or leave it out to use the SFT generator's trunk"
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:  # padding would hide the end token from the head
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
        model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().weight.shape[0]))
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _build_trainer(
    model: Any, tokenizer: Any, rows: list[dict[str, list[int]]], settings: RewardConfig, checkpoints_dir: Path
) -> RewardTrainer:
    arguments = TRLConfig(
        **epoch_arguments(settings, checkpoints_dir),
        center_rewards_coefficient=settings.center_weight,
        logging_steps=max(1, min(10, len(rows) // settings.batch_size)),
    )
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=reward_adapter(model, settings.lora_rank) if settings.tuning == "lora" else None,
        callbacks=[ProgressCallback("reward"), CheckpointGuard("reward.learning_rate")],
    )
    keep_stdout_clean(trainer)
    return trainer


def _save_and_measure(trained: _TrainedScorer, held_out: pl.DataFrame, record: GeneratorRecord, folder: Path) -> None:
    """Save the model with its curves, measure the saved model, and write the completed record."""
    model = trained.model.merge_and_unload() if record.settings["tuning"] == "lora" else trained.model
    save_model(model.eval(), trained.tokenizer, folder)
    difference = _reload_difference(model, trained.tokenizer, trained.rows[:16], folder)
    record = record.model_copy(update={"weights_sha256": weights_hash(folder)})
    write_record(folder, record, REWARD_RECORD_NAME)  # TransformersRewardModel reads it
    quality = reward_model_quality(TransformersRewardModel(folder), held_out)
    metrics = {**record.metrics, "reload_difference": difference, **quality}
    record = record.model_copy(update={"metrics": metrics, "notes": quality_warnings(quality)})
    write_record(folder, record, REWARD_RECORD_NAME)
    write_curves(folder, trained.log, "step", [["loss"], ["accuracy"], ["margin"]])


@torch.no_grad()
def _reload_difference(model: Any, tokenizer: Any, rows: list[dict[str, list[int]]], folder: Path) -> float:
    """Return the largest difference between the scores of `model` and of the model that was saved in `folder`.

    Raises:
        CheckpointError: the difference is above RELOAD_TOLERANCE.
    """
    sequences = [row[side] for row in rows for side in ("chosen_ids", "rejected_ids")]
    loaded, _ = load_scorer(folder)
    before = sequence_scores(model.to("cpu"), sequences, tokenizer.pad_token_id)
    after = sequence_scores(loaded, sequences, tokenizer.pad_token_id)
    difference = float((after - before).abs().max())
    if not difference <= RELOAD_TOLERANCE:  # also if it is NaN
        raise CheckpointError(
            f"the reward model saved in {folder} scores up to {difference:.3g} away from the one that was trained: its "
            f"head or adapter was not saved; please report this with the versions of transformers and peft"
        )
    return difference
