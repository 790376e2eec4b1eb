"""Stage 3 by TRL's own trainers: RLOO and GRPO with the same reward model, or DPO on the preference pairs.

RLOO and GRPO need no critic: several JDs of one CV are each other's baseline. DPO samples nothing; it learns from the
reward window's pairs. All three are evaluated, stopped and chosen on the held-out CVs as PPO is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before any Hugging Face import reads it

import polars as pl
import torch
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback, TrainerCallback

from girl_features.config import PPOConfig
from girl_features.errors import ConfigError
from girl_features.trainers.common import ProgressCallback
from girl_features.trainers.feedback import JDTask
from girl_features.trainers.heldout import Policies, Row, evaluate, is_sound
from girl_features.trainers.ppo import Outcome
from girl_features.trainers.processes import check_divisible, n_processes

MAX_UNUSABLE = 0.05  # share of prompts that TRL may read otherwise than we do


def train_alternative(
    policies: Policies,
    tokenizer: Any,
    task: JDTask,
    held_out: JDTask,
    pairs: pl.DataFrame | None,
    settings: PPOConfig,
    max_new_tokens: int,
    work: Path,
) -> Outcome:
    """Run `settings.algo` and leave the best weights in the actor.

    Args:
        policies: the actor, and a frozen copy of it.
        tokenizer: of both.
        task: the RL window's CVs (RLOO, GRPO).
        held_out: CVs that choose the checkpoint.
        pairs: preference pairs, `cv`, `chosen`, `rejected`, which DPO needs and the others do not read.
        settings: the `ppo` section; clip, penalties, KL weight and limits mean the same here.
        max_new_tokens: the longest JD.
        work: folder for what TRL writes.

    Raises:
        ConfigError: more than a few prompts would be read otherwise by TRL.
    """
    check_divisible(settings)
    watch = _Watch(policies, held_out, settings, max_new_tokens)
    watch.evaluate(0)
    build = _dpo if settings.algo == "dpo" else _sampling_trainer
    trainer = build(policies.actor, tokenizer, task, pairs, settings, max_new_tokens, work)
    trainer.add_callback(watch)
    trainer.add_callback(ProgressCallback(settings.algo))
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    trainer.train()
    watch.evaluate(trainer.state.global_step)
    history = [{"iteration": float(row["step"]), **row} for row in trainer.state.log_history if "loss" in row]
    watch.restore()
    return Outcome(history, watch.evaluations, watch.best, watch.stop_reason)


class _Watch(TrainerCallback):
    """Evaluates now and then, keeps the best weights, and stops at `stop_kl` or where a figure is not finite."""

    def __init__(self, policies: Policies, held_out: JDTask, settings: PPOConfig, max_new_tokens: int) -> None:
        self._policies, self._held_out, self._settings = policies, held_out, settings
        self._max_new_tokens = max_new_tokens
        self.evaluations: list[Row] = []
        self.best: Row | None = None
        self.stop_reason: str | None = None
        self._best_tensors: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        every = max(1, state.max_steps * self._settings.evaluate_every // self._settings.iterations)
        if state.global_step % every or state.global_step == state.max_steps:
            return
        row = self.evaluate(state.global_step)
        if not row["kl"] <= self._settings.stop_kl:  # NaN too
            self.stop_reason = f"KL of {row['kl']:.3g} nats a JD at step {state.global_step}"
            control.should_training_stop = True

    def evaluate(self, step: int) -> Row:
        """One evaluation; the weights are kept if they are the best sound ones yet."""
        actor, settings = self._policies.actor, self._settings
        training = actor.training
        actor.eval()
        row = {
            "iteration": float(step),
            **evaluate(self._policies, self._held_out, settings, self._max_new_tokens),
        }
        actor.train(training)
        self.evaluations.append(row)
        sound = is_sound(row, self.evaluations[0], settings.stop_kl, len(self._held_out.prompts))
        if step > 0 and sound and (self.best is None or row["objective"] > self.best["objective"]):
            self.best = row
            self._best_tensors = {n: p.detach().cpu().clone() for n, p in actor.named_parameters() if p.requires_grad}
        return row

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights back."""
        own = dict(self._policies.actor.named_parameters())
        for name, tensor in self._best_tensors.items():
            own[name].copy_(tensor)


def _sampling_trainer(
    actor: Any,
    tokenizer: Any,
    task: JDTask,
    pairs: pl.DataFrame | None,
    settings: PPOConfig,
    max_new_tokens: int,
    work: Path,
) -> Any:
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    config_class: Any = RLOOConfig if settings.algo == "rloo" else GRPOConfig
    trainer_class: Any = RLOOTrainer if settings.algo == "rloo" else GRPOTrainer
    texts = [tokenizer.decode(ids) for ids in task.prompts]
    usable = [i for i, text in enumerate(texts) if tokenizer(text)["input_ids"] == task.prompts[i]]
    _check_usable(len(usable), len(texts))

    def reward(completion_ids: Sequence[Sequence[int]], number: Sequence[int], **_: Any) -> list[float]:
        judged = task.judge(number, completion_ids)  # ids: with the end token, where it was written
        return [float(x) for x in judged.scores - judged.penalties]

    minibatches = max(1, settings.batch_size // settings.minibatch_size)
    arguments = config_class(
        **_common(settings, work),
        max_steps=settings.iterations * settings.epochs * minibatches,
        per_device_train_batch_size=settings.minibatch_size // n_processes(),
        steps_per_generation=minibatches,
        num_iterations=settings.epochs,
        num_generations=settings.n_generations,
        max_completion_length=max_new_tokens,
        temperature=settings.temperature,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        beta=settings.kl_weight,
        epsilon=settings.clip,
    )
    rows = [{"prompt": texts[i], "number": i} for i in usable]
    return trainer_class(
        model=actor,
        reward_funcs=[reward],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def _dpo(
    actor: Any,
    tokenizer: Any,
    task: JDTask,
    pairs: pl.DataFrame | None,
    settings: PPOConfig,
    max_new_tokens: int,
    work: Path,
) -> Any:
    from trl import DPOConfig, DPOTrainer

    assert pairs is not None, "DPO learns from pairs"
    prompts = [task.prompt_of(cv) for cv in pairs["cv"]]
    texts = [tokenizer.decode(ids) for ids in prompts]
    usable = [i for i, text in enumerate(texts) if tokenizer(text)["input_ids"] == prompts[i]]
    _check_usable(len(usable), len(texts))

    def cut(jd: str) -> str:
        ids = tokenizer(jd, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return str(tokenizer.decode(ids[: max_new_tokens - 1]))

    rows = [
        {"prompt": texts[i], "chosen": cut(pairs["chosen"][i]), "rejected": cut(pairs["rejected"][i])} for i in usable
    ]
    arguments = DPOConfig(
        **_common(settings, work),
        max_steps=settings.iterations * max(1, settings.batch_size // settings.minibatch_size),
        per_device_train_batch_size=settings.minibatch_size // n_processes(),
        beta=settings.dpo_beta,
        max_length=None,
    )
    return DPOTrainer(model=actor, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def _common(settings: PPOConfig, work: Path) -> dict[str, Any]:
    disable_progress_bars()
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(work / settings.algo),
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": settings.max_grad_norm,
        "bf16": gpu,
        "gradient_checkpointing": False,
        "use_cpu": not gpu,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "save_strategy": "no",
        "logging_steps": max(1, settings.batch_size // settings.minibatch_size),
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": gpu,
    }


def _check_usable(n_usable: int, n: int) -> None:
    """CVs that spell out special tokens, or tokens that merge over a boundary, make TRL read another prompt."""
    if n_usable < (1 - MAX_UNUSABLE) * n:
        raise ConfigError(
            f"TRL would read {n - n_usable} of {n} prompts otherwise than the generator was trained on; "
            f"use `ppo.algo: ppo`"
        )
