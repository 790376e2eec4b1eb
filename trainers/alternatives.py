"""Stage 3 by TRL's trainers: RLOO and GRPO with the same reward model, or DPO on the preference pairs.

RLOO and GRPO need no critic: they compare the rewards of several JDs of one CV. DPO samples nothing and learns from the
preference pairs of the reward window. As with PPO, evaluations on the held-out CVs decide when a run stops and which
weights are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from girl_features.config import PPOConfig
from girl_features.errors import ConfigError
from girl_features.generator.prompts import plain_text_ids
from girl_features.trainers.ppo import RLResult
from girl_features.trainers.precision import stage_3_precision
from girl_features.trainers.processes import check_divisible, n_processes
from girl_features.trainers.trl_common import ProgressCallback, trainer_arguments
from girl_features.trainers.written_jds import HeldOutEvaluator, JDTask, PPOModels

MAX_UNUSABLE = 0.05  # share of prompts that TRL may tokenize differently from the generator


def train_alternative(
    models: PPOModels,
    task: JDTask,
    held_out: JDTask,
    pairs: pl.DataFrame | None,
    settings: PPOConfig,
    max_new_tokens: int,
    work: Path,
) -> RLResult:
    """Train with the algorithm `settings.algo`, and leave the best weights in the actor.

    Clip, penalties, KL weight and limits mean the same as for PPO. RLOO and GRPO write JDs for the CVs of `task`; DPO
    reads the `cv`, `chosen` and `rejected` of `pairs` alone. The CVs of `held_out` choose the weights to keep. The
    critic of `models` is not used. TRL's files are written to `work`.

    Raises:
        ConfigError: TRL would tokenize more than a few prompts differently from the generator.
    """
    check_divisible(settings)
    evaluator = HeldOutEvaluator(models, held_out, settings, max_new_tokens)
    evaluator.evaluate(0)
    if settings.algo == "dpo":
        assert pairs is not None, "DPO learns from pairs"
        trainer = _dpo_trainer(models.actor, task, pairs, settings, max_new_tokens, work)
    else:
        trainer = _sampling_trainer(models.actor, task, settings, max_new_tokens, work)
    regular_evaluation = _RegularEvaluation(evaluator, settings)
    trainer.add_callback(regular_evaluation)
    trainer.add_callback(ProgressCallback(settings.algo))
    trainer.remove_callback(PrinterCallback)  # stdout is for results
    trainer.train()
    evaluator.evaluate(trainer.state.global_step)
    history = [{"iteration": float(row["step"]), **row} for row in trainer.state.log_history if "loss" in row]
    evaluator.restore_best()
    return RLResult(history, evaluator.evaluations, evaluator.best, regular_evaluation.stop_reason)


@dataclass
class _RegularEvaluation(TrainerCallback):
    """Evaluates as often as PPO does, and stops the run if the KL is above `stop_kl` or not a number."""

    evaluator: HeldOutEvaluator
    settings: PPOConfig
    stop_reason: str | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate after every `evaluate_every` iterations' share of the steps, but not after the last step."""
        every = max(1, state.max_steps * self.settings.evaluate_every // self.settings.iterations)
        if state.global_step % every or state.global_step == state.max_steps:
            return
        kl = self.evaluator.evaluate(state.global_step)["kl"]
        if not kl <= self.settings.stop_kl:  # also if it is NaN
            self.stop_reason = f"KL of {kl:.3g} nats per JD at step {state.global_step}"
            control.should_training_stop = True


def _usable_prompts(tokenizer: Any, prompts: Sequence[Sequence[int]]) -> list[tuple[int, str]]:
    """Return number and text of the prompts that can be given to TRL, which takes text and tokenizes it again.

    Other token ids come out for a CV that spells out a special token, and where tokens merge across a boundary.
    """
    texts = [tokenizer.decode(ids) for ids in prompts]
    usable = [(i, text) for i, text in enumerate(texts) if tokenizer(text)["input_ids"] == prompts[i]]
    if len(usable) < (1 - MAX_UNUSABLE) * len(texts):
        raise ConfigError(
            f"TRL would tokenize {len(texts) - len(usable)} of {len(texts)} prompts differently from the generator's "
            f"training; use `ppo.algo: ppo`"
        )
    return usable


def _sampling_trainer(actor: Any, task: JDTask, settings: PPOConfig, max_new_tokens: int, work: Path) -> Any:
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    config_class: Any = RLOOConfig if settings.algo == "rloo" else GRPOConfig
    trainer_class: Any = RLOOTrainer if settings.algo == "rloo" else GRPOTrainer

    def reward(completion_ids: Sequence[Sequence[int]], number: Sequence[int], **_: Any) -> list[float]:
        scored = task.judge(number, completion_ids)  # the ids include the end token; TRL's texts do not
        return [float(x) for x in scored.scores - scored.penalties]

    minibatches = max(1, settings.batch_size // settings.minibatch_size)
    arguments = config_class(
        **_rl_arguments(settings, work),
        max_steps=settings.iterations * settings.epochs * minibatches,
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
    rows = [{"prompt": text, "number": number} for number, text in _usable_prompts(task.tokenizer, task.prompts)]
    return trainer_class(
        model=actor,
        reward_funcs=[reward],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=_ending_as_jds_do(task),
    )


def _dpo_trainer(
    actor: Any, task: JDTask, pairs: pl.DataFrame, settings: PPOConfig, max_new_tokens: int, work: Path
) -> Any:
    from trl import DPOConfig, DPOTrainer

    def cut(jd: str) -> str:
        return str(task.tokenizer.decode(plain_text_ids(task.tokenizer, jd)[: max_new_tokens - 1]))

    rows = [
        {"prompt": text, "chosen": cut(pairs["chosen"][number]), "rejected": cut(pairs["rejected"][number])}
        for number, text in _usable_prompts(task.tokenizer, [task.prompt_of(cv).ids for cv in pairs["cv"]])
    ]
    arguments = DPOConfig(
        **_rl_arguments(settings, work),
        max_steps=settings.iterations * max(1, settings.batch_size // settings.minibatch_size),
        beta=settings.dpo_beta,
        max_length=None,
    )
    return DPOTrainer(
        model=actor,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=_ending_as_jds_do(task),
    )


def _ending_as_jds_do(task: JDTask) -> Any:
    """Return a tokenizer for TRL, whose end token is the one that ends a JD; TRL knows only one."""
    tokenizer = copy.deepcopy(task.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(task.end_ids[0])
    return tokenizer


def _rl_arguments(settings: PPOConfig, work: Path) -> dict[str, Any]:
    return {
        **trainer_arguments(work / settings.algo, settings.learning_rate, settings.seed, stage_3_precision()),
        "per_device_train_batch_size": settings.minibatch_size // n_processes(),
        "lr_scheduler_type": "constant",
        "max_grad_norm": settings.max_grad_norm,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": max(1, settings.batch_size // settings.minibatch_size),
    }
