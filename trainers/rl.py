"""Run stage 3, from the tables to the folder of a generator with its record.

The setting `ppo.algo` is `ppo`, the default, or an algorithm of TRL (`alternatives.py`).
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch

from girl_features.config import GirlConfig, PPOConfig
from girl_features.errors import CheckpointError, ConfigError, EmptyWindowError
from girl_features.generator.checkpoint import (
    RECORD_NAME,
    REWARD_RECORD_NAME,
    GeneratorRecord,
    is_adapter,
    n_parameters,
    read_record,
    trained_base_hash,
    trained_generators,
    trained_reward_models,
)
from girl_features.generator.opening import find_reward_model
from girl_features.generator.prompts import style_of
from girl_features.generator.reward_model import TransformersRewardModel
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.generator.tuning import LORA_FROM, settle_tuning
from girl_features.input.splits import Windows, preference_pairs, rl_cvs
from girl_features.input.tables import Tables
from girl_features.store.user_files import keep_out_of_git
from girl_features.trainers import records
from girl_features.trainers.alternatives import train_alternative
from girl_features.trainers.held_out import stage_3_metrics
from girl_features.trainers.ppo import PPO, RLResult
from girl_features.trainers.precision import stage_3_precision
from girl_features.trainers.processes import is_main, wait_for_all
from girl_features.trainers.reward import newest_sft
from girl_features.trainers.rollouts import end_ids, use_plain_sampling
from girl_features.trainers.training_data import hold_out_seekers
from girl_features.trainers.trl_common import generator_adapter
from girl_features.trainers.written_jds import JDTask, Metrics, PPOModels

CURVE_PANELS = (
    ("score", "reward", "value"),
    ("kl",),
    ("words",),
    ("actor_loss", "loss"),
    ("critic_loss",),
    ("unfinished", "defective", "repetition"),
)
MIN_HELD_OUT = 2  # CVs


def train_ppo(
    tables: Tables,
    windows: Windows,
    config: GirlConfig,
    *,
    force: bool = False,
    resume: bool = True,
    after_iteration: Callable[[int, Metrics], None] = lambda iteration, metrics: None,
) -> Path:
    """Train the stage-3 generator on the CVs of the RL window, and return its folder.

    If these inputs have a generator already, only `force` trains again. With `resume` an interrupted run continues
    from its checkpoint, with the same losses as a run without a stop. `after_iteration` is called with the number of
    finished iterations and the metrics of the last one.

    Raises:
        EmptyWindowError: the RL window has too few CVs of seekers without earlier decisions.
        CheckpointError: there is no SFT generator or no reward model that fits it, or every evaluation broke a
            limit (KL, or broken, long or repetitive JDs).
        ConfigError: the algorithm cannot train this SFT generator.
    """
    cvs = rl_cvs(tables, windows)
    sft_folder, sft = newest_sft(config)
    size = n_parameters(sft_folder)
    settings = settle_tuning(config.ppo, sft.base, size)
    reward_folder, reward = reward_model_for(sft, config)
    pairs = preference_pairs(tables, windows) if settings.algo == "dpo" else None
    max_new_tokens = config.sampling.max_new_tokens
    inputs = hash_rl_inputs(cvs, pairs, windows.rl_end, settings, max_new_tokens, sft, reward)
    if not force:
        existing = records.find_trained(trained_generators(config.generators_dir, settings.algo), inputs, RECORD_NAME)
        if existing is not None:
            return existing
    if settings.algo != "ppo" and is_adapter(sft_folder) and settings.tuning == "full":
        raise ConfigError(
            f"ppo.algo {settings.algo!r} cannot tune a generator in full that is a LoRA adapter: set `ppo.tuning: lora`"
        )
    train, held_out = hold_out_seekers(cvs, settings.holdout, settings.seed)
    if train.is_empty() or held_out.height < MIN_HELD_OUT:
        raise EmptyWindowError(
            f"the RL window has {cvs.height} CVs of seekers without earlier decisions, too few to hold out a share of "
            f"{settings.holdout:g}; raise `windows.rl_share` or `ppo.holdout`; `girl check` counts every window"
        )
    final = config.generators_dir / f"{settings.algo}-{inputs[:12]}"
    keep_out_of_git(config.workspace)
    work = config.generators_dir / f".{final.name}"  # hidden until complete; kept to resume from
    if (not resume or force) and is_main():
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
    wait_for_all()

    started = time.monotonic()
    reward_model = TransformersRewardModel(reward_folder)
    models, tokenizer = _load_models(sft_folder, reward_model, settings)
    ends = end_ids(models.actor)
    penalties = (settings.unfinished_penalty, settings.defect_penalty)
    style = style_of(sft.prompt_version)
    train_task, held_out_task = (
        JDTask(part["cv"].to_list(), tokenizer, sft.max_cv_tokens, reward_model, *penalties, ends, style)
        for part in (train, held_out)
    )
    if settings.algo == "ppo":
        checkpoints, recompute = work / "checkpoints", torch.cuda.is_available() or size >= LORA_FROM
        ppo = PPO(models, train_task, held_out_task, settings, max_new_tokens, checkpoints, recompute, after_iteration)
        result = ppo.run()
    else:
        result = train_alternative(models, train_task, held_out_task, pairs, settings, max_new_tokens, work)
    summary = _summary(result, work)
    if is_main():
        held_out_jds = stage_3_metrics(models.actor, tokenizer, tables, windows, config)
        record = GeneratorRecord(
            stage=settings.algo,
            base=sft.base,
            prompt_version=sft.prompt_version,
            max_cv_tokens=sft.max_cv_tokens,
            trained_until=max(windows.rl_end, sft.trained_until, reward.trained_until),
            n_pairs=cvs.height,
            inputs_sha256=inputs,
            weights_sha256="",  # set when the model is saved
            adapter_sha256=None,
            created_at=datetime.now(UTC),
            settings=settings.model_dump(mode="json"),
            precision=stage_3_precision(),
            metrics={
                **summary,
                **held_out_jds,
                "n_cv_truncated": float(train_task.n_cv_truncated),
                "train_seconds": time.monotonic() - started,
            },
            versions=records.package_versions("torch", "transformers", "peft", "accelerate"),
            parents={"sft": records.tuned_weights(sft), "reward": reward.weights_sha256, **_base_of(sft)},
            notes=tuple(dict.fromkeys((*_notes(result), *sft.notes, *reward.notes))),
        )
        _save(models.actor, tokenizer, record, result, work / "model")
        records.publish(work, final)
        shutil.rmtree(work)
    wait_for_all()
    return final


def hash_rl_inputs(
    cvs: pl.DataFrame,
    pairs: pl.DataFrame | None,
    rl_end: datetime,
    settings: PPOConfig,
    max_new_tokens: int,
    sft: GeneratorRecord,
    reward: GeneratorRecord,
) -> str:
    """Return the hash of the inputs of stage 3. `pairs` are the preference pairs for DPO, None otherwise."""
    sources = {
        "ppo": settings.model_dump(mode="json"),
        "max_new_tokens": max_new_tokens,
        "sft": [sft.weights_sha256, sft.adapter_sha256, sft.max_cv_tokens],
        "reward": reward.weights_sha256,
        "rl_end": rl_end.isoformat(),
    }
    cv_rows = cvs.select("job_seeker_id", "cv_hash")
    if pairs is None:
        return records.hash_inputs(sources, cv_rows)
    return records.hash_inputs(sources, cv_rows, b"pairs", pairs.select("job_seeker_id", "cv", "chosen", "rejected"))


def reward_model_for(sft: GeneratorRecord, config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    """Return folder and record of the newest reward model made from this SFT generator, or from `reward.base`.

    Raises:
        CheckpointError: there is none.
    """
    wanted = records.tuned_weights(sft)
    newest, newest_record = find_reward_model(config)
    for folder in trained_reward_models(config.rewards_dir):
        record = read_record(folder, REWARD_RECORD_NAME)
        if record.parents.get("sft", wanted) == wanted:
            return folder, record
    raise CheckpointError(
        f"the reward model {newest.name} was made from another SFT generator ({newest_record.parents['sft'][:12]}) "
        f"than the one in use ({wanted[:12]}), and no other fits; run `girl train reward` again"
    )


def _load_models(sft_folder: Path, reward_model: TransformersRewardModel, settings: PPOConfig) -> tuple[PPOModels, Any]:
    """Return the models of PPO (`frozen` is None for LoRA), and the tokenizer of the generator."""
    torch.manual_seed(settings.seed)  # new adapters are drawn at random
    actor, tokenizer = load_causal_lm(sft_folder, torch.float32)
    use_plain_sampling(actor, end_ids(actor), tokenizer.pad_token_id)
    if settings.tuning == "lora":
        from peft import get_peft_model

        actor, frozen = get_peft_model(actor, generator_adapter(settings.lora_rank)), None
    else:
        frozen = copy.deepcopy(actor)
    return PPOModels(actor, frozen, copy.deepcopy(reward_model.model), reward_model.tokenizer.pad_token_id), tokenizer


def _base_of(sft: GeneratorRecord) -> dict[str, str]:
    """Return the hash of the base's weights as an entry of a record's `parents`; none for `tiny`."""
    base = trained_base_hash(sft.model_dump())
    return {} if base is None else {"base": base}


def _save(actor: Any, tokenizer: Any, record: GeneratorRecord, result: RLResult, folder: Path) -> None:
    """Save the generator with its record, its curves and its evaluations."""
    if record.settings["tuning"] == "lora":
        actor = actor.merge_and_unload()  # the folder then needs no base
    records.save_trained(actor, tokenizer, record, folder)
    records.write_curves(folder, result.history, "iteration", CURVE_PANELS)
    pl.DataFrame(result.evaluations).write_parquet(folder / "evaluations.parquet")


def _summary(result: RLResult, work: Path) -> dict[str, float]:
    """Return held-out metrics of the best generator and of the SFT generator. CheckpointError if there is no best."""
    best = result.best
    if best is None:
        names = ("score", "kl", "words", "unfinished", "defective", "repetition", "distinct_2")
        last = result.evaluations[-1] if result.evaluations else {}
        figures = ", ".join(f"{name} {last[name]:.3g}" for name in names if name in last)
        raise CheckpointError(
            f"no evaluation of this run was within the limits (KL; broken, long or repetitive JDs) "
            f"({result.stop_reason or 'all iterations were done'}; the last: {figures}); lower "
            f"`ppo.learning_rate`, raise `ppo.kl_weight` or lower `ppo.evaluate_every`. Its checkpoints are in {work}"
        )
    start = result.evaluations[0]
    gain = best["score"] - start["score"]
    summary = {
        "iterations": float(len(result.history)),
        "best_iteration": best["iteration"],
        "sft_score": start["score"],
        "sft_score_sd": start["score_sd"],
        "score": best["score"],
        "reward_gain": gain,
        "reward_gain_sd": gain / start["score_sd"] if start["score_sd"] > 0 else 0.0,
        "kl_per_sequence": best["kl"],
    }
    for name in ("words", "unfinished", "defective", "distinct_2", "repetition"):
        summary[f"sft_{name}"] = start[name]
        summary[name] = best[name]
    return summary


def _notes(result: RLResult) -> list[str]:
    """Return what readers of this run's metrics should know."""
    notes = [f"stopped early: {result.stop_reason}"] if result.stop_reason else []
    best = result.best
    assert best is not None
    start = result.evaluations[0]
    if abs(best["words"] - start["words"]) > 0.15 * start["words"]:
        notes.append(f"warning: JDs went from {start['words']:.0f} to {best['words']:.0f} words on average")
    if best["score"] <= start["score"]:
        notes.append(f"warning: the held-out score did not rise ({start['score']:.3f} to {best['score']:.3f})")
    return notes
