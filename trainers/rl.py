"""Stage 3 as a step of the product: its CVs and models in, a generator folder with its record out.

`ppo.algo` says how: PPO, the default, or one of TRL's trainers (`alternatives.py`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before any Hugging Face import reads it

import polars as pl
import torch

from girl_features.config import GirlConfig, PPOConfig
from girl_features.errors import CheckpointError, ConfigError, EmptyWindowError
from girl_features.generator.checkpoint import (
    REWARD_RECORD_NAME,
    GeneratorRecord,
    is_adapter,
    read_record,
    trained_generators,
    trained_reward_models,
    weights_hash,
    write_record,
)
from girl_features.generator.opening import find_reward_model
from girl_features.generator.reward_model import TransformersRewardModel
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.input.splits import Windows, preference_pairs, rl_cvs
from girl_features.input.tables import Tables
from girl_features.trainers.alternatives import train_alternative
from girl_features.trainers.common import hold_out_seekers
from girl_features.trainers.curves import write_curves
from girl_features.trainers.feedback import JDTask
from girl_features.trainers.heldout import Policies, Row
from girl_features.trainers.ppo import PPO, Models, Outcome
from girl_features.trainers.processes import is_main, wait_for_all
from girl_features.trainers.reward import newest_sft
from girl_features.trainers.rollouts import use_plain_sampling

PANELS = (
    ("score", "reward", "value"),
    ("kl",),
    ("words",),
    ("actor_loss", "loss"),
    ("critic_loss",),
    ("unfinished", "defective", "repetition"),
)
MIN_HELD_OUT = 2


def train_ppo(
    tables: Tables,
    windows: Windows,
    config: GirlConfig,
    *,
    force: bool = False,
    resume: bool = True,
    after_iteration: Callable[[int, Row], None] = lambda iteration, row: None,
) -> Path:
    """Train the stage-3 generator and return its folder; the same inputs a second time return the first's.

    Args:
        tables: the clean input tables.
        windows: of which the third holds the CVs.
        config: its `ppo` section says how; `sampling.max_new_tokens` is the longest JD.
        force: train even where these inputs were trained before.
        resume: go on from the checkpoint of a run that was interrupted, with the same losses; else start anew.
        after_iteration: called with the number of iterations done and the last one's metrics.

    Raises:
        EmptyWindowError: too few CVs of seekers not seen in the windows before.
        CheckpointError: no SFT generator or no reward model made from it, or no evaluation was within the limits.
    """
    cvs = rl_cvs(tables, windows)
    sft_folder, sft = newest_sft(config)
    reward_folder, reward = _reward_model_of(config, sft)
    pairs = preference_pairs(tables, windows) if config.ppo.algo == "dpo" else None
    inputs = _inputs_hash(cvs, pairs, windows, config, sft, reward)
    for folder in trained_generators(config.generators_dir, stage=config.ppo.algo):
        if not force and read_record(folder).inputs_sha256 == inputs:
            return folder
    parts = _split(cvs, config.ppo)
    final = config.generators_dir / f"{config.ppo.algo}-{inputs[:12]}"
    work = config.generators_dir / f".{final.name}"  # hidden until complete; kept to resume from
    if (not resume or force) and is_main():
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
    wait_for_all()

    started = time.monotonic()
    reward_model = TransformersRewardModel(reward_folder)
    models, tokenizer = _models(sft_folder, reward_model, config.ppo)
    penalties = (config.ppo.unfinished_penalty, config.ppo.defect_penalty)
    task, held_out = (
        JDTask(part["cv"].to_list(), tokenizer, sft.max_cv_tokens, reward_model, *penalties) for part in parts
    )
    limit = config.sampling.max_new_tokens
    if config.ppo.algo == "ppo":
        recompute = torch.cuda.is_available()  # as stages 1 and 2 do there
        outcome = PPO(models, task, held_out, config.ppo, limit, work / "checkpoints", recompute, after_iteration).run()
    else:
        if is_adapter(sft_folder):
            raise ConfigError(f"ppo.algo {config.ppo.algo!r} needs an SFT generator with `sft.tuning: full`")
        policies = Policies(models.actor, models.frozen)
        outcome = train_alternative(policies, tokenizer, task, held_out, pairs, config.ppo, limit, work)
    metrics = {
        **_gains(outcome, work),
        "n_cv_truncated": float(task.n_cv_truncated),
        "train_seconds": time.monotonic() - started,
    }
    if is_main():
        record = _record(config.ppo, sft, reward, inputs, windows, cvs.height, metrics, _notes(outcome, reward))
        _publish(models.actor, tokenizer, record, outcome, work, final)
    wait_for_all()
    return final


def _record(
    settings: PPOConfig,
    sft: GeneratorRecord,
    reward: GeneratorRecord,
    inputs: str,
    windows: Windows,
    n_cvs: int,
    metrics: dict[str, float],
    notes: tuple[str, ...],
) -> GeneratorRecord:
    """The record of a new generator, but for the hash of its weights."""
    return GeneratorRecord(
        stage=settings.algo,
        base=sft.base,
        prompt_version=sft.prompt_version,
        max_cv_tokens=sft.max_cv_tokens,
        trained_until=windows.rl_end,
        n_pairs=n_cvs,
        inputs_sha256=inputs,
        weights_sha256="",
        adapter_sha256=None,
        created_at=datetime.now(UTC),
        settings=settings.model_dump(mode="json"),
        metrics=metrics,
        versions={name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
        parents={"sft": sft.adapter_sha256 or sft.weights_sha256, "reward": reward.weights_sha256},
        notes=notes,
    )


def _split(cvs: pl.DataFrame, settings: PPOConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The CVs to learn on, and those that choose the checkpoint."""
    train, held_out = hold_out_seekers(cvs, settings.holdout, settings.seed)
    if train.is_empty() or held_out.height < MIN_HELD_OUT:
        raise EmptyWindowError(
            f"the RL window has {cvs.height} CVs of seekers without earlier decisions, too few to hold out a share of "
            f"{settings.holdout:g}; raise `windows.rl_share` or `ppo.holdout`; `girl check` counts every window"
        )
    return train, held_out


def _publish(actor: Any, tokenizer: Any, record: GeneratorRecord, outcome: Outcome, work: Path, final: Path) -> None:
    """Write the generator with its record and curves, and give the folder its name."""
    folder = work / "model"
    if folder.exists():
        shutil.rmtree(folder)
    if record.settings["tuning"] == "lora":
        actor = actor.merge_and_unload()  # so that the folder stands alone
    actor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_record(folder, record.model_copy(update={"weights_sha256": weights_hash(folder)}))
    write_curves(folder, outcome.history, "iteration", PANELS)
    pl.DataFrame(outcome.evaluations).write_parquet(folder / "evaluations.parquet")
    if final.exists():
        shutil.rmtree(final)
    folder.rename(final)
    shutil.rmtree(work)


def _reward_model_of(config: GirlConfig, sft: GeneratorRecord) -> tuple[Path, GeneratorRecord]:
    """The newest reward model that comes from the SFT generator in use, or from none."""
    wanted = sft.adapter_sha256 or sft.weights_sha256
    newest, record = find_reward_model(config)
    for folder in trained_reward_models(config.rewards_dir):
        own = read_record(folder, REWARD_RECORD_NAME)
        if own.parents.get("sft", wanted) == wanted:
            return folder, own
    raise CheckpointError(
        f"the reward model {newest.name} was made from another SFT generator ({record.parents['sft'][:12]}) than the "
        f"one in use ({wanted[:12]}), and no other fits; run `girl train reward` again"
    )


def _models(sft_folder: Path, reward_model: TransformersRewardModel, settings: PPOConfig) -> tuple[Models, Any]:
    torch.manual_seed(settings.seed)  # new adapters are drawn
    actor, tokenizer = load_causal_lm(sft_folder)
    actor = actor.float()
    use_plain_sampling(actor, tokenizer.eos_token_id, tokenizer.pad_token_id)
    critic = copy.deepcopy(reward_model.model)
    if settings.tuning == "full":
        return Models(actor, copy.deepcopy(actor), critic, reward_model.tokenizer.pad_token_id), tokenizer
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(
        r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return Models(get_peft_model(actor, adapter), None, critic, reward_model.tokenizer.pad_token_id), tokenizer


def _gains(outcome: Outcome, work: Path) -> dict[str, float]:
    """Held-out figures of the generator that is kept beside those of the SFT generator, on the same CVs and seeds."""
    best = outcome.best
    if best is None:
        last = outcome.evaluations[-1] if outcome.evaluations else {}
        raise CheckpointError(
            f"no evaluation of this run was within the limits on KL, broken, long and repetitive JDs "
            f"({outcome.stop_reason or 'all iterations were done'}; the last: {_shown(last)}); lower "
            f"`ppo.learning_rate`, raise `ppo.kl_weight` or lower `ppo.evaluate_every`. Its checkpoints are in {work}"
        )
    start = outcome.evaluations[0]
    gain = best["score"] - start["score"]
    return {
        "iterations": float(len(outcome.history)),
        "best_iteration": best["iteration"],
        "sft_score": start["score"],
        "sft_score_sd": start["score_sd"],
        "score": best["score"],
        "reward_gain": gain,
        "reward_gain_sd": gain / start["score_sd"] if start["score_sd"] > 0 else 0.0,
        "kl_per_sequence": best["kl"],
        **{
            f"{prefix}{name}": row[name]
            for prefix, row in (("sft_", start), ("", best))
            for name in ("words", "unfinished", "defective", "distinct_2", "repetition")
        },
    }


def _notes(outcome: Outcome, reward: GeneratorRecord) -> tuple[str, ...]:
    notes = [f"stopped early: {outcome.stop_reason}"] if outcome.stop_reason else []
    best = outcome.best
    assert best is not None
    start = outcome.evaluations[0]
    if abs(best["words"] - start["words"]) > 0.15 * start["words"]:
        notes.append(f"warning: JDs went from {start['words']:.0f} to {best['words']:.0f} words on average")
    if best["score"] <= start["score"]:
        notes.append(f"warning: the held-out score did not rise ({start['score']:.3f} to {best['score']:.3f})")
    return (*notes, *reward.notes)


def _inputs_hash(
    cvs: pl.DataFrame,
    pairs: pl.DataFrame | None,
    windows: Windows,
    config: GirlConfig,
    sft: GeneratorRecord,
    reward: GeneratorRecord,
) -> str:
    """Of all that decides what comes out; `pairs` are those that DPO learns from, None for the others."""
    settings = {
        "ppo": config.ppo.model_dump(mode="json"),
        "max_new_tokens": config.sampling.max_new_tokens,
        "sft": [sft.weights_sha256, sft.adapter_sha256, sft.max_cv_tokens],
        "reward": reward.weights_sha256,
        "rl_end": windows.rl_end.isoformat(),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for row in cvs.select("job_seeker_id", "cv_hash").iter_rows():
        digest.update(hashlib.sha256("\0".join(row).encode()).digest())
    if pairs is not None:
        digest.update(b"pairs")
        for row in pairs.select("job_seeker_id", "cv", "chosen", "rejected").iter_rows():
            digest.update(hashlib.sha256("\0".join(row).encode()).digest())
    return digest.hexdigest()


def _shown(row: Row) -> str:
    names: Sequence[str] = ("score", "kl", "words", "unfinished", "defective", "repetition", "distinct_2")
    return ", ".join(f"{name} {row[name]:.3g}" for name in names if name in row)
