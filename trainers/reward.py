"""Stage 2: the reward model U(C, J), trained on preference pairs (GIRL, eq. 2) with TRL's RewardTrainer.

A preference pair is a matched and a mismatched JD of one CV. The saved model is loaded again and must give the scores
that it gave before, so that a head that was not saved is noticed here and not in stage 3.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, TrainerCallback, set_seed
from transformers.pytorch_utils import Conv1D
from trl.trainer.reward_config import RewardConfig as TRLConfig
from trl.trainer.reward_trainer import RewardTrainer

from girl_features.config import GirlConfig, RewardConfig
from girl_features.errors import CheckpointError, ConfigError, EmptyWindowError
from girl_features.evaluation.metrics import auc, expected_calibration_error
from girl_features.generator import RewardModel
from girl_features.generator.bases.cut_off import known_until
from girl_features.generator.bases.finding import find_base
from girl_features.generator.checkpoint import (
    REWARD_RECORD_NAME,
    GeneratorRecord,
    is_adapter,
    n_parameters,
    trained_reward_models,
    weights_hash,
    write_record,
)
from girl_features.generator.opening import find_generator
from girl_features.generator.prompts import template_for
from girl_features.generator.reward_model import TransformersRewardModel, load_scorer, sequence_scores
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.generator.tuning import recorded, settle_tuning
from girl_features.generator.words import words_of
from girl_features.input.splits import Windows, preference_pairs
from girl_features.input.tables import Tables
from girl_features.store.user_files import keep_out_of_git
from girl_features.trainers import records
from girl_features.trainers.precision import precision_of
from girl_features.trainers.processes import is_main, wait_for_all
from girl_features.trainers.tiny import PAD_TOKEN
from girl_features.trainers.training_data import Rows, hold_out_seekers, limit_pairs_per_cv, tokenize_preferences
from girl_features.trainers.trl_common import epoch_arguments, train_from_last_checkpoint
from girl_features.vectors.regression import platt_scale

LENGTH_CORRELATION_LIMIT = 0.5  # above it, length explains more than a quarter of the score's variance
RELOAD_TOLERANCE = 1e-3  # of a score; saved and loaded float32 weights differ by far less


def train_reward(
    tables: Tables,
    windows: Windows,
    config: GirlConfig,
    *,
    force: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Train the reward model on the preference pairs of the reward window, and return its folder.

    Inputs that were trained before are trained again only with `force`. An interrupted run continues from its last
    whole epoch when it is started again. `callbacks` are added to those of the RewardTrainer.

    Raises:
        EmptyWindowError: no CV of the reward window has both a matched and a mismatched job, or too few seekers do.
        CheckpointError: there is no SFT generator to start from, or the saved model gives other scores than before.
        ConfigError: `reward.base` has no linear head that reads the last token, or it is not known until when it knows
            the world.
    """
    settings = config.reward
    pairs = limit_pairs_per_cv(preference_pairs(tables, windows), settings.pairs_per_cv, settings.seed)
    if pairs.is_empty():
        raise EmptyWindowError(
            "no CV of the reward window has both a matched and a mismatched job; change `windows.sft_end` or "
            "`windows.reward_end` (or `windows.reward_share`); `girl check` counts every window"
        )
    sft_folder, sft = newest_sft(config)
    base = find_base(settings.base, config.bases_dir) if settings.base else sft_folder
    known = sft.trained_until if settings.base is None else _base_known_until(settings.base, base, config)
    settings = settle_tuning(settings, settings.base or sft.base, n_parameters(base))
    sources: dict[str, object] = {
        "reward": recorded(settings),
        "sft": [sft.weights_sha256, sft.adapter_sha256, sft.max_cv_tokens],
        "reward_end": windows.reward_end.isoformat(),
    }
    if settings.base is not None:
        sources["base_weights"] = weights_hash(base)
    inputs = records.hash_inputs(sources, pairs.select("job_seeker_id", "cv", "chosen", "rejected"))
    if not force:
        existing = records.find_trained(trained_reward_models(config.rewards_dir), inputs, REWARD_RECORD_NAME)
        if existing is not None:
            return existing
    train, held_out = hold_out_seekers(pairs, settings.holdout, settings.seed)
    if train.is_empty():
        raise EmptyWindowError(
            f"{pairs['job_seeker_id'].n_unique()} seekers with preference pairs are too few to hold some out; "
            f"raise `windows.reward_share`"
        )
    final = config.rewards_dir / f"reward-{inputs[:12]}"
    keep_out_of_git(config.workspace)
    work = config.rewards_dir / f".{final.name}"  # hidden until complete; kept to resume from
    work.mkdir(parents=True, exist_ok=True)

    model, tokenizer = new_scorer(base, settings.seed, work)
    tokenized = tokenize_preferences(tokenizer, train, sft.max_cv_tokens, settings.max_jd_tokens)
    trainer = build_reward_trainer(model, tokenizer, tokenized.rows, settings, work / "steps")
    metrics = train_from_last_checkpoint(trainer, "reward", tokenized, [], callbacks)
    if is_main():
        record = GeneratorRecord(
            stage="reward",
            base=settings.base or sft.base,
            prompt_version=template_for(tokenizer).version,
            max_cv_tokens=sft.max_cv_tokens,
            trained_until=max(windows.reward_end, known),
            n_pairs=pairs.height,
            inputs_sha256=inputs,
            weights_sha256="",  # not known before the model is saved
            adapter_sha256=None,
            created_at=datetime.now(UTC),
            settings=recorded(settings),
            precision=precision_of(trainer),
            metrics=metrics,
            versions=records.package_versions("torch", "transformers", "trl"),
            parents={} if settings.base else {"sft": records.tuned_weights(sft)},
            notes=() if settings.base else sft.notes,
        )
        _save_and_measure(trainer, tokenized.rows[:16], held_out, record, work / "model")
        records.publish(work, final)
        shutil.rmtree(work)
    wait_for_all()
    return final


def _base_known_until(name: str, folder: Path, config: GirlConfig) -> datetime:
    """Return the latest time that `reward.base` itself may know of."""
    until = known_until(config.generator.model_copy(update={"base": name}), folder)
    if until is None:
        raise ConfigError(
            f"`reward.base` {name!r} may know what happened after the reward window: set `generator.trained_until` "
            f"to its knowledge cut-off, or to that of `generator.base` if that is later"
        )
    return until


def newest_sft(config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    """Return folder and record of the newest stage-1 generator that was trained with the settings of `config`.

    Raises:
        CheckpointError: there is none.
    """
    stage_1 = config.generator.model_copy(update={"stage": "sft", "checkpoint": None})
    return find_generator(config.model_copy(update={"generator": stage_1}))


def new_scorer(base: Path, seed: int, work: Path) -> tuple[Any, Any]:
    """Return the model in `base` with a new scalar head, and its tokenizer with a padding token of its own."""
    causal, tokenizer = load_causal_lm(base, torch.float32)
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


def build_reward_trainer(
    model: Any, tokenizer: Any, rows: Rows, settings: RewardConfig, checkpoints_dir: Path
) -> RewardTrainer:
    """Return TRL's trainer of tokenized preference pairs for a model of `new_scorer`, with settled `settings`."""
    arguments = TRLConfig(
        **epoch_arguments(settings, checkpoints_dir, model.num_parameters()),
        center_rewards_coefficient=settings.center_weight,
        logging_steps=max(1, min(10, len(rows) // settings.batch_size)),
    )
    return RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_adapter(model, settings.lora_rank) if settings.tuning == "lora" else None,
    )


def _adapter(model: Any, rank: int) -> Any:
    """Return the peft settings of LoRA adapters on every linear layer of a reward model but its head.

    The task type SEQ_CLS makes peft train and save the whole head `score`. An adapter on the head as well would
    change the scores of the model when it is loaded again.
    """
    from peft import LoraConfig

    linear = {n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=sorted(linear - {"score"}), task_type="SEQ_CLS")


def _save_and_measure(
    trainer: RewardTrainer, rows: Rows, held_out: pl.DataFrame, record: GeneratorRecord, folder: Path
) -> None:
    """Save the model with its curves, measure the saved model, and write the completed record."""
    model, tokenizer = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
    if record.settings["tuning"] == "lora":
        model = model.merge_and_unload()
    record = records.save_trained(model.eval(), tokenizer, record, folder, REWARD_RECORD_NAME)
    difference = _reload_difference(model, tokenizer, rows, folder)
    quality = reward_model_quality(TransformersRewardModel(folder), held_out)
    metrics = {**record.metrics, "reload_difference": difference, **quality}
    record = record.model_copy(update={"metrics": metrics, "notes": quality_warnings(quality)})
    write_record(folder, record, REWARD_RECORD_NAME)
    records.write_curves(folder, trainer.state.log_history, "step", [["loss"], ["accuracy"], ["margin"]])


@torch.no_grad()
def _reload_difference(model: Any, tokenizer: Any, rows: Rows, folder: Path) -> float:
    """Return the largest difference between the scores of `model` and of the model that was saved in `folder`."""
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


def reward_model_quality(reward_model: RewardModel, pairs: pl.DataFrame) -> dict[str, float]:
    """Score the preference pairs of held-out seekers, and return what the scores are worth.

    Returns:
        Among others `pair_accuracy`, where a tie counts as half; `ece`, the calibration error of P(matched | score)
        (see `_cross_fitted_ece`); and `length_slope`, the rise of the score for a hundred more words.
    """
    cvs = pairs["cv"].to_list()
    chosen = reward_model.score(cvs, pairs["chosen"].to_list()).astype(np.float64)
    rejected = reward_model.score(cvs, pairs["rejected"].to_list()).astype(np.float64)
    chosen_words = np.array([len(words_of(jd)) for jd in pairs["chosen"]], float)
    rejected_words = np.array([len(words_of(jd)) for jd in pairs["rejected"]], float)
    scores, labels = np.concatenate([chosen, rejected]), np.repeat([True, False], len(chosen))
    n_words = np.concatenate([chosen_words, rejected_words])
    both_vary = scores.std() > 0 and n_words.std() > 0
    longer = np.where(chosen_words == rejected_words, 0.5, chosen_words > rejected_words)
    return {
        "n_heldout_pairs": float(len(chosen)),
        "n_heldout_seekers": float(pairs["job_seeker_id"].n_unique()),
        "pair_accuracy": float(np.where(chosen == rejected, 0.5, chosen > rejected).mean()),
        "auc": auc(labels, scores),
        "ece": _cross_fitted_ece(np.tile(pairs["job_seeker_id"].to_numpy(), 2), labels, scores),
        "score_sd": float(scores.std()),
        "words_matched": float(chosen_words.mean()),
        "words_mismatched": float(rejected_words.mean()),
        "longer_is_matched": float(longer.mean()),
        "length_correlation": float(np.corrcoef(scores, n_words)[0, 1]) if both_vary else 0.0,
        "length_slope": float(100 * np.polyfit(n_words, scores, 1)[0]) if both_vary else 0.0,
    }


def quality_warnings(metrics: dict[str, float]) -> tuple[str, ...]:
    """Return warnings about accuracy near chance, a score that follows length, and lengths that tell the matched JD."""
    notes = []
    slack = 1 / metrics["n_heldout_seekers"] ** 0.5  # two standard errors, if a seeker's pairs are counted as one
    if metrics["pair_accuracy"] - slack < 0.5:
        notes.append(
            f"warning: a pair accuracy of {metrics['pair_accuracy']:.2f} on {metrics['n_heldout_seekers']:.0f} "
            f"held-out seekers is not shown to beat chance, so PPO would follow noise; use more pairs or a larger base"
        )
    if abs(metrics["length_correlation"]) > LENGTH_CORRELATION_LIMIT:
        kind = "long" if metrics["length_correlation"] > 0 else "short"
        notes.append(
            f"warning: this reward model loves {kind} JDs: its score has a correlation of "
            f"{metrics['length_correlation']:+.2f} with their length and changes by {metrics['length_slope']:+.2f} "
            f"for a hundred more words; PPO will follow it"
        )
    if abs(metrics["longer_is_matched"] - 0.5) > 0.1:
        notes.append(
            f"warning: the longer JD is the matched one in {metrics['longer_is_matched']:.0%} of the held-out pairs, "
            f"so length alone tells some of them apart (the reward model: {metrics['pair_accuracy']:.0%})"
        )
    return tuple(notes)


def _cross_fitted_ece(seekers: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the expected calibration error after Platt scaling.

    The scaling is fitted on one half of the seekers and measured on the other. Then the halves change places, and the
    result is the mean of both errors.
    """
    ids = np.unique(seekers)
    first = np.isin(seekers, ids[::2])
    errors = []
    for fit, test in ((first, ~first), (~first, first)):
        slope, intercept = platt_scale(scores[fit], labels[fit])
        probabilities = 1 / (1 + np.exp(-np.clip(slope * scores[test] + intercept, -30, 30)))
        errors.append(expected_calibration_error(labels[test], probabilities))
    return float(np.mean(errors))
