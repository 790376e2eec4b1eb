"""Stage 2: the reward model U(C, J), on a matched and a mismatched JD of one CV (GIRL, eq. 2), with TRL's trainer.

Rows are tokenized and cut here, so that the trainer has nothing to drop; what was cut is counted. The saved model
is loaded again and has to give the scores it gave before: a head that was not saved is found here, not in stage 3.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before any Hugging Face import reads it

import numpy as np
import polars as pl
import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForSequenceClassification, PrinterCallback, TrainerCallback, set_seed
from transformers.pytorch_utils import Conv1D
from trl.trainer.reward_config import RewardConfig as TRLConfig
from trl.trainer.reward_trainer import RewardTrainer

from girl_features.config import GirlConfig, RewardConfig
from girl_features.errors import CheckpointError, ConfigError, EmptyWindowError
from girl_features.evaluation.metrics import auc, expected_calibration_error
from girl_features.evaluation.reference import platt_scale
from girl_features.generator.checkpoint import (
    REWARD_RECORD_NAME,
    GeneratorRecord,
    base_folder,
    is_adapter,
    read_record,
    trained_reward_models,
    weights_hash,
    write_record,
)
from girl_features.generator.opening import find_generator
from girl_features.generator.prompts import template_for
from girl_features.generator.reward_model import TransformersRewardModel, encode_pair, load_scorer, sequence_scores
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.input.splits import Windows, preference_pairs
from girl_features.input.tables import Tables
from girl_features.trainers.common import CheckpointGuard, ProgressCallback, hold_out_seekers, last_checkpoint
from girl_features.trainers.curves import write_curves
from girl_features.trainers.processes import is_main, wait_for_all
from girl_features.trainers.tiny import PAD_TOKEN

RELOAD_TOLERANCE = 1e-3  # of a score; saved and loaded float32 weights differ by far less
LENGTH_CORRELATION_LIMIT = 0.5  # above it a quarter of the score's variance is length


class TokenizedPreferences(NamedTuple):
    """Token ids of (C, J+) and (C, J-)."""

    rows: list[dict[str, list[int]]]  # chosen_ids and rejected_ids, (t,) each
    n_cv_truncated: int  # pairs
    n_jd_truncated: int  # JDs


def tokenize_preferences(
    tokenizer: Any, pairs: pl.DataFrame, max_cv_tokens: int, max_jd_tokens: int
) -> TokenizedPreferences:
    """Both sides of each pair, cut exactly as the reward model will cut them when it scores."""
    template = template_for(tokenizer)
    rows, n_cv_truncated, n_jd_truncated = [], 0, 0
    for cv, *jds in pairs.select("cv", "chosen", "rejected").iter_rows():
        chosen, rejected = (encode_pair(tokenizer, template, cv, jd, max_cv_tokens, max_jd_tokens) for jd in jds)
        rows.append({"chosen_ids": chosen.ids, "rejected_ids": rejected.ids})
        n_cv_truncated += chosen.cv_truncated
        n_jd_truncated += chosen.jd_truncated + rejected.jd_truncated
    return TokenizedPreferences(rows, n_cv_truncated, n_jd_truncated)


def train_reward(
    tables: Tables,
    windows: Windows,
    config: GirlConfig,
    *,
    force: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Train the reward model and return its folder; the same inputs a second time return the first's.

    A run that was interrupted goes on from its last whole epoch when it is started again. `callbacks` are further ones
    for the RewardTrainer.

    Raises:
        EmptyWindowError: no CV of the reward window has both a matched and a mismatched job, or too few seekers do.
        CheckpointError: there is no SFT generator to start from.
        ConfigError: `reward.base` has no linear head that reads the last token.
    """
    pairs = thinned(preference_pairs(tables, windows), config.reward.pairs_per_cv, config.reward.seed)
    if pairs.is_empty():
        raise EmptyWindowError(
            "no CV of the reward window has both a matched and a mismatched job; change `windows.sft_end` or "
            "`windows.reward_end` (or `windows.reward_share`); `girl check` counts every window"
        )
    trunk, sft = newest_sft(config)
    inputs = _inputs_hash(pairs, windows, config, sft)
    for folder in trained_reward_models(config.rewards_dir):
        if not force and read_record(folder, REWARD_RECORD_NAME).inputs_sha256 == inputs:
            return folder
    train, held_out = _split(pairs, config.reward)
    work = config.rewards_dir / f".reward-{inputs[:12]}"  # hidden until complete; kept to resume from
    work.mkdir(parents=True, exist_ok=True)

    model, tokenizer = _scorer(trunk, config.reward, work)
    tokenized = tokenize_preferences(tokenizer, train, sft.max_cv_tokens, config.reward.max_jd_tokens)
    trainer = _trainer(model, tokenizer, tokenized.rows, config.reward, work / "steps")
    for callback in callbacks:
        trainer.add_callback(callback)
    result = trainer.train(resume_from_checkpoint=last_checkpoint(work / "steps"))
    metrics = {
        "train_loss": float(result.training_loss),
        "train_seconds": float(result.metrics["train_runtime"]),
        "n_cv_truncated": float(tokenized.n_cv_truncated),
        "n_jd_truncated": float(tokenized.n_jd_truncated),
    }
    final = config.rewards_dir / f"reward-{inputs[:12]}"
    if is_main():
        prompt = template_for(tokenizer).version
        record = _record(config.reward, sft, inputs, prompt, windows, pairs.height, metrics)
        _save_measured(trainer, tokenizer, tokenized.rows, held_out, record, work / "model")
        _publish(work, final)
    wait_for_all()
    return final


def _record(
    settings: RewardConfig,
    sft: GeneratorRecord,
    inputs: str,
    prompt_version: str,
    windows: Windows,
    n_pairs: int,
    metrics: dict[str, float],
) -> GeneratorRecord:
    """The record of a new reward model, but for the hash of its weights."""
    return GeneratorRecord(
        stage="reward",
        base=settings.base or sft.base,
        prompt_version=prompt_version,
        max_cv_tokens=sft.max_cv_tokens,
        trained_until=windows.reward_end,
        n_pairs=n_pairs,
        inputs_sha256=inputs,
        weights_sha256="",
        adapter_sha256=None,
        created_at=datetime.now(UTC),
        settings=settings.model_dump(mode="json"),
        metrics=metrics,
        versions={name: version(name) for name in ("torch", "transformers", "trl")},
        parents={} if settings.base else {"sft": sft.adapter_sha256 or sft.weights_sha256},
    )


def _split(pairs: pl.DataFrame, settings: RewardConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The pairs to learn from, and those of the seekers to measure on."""
    train, held_out = hold_out_seekers(pairs, settings.holdout, settings.seed)
    if train.is_empty():
        raise EmptyWindowError(
            f"{pairs['job_seeker_id'].n_unique()} seekers with preference pairs are too few to hold some out; "
            f"raise `windows.reward_share`"
        )
    return train, held_out


def _save_measured(
    trainer: RewardTrainer,
    tokenizer: Any,
    rows: list[dict[str, list[int]]],
    held_out: pl.DataFrame,
    record: GeneratorRecord,
    folder: Path,
) -> None:
    """Save the trained model, measure what was saved, and complete its record."""
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if record.settings["tuning"] == "lora":
        trained = trained.merge_and_unload()
    metrics = {**record.metrics, "reload_difference": _save_and_reload(trained.eval(), tokenizer, rows, folder)}
    record = record.model_copy(update={"weights_sha256": weights_hash(folder)})
    write_record(folder, record, REWARD_RECORD_NAME)
    measured = measure(TransformersRewardModel(folder), held_out)
    record = record.model_copy(update={"metrics": metrics | measured, "notes": warnings_about(measured)})
    write_record(folder, record, REWARD_RECORD_NAME)
    write_curves(folder, trainer.state.log_history, "step", [["loss"], ["accuracy"], ["margin"]])


def thinned(pairs: pl.DataFrame, per_cv: int | None, seed: int) -> pl.DataFrame:
    """At most `per_cv` pairs of each CV, drawn by hash: pairs of one CV share their few JDs and teach little new."""
    if per_cv is None:
        return pairs

    def digest(row: dict[str, str]) -> bytes:
        return hashlib.sha256("\0".join([str(seed), *row.values()]).encode()).digest()

    key = pl.struct("cv", "chosen", "rejected").map_elements(digest, return_dtype=pl.Binary)
    return pairs.filter(key.rank("ordinal").over("job_seeker_id", "cv") <= per_cv)


def newest_sft(config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    """Folder and record of the newest stage-1 generator that was trained as the config says.

    Raises:
        CheckpointError: there is none.
    """
    stage_1 = config.generator.model_copy(update={"stage": "sft", "checkpoint": None})
    return find_generator(config.model_copy(update={"generator": stage_1}))


def measure(reward_model: TransformersRewardModel, pairs: pl.DataFrame) -> dict[str, float]:
    """What scores of unseen seekers' pairs are worth, and what length has to do with them.

    pair_accuracy counts a tie as half. ece is that of P(matched | score) after Platt scaling on one half of the
    seekers, measured on the other, both ways. length_slope is in scores a hundred words.
    """
    cvs = pairs["cv"].to_list()
    chosen = reward_model.score(cvs, pairs["chosen"].to_list()).astype(np.float64)
    rejected = reward_model.score(cvs, pairs["rejected"].to_list()).astype(np.float64)
    words = [np.array([len(jd.split()) for jd in pairs[side]], float) for side in ("chosen", "rejected")]
    scores, labels = np.concatenate([chosen, rejected]), np.repeat([True, False], len(chosen))
    n_words = np.concatenate(words)
    varied = scores.std() > 0 and n_words.std() > 0
    longer = np.where(words[0] == words[1], 0.5, words[0] > words[1])
    return {
        "n_heldout_pairs": float(len(chosen)),
        "n_heldout_seekers": float(pairs["job_seeker_id"].n_unique()),
        "pair_accuracy": float(np.where(chosen == rejected, 0.5, chosen > rejected).mean()),
        "auc": auc(labels, scores),
        "ece": _split_ece(np.tile(pairs["job_seeker_id"].to_numpy(), 2), labels, scores),
        "score_sd": float(scores.std()),
        "words_matched": float(words[0].mean()),
        "words_mismatched": float(words[1].mean()),
        "longer_is_matched": float(longer.mean()),
        "length_correlation": float(np.corrcoef(scores, n_words)[0, 1]) if varied else 0.0,
        "length_slope": float(100 * np.polyfit(n_words, scores, 1)[0]) if varied else 0.0,
    }


def warnings_about(metrics: dict[str, float]) -> tuple[str, ...]:
    """Warnings: accuracy that may be chance, a score that follows length, lengths that tell the matched JD."""
    notes = []
    slack = 1 / metrics["n_heldout_seekers"] ** 0.5  # two standard errors, a seeker's pairs counted as one
    if metrics["pair_accuracy"] - slack < 0.5:
        notes.append(
            f"warning: a pair accuracy of {metrics['pair_accuracy']:.2f} on {metrics['n_heldout_seekers']:.0f} "
            f"held-out seekers is not shown to beat chance; PPO would follow noise: more pairs, or a larger base"
        )
    if abs(metrics["length_correlation"]) > LENGTH_CORRELATION_LIMIT:
        kind = "long" if metrics["length_correlation"] > 0 else "short"
        notes.append(
            f"warning: this reward model loves {kind} JDs: its score correlates {metrics['length_correlation']:+.2f} "
            f"with their length, {metrics['length_slope']:+.2f} a hundred words; PPO will follow it"
        )
    if abs(metrics["longer_is_matched"] - 0.5) > 0.1:
        notes.append(
            f"warning: the longer JD is the matched one in {metrics['longer_is_matched']:.0%} of the held-out pairs, "
            f"so length alone tells some of them apart (the reward model: {metrics['pair_accuracy']:.0%})"
        )
    return tuple(notes)


def _split_ece(seekers: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> float:
    ids = np.unique(seekers)
    first = np.isin(seekers, ids[::2])
    errors = []
    for fit, test in ((first, ~first), (~first, first)):
        slope, intercept = platt_scale(scores[fit], labels[fit])
        probabilities = 1 / (1 + np.exp(-np.clip(slope * scores[test] + intercept, -30, 30)))
        errors.append(expected_calibration_error(labels[test], probabilities))
    return float(np.mean(errors))


def _scorer(trunk: Path, settings: RewardConfig, work: Path) -> tuple[Any, Any]:
    """The trunk with a new scalar head, and a tokenizer whose padding is a token of its own."""
    source = str(base_folder(settings.base) if settings.base else trunk)
    causal, tokenizer = load_causal_lm(source)
    if is_adapter(Path(source)):  # the head goes on the merged weights
        if is_main():
            causal.save_pretrained(work / "trunk")
        wait_for_all()
        source = str(work / "trunk")
    set_seed(settings.seed)  # the head is drawn
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    )
    if not hasattr(model, "score"):
        raise ConfigError(
            f"`reward.base` {source!r} is a {type(model).__name__}, which has no head on its last token; give a causal "
            f"LM (Llama, Qwen, BLOOM, GPT-2 ...) or leave it out to use the SFT generator's trunk"
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:  # padding would hide the end token from the head
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
        model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().weight.shape[0]))
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _trainer(
    model: Any, tokenizer: Any, rows: list[dict[str, list[int]]], settings: RewardConfig, steps_dir: Path
) -> RewardTrainer:
    disable_progress_bars()  # the dataset library's; ours counts steps
    gpu = torch.cuda.is_available()
    arguments = TRLConfig(
        output_dir=str(steps_dir),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.01,
        center_rewards_coefficient=settings.center_weight,
        max_length=None,  # rows are cut above, and counted; the trainer would drop them
        bf16=gpu,
        gradient_checkpointing=gpu,
        use_cpu=not gpu,
        seed=settings.seed,
        data_seed=settings.seed,
        save_strategy="epoch",
        save_total_limit=2,  # the one before is used where the newest is damaged
        logging_nan_inf_filter=False,
        logging_steps=max(1, min(10, len(rows) // settings.batch_size)),
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
    )
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_lora(model, settings) if settings.tuning == "lora" else None,
        callbacks=[ProgressCallback("reward"), CheckpointGuard("reward.learning_rate")],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    return trainer


def _lora(model: Any, settings: RewardConfig) -> Any:
    """Adapters on every linear layer but the head, which is trained whole: SEQ_CLS sees to that."""
    from peft import LoraConfig

    linear = {n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        target_modules=sorted(linear - {"score"}),
        task_type="SEQ_CLS",
    )


@torch.no_grad()
def _save_and_reload(model: Any, tokenizer: Any, rows: list[dict[str, list[int]]], folder: Path) -> float:
    """Save; the largest difference between scores before and after loading again.

    Raises:
        CheckpointError: the loaded model scores otherwise.
    """
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    some = [row[side] for row in rows[:16] for side in ("chosen_ids", "rejected_ids")]
    loaded, _ = load_scorer(folder)
    before = sequence_scores(model.to("cpu"), some, tokenizer.pad_token_id)
    difference = float((sequence_scores(loaded, some, tokenizer.pad_token_id) - before).abs().max())
    if not difference <= RELOAD_TOLERANCE:
        raise CheckpointError(
            f"the reward model saved in {folder} scores up to {difference:.3g} away from the one that was trained: its "
            f"head or adapter was not saved; please report this with the versions of transformers and peft"
        )
    return difference


def _publish(work: Path, final: Path) -> None:
    if final.exists():
        shutil.rmtree(final)
    (work / "model").rename(final)
    shutil.rmtree(work)


def _inputs_hash(pairs: pl.DataFrame, windows: Windows, config: GirlConfig, sft: GeneratorRecord) -> str:
    settings = {
        "reward": config.reward.model_dump(mode="json"),
        "sft": [sft.weights_sha256, sft.adapter_sha256, sft.max_cv_tokens],
        "reward_end": windows.reward_end.isoformat(),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for row in pairs.select("job_seeker_id", "cv", "chosen", "rejected").iter_rows():
        digest.update(hashlib.sha256("\0".join(row).encode()).digest())
    return digest.hexdigest()
