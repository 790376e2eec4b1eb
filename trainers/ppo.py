"""Stage 3: PPO from recruiter feedback (GIRL, eq. 3-8 and Algorithm 1). Where it departs from the paper: docs/adr/0009.

For each CV the actor writes a JD J'. Its reward is r = U(C, J') - lambda KL, its advantage r - V(C), one of each a
sequence; the critic V sees the CV alone. The actor learns from the clipped surrogate, the critic from (r - V)^2, each
with an optimizer of its own. The SFT generator and the reward model stay frozen.

Every random number is drawn from (seed, iteration), so a checkpoint needs no generator's state: a run that goes on
from one has the losses of a run that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from girl_features.config import PPOConfig
from girl_features.errors import ConfigError
from girl_features.generator.reward_model import sequence_scores
from girl_features.progress import Progress
from girl_features.trainers import losses
from girl_features.trainers.checkpoints import (
    Checkpoint,
    load_newest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from girl_features.trainers.feedback import Task
from girl_features.trainers.heldout import Policies, Row, evaluate, is_sound, write
from girl_features.trainers.rollouts import Rollout, log_probabilities, seed_of, take

PENALTIES = {"k1": losses.k1, "k3": losses.k3, "paper_kl": losses.paper_kl}
ADVANTAGES = {"plain": losses.plain_advantage, "whitened": losses.whitened_advantage}


class Models(NamedTuple):
    """The three models of the loop; the reward model is the task's."""

    actor: Any  # causal LM, or one with a LoRA adapter
    frozen: Any | None  # causal LM; None: the actor with its adapter off
    critic: Any  # the reward model's copy: sequence classification with one output
    critic_pad_token_id: int


class Outcome(NamedTuple):
    """How a run ended. The actor holds the best weights."""

    history: list[Row]  # one row an iteration
    evaluations: list[Row]  # held-out, the SFT generator's first
    best: Row | None  # the evaluation of the weights now in the actor; None: none was within the limits
    stop_reason: str | None  # None: all iterations were done


class _StopTraining(Exception):  # noqa: N818 - not an error to whoever calls the loop
    """The run has to end here; the message says why."""


@dataclass
class PPO:
    """The loop: call `run`."""

    models: Models
    task: Task
    held_out: Task
    settings: PPOConfig
    max_new_tokens: int
    checkpoints: Path  # folder
    after_iteration: Callable[[int, Row], None] = lambda iteration, row: None
    history: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        gpu = torch.cuda.is_available()
        self._accelerator = Accelerator(cpu=not gpu, mixed_precision="bf16" if gpu else "no")
        if self._accelerator.num_processes > 1:
            raise ConfigError(f"PPO runs in one process, found {self._accelerator.num_processes}; call it directly")
        models, s = self.models, self.settings
        actor_optimizer = torch.optim.AdamW(_trained(models.actor).values(), lr=s.learning_rate, weight_decay=0.0)
        critic_optimizer = torch.optim.AdamW(
            _trained(models.critic).values(), lr=s.critic_learning_rate, weight_decay=0.0
        )
        self._actor, self._actor_optimizer = self._accelerator.prepare(models.actor.eval(), actor_optimizer)
        self._critic, self._critic_optimizer = self._accelerator.prepare(models.critic.eval(), critic_optimizer)
        if models.frozen is not None:
            frozen = models.frozen.eval().requires_grad_(False)
            self._accelerator.prepare_model(frozen, evaluation_mode=True)  # in place: the actor's own precision
        self._kl_weight = s.kl_weight
        self._iteration = 0
        self._best: Row | None = None
        self._best_tensors: dict[str, Tensor] = {}

    def run(self) -> Outcome:
        """Train from the newest checkpoint, or from the start; leaves the best weights in the actor."""
        self._resume()
        reason = None
        with Progress("ppo", self.settings.iterations, "iterations") as progress:
            progress.reach(self._iteration)
            try:
                if not self.evaluations:
                    self._evaluate()
                while self._iteration < self.settings.iterations:
                    self._advance()
                    progress.advance()
            except _StopTraining as stop:
                reason = f"{stop} at iteration {self._iteration}"
        _load(self._actor, self._best_tensors)
        return Outcome(self.history, self.evaluations, self._best, reason)

    def _advance(self) -> None:
        """One iteration, and every so often an evaluation and a checkpoint."""
        row = self._iterate()
        self.history.append(row)
        self._iteration += 1
        if self._iteration % self.settings.evaluate_every == 0 or self._iteration == self.settings.iterations:
            self._evaluate()
            self._save()
        self.after_iteration(self._iteration, row)

    def _iterate(self) -> Row:
        """Sample a batch, learn from it for E epochs, and say what happened (GIRL, Algorithm 1, one round)."""
        s = self.settings
        numbers = self._numbers(self._iteration)
        rollout, row = self._rollout(numbers)
        warming_up = self._iteration < s.critic_warmup
        totals: dict[str, list[float]] = {}
        for epoch in range(s.epochs):
            draw = torch.Generator().manual_seed(seed_of(s.seed, "order", self._iteration, epoch))
            shuffled = torch.randperm(len(numbers), generator=draw)
            for rows in shuffled.split(s.minibatch_size):  # type: ignore[no-untyped-call]
                learned = self._learn_critic([numbers[i] for i in rows.tolist()], rollout.rewards[rows])
                if not warming_up:
                    learned |= self._learn_actor(rollout, rows)
                for name, value in learned.items():
                    totals.setdefault(name, []).append(value)
        if s.target_kl is not None and not warming_up:
            self._kl_weight = losses.adapted_kl_weight(self._kl_weight, row["kl"], s.target_kl)
        return row | {name: sum(values) / len(values) for name, values in totals.items()}

    @torch.no_grad()
    def _rollout(self, numbers: Sequence[int]) -> tuple[Rollout, Row]:
        s = self.settings
        parts = ("train", self._iteration)
        written = write(self._policies(), self.task, numbers, parts, s, self.max_new_tokens)
        samples, behaviour, frozen, judged = written
        _stop_unless_finite("log-probability", behaviour)
        mask = samples.completion_mask
        scores = torch.tensor(judged.scores - judged.penalties, device=mask.device)
        kl = losses.k3(behaviour, frozen, mask).mean().item()
        rewards = losses.sequence_reward(scores, PENALTIES[s.kl_penalty](behaviour, frozen, mask), self._kl_weight)
        values = torch.cat([self._values(chunk) for chunk in _chunks(numbers, s.minibatch_size)])
        advantages = ADVANTAGES[s.advantage](rewards, values)
        row = {
            "iteration": float(self._iteration),
            "score": float(judged.scores.mean()),
            "reward": rewards.mean().item(),
            "kl": kl,
            "kl_weight": self._kl_weight,
            "value": values.mean().item(),
            "explained_variance": losses.explained_variance(values, rewards),
            **judged.signs,
        }
        _stop_unless_finite("reward", rewards)
        _stop_unless_finite("value", values)
        if kl > s.stop_kl:
            raise _StopTraining(f"KL of {kl:.3g} nats a JD, above ppo.stop_kl {s.stop_kl:g},")
        return Rollout(samples, behaviour, frozen, scores, rewards, values, advantages), row

    def _learn_actor(self, rollout: Rollout, rows: Tensor) -> Row:
        """One step on the clipped surrogate; the ratio is to the policy that sampled, or the paper's (eq. 6)."""
        s = self.settings
        samples = take(rollout.samples, rows)
        now = log_probabilities(self._actor, samples, s.temperature)
        reference = (rollout.behaviour if s.ratio == "behaviour" else rollout.frozen)[rows]
        mask = samples.completion_mask
        loss = losses.clipped_surrogate(now - reference, rollout.advantages[rows], mask, s.clip)
        norm = self._step(self._actor, self._actor_optimizer, loss, "actor")
        outside = ((now.detach() - reference).exp() - 1).abs() > s.clip
        clipped = float((outside * mask).sum() / mask.sum())
        return {"actor_loss": loss.item(), "actor_grad_norm": norm, "clipped": clipped}

    def _learn_critic(self, numbers: Sequence[int], rewards: Tensor) -> Row:
        loss = losses.critic_loss(self._values(numbers), rewards)
        norm = self._step(self._critic, self._critic_optimizer, loss, "critic")
        return {"critic_loss": loss.item(), "critic_grad_norm": norm}

    def _step(self, model: Any, optimizer: Any, loss: Tensor, name: str) -> float:
        """One optimizer step, unless loss or gradient is not finite: weights are never spoilt."""
        _stop_unless_finite(f"{name} loss", loss)
        optimizer.zero_grad()
        self._accelerator.backward(loss)
        norm = self._accelerator.clip_grad_norm_(model.parameters(), self.settings.max_grad_norm)
        _stop_unless_finite(f"{name} gradient", norm)
        optimizer.step()
        return float(norm)

    def _evaluate(self) -> None:
        """Write for the held-out CVs, and keep the weights where their objective is the best of the sound ones."""
        found = evaluate(self._policies(), self.held_out, self.settings, self.max_new_tokens, _stop_unless_finite)
        row = {"iteration": float(self._iteration), **found}
        self.evaluations.append(row)
        sound = is_sound(row, self.evaluations[0], self.settings.stop_kl, len(self.held_out.prompts))
        is_best = self._best is None or row["objective"] > self._best["objective"]
        if self._iteration > 0 and sound and is_best:
            self._best = row
            self._best_tensors = {name: p.detach().cpu().clone() for name, p in _trained(self._actor).items()}

    def _policies(self) -> Policies:
        return Policies(self._actor, self.models.frozen)

    def _values(self, numbers: Sequence[int]) -> Tensor:
        """(b,) V(C): the critic reads the CV with a blank JD."""
        rows = [self.task.critic_rows[i] for i in numbers]
        return sequence_scores(self._critic, rows, self.models.critic_pad_token_id)

    def _numbers(self, iteration: int) -> list[int]:
        """The CVs of an iteration: all of them in a drawn order, then in another, and so on."""
        n, b = len(self.task.prompts), self.settings.batch_size
        numbers: list[int] = []
        while len(numbers) < b:
            turn, place = divmod(iteration * b + len(numbers), n)
            draw = torch.Generator().manual_seed(seed_of(self.settings.seed, "pass", turn))
            numbers += torch.randperm(n, generator=draw)[place : place + b - len(numbers)].tolist()
        return numbers

    def _save(self) -> None:
        tensors = {
            **{f"actor.{name}": p for name, p in _trained(self._actor).items()},
            **{f"critic.{name}": p for name, p in _trained(self._critic).items()},
            **{f"best.{name}": tensor for name, tensor in self._best_tensors.items()},
            **optimizer_tensors(self._actor_optimizer, "actor_optimizer"),
            **optimizer_tensors(self._critic_optimizer, "critic_optimizer"),
        }
        state = {
            "kl_weight": self._kl_weight,
            "best": self._best,
            "history": self.history,
            "evaluations": self.evaluations,
        }
        save_checkpoint(self.checkpoints, Checkpoint(self._iteration, tensors, state))

    def _resume(self) -> None:
        found = load_newest(self.checkpoints)
        if found is None:
            return
        _load(self._actor, _below("actor", found.tensors))
        _load(self._critic, _below("critic", found.tensors))
        restore_optimizer(self._actor_optimizer, found.tensors, "actor_optimizer")
        restore_optimizer(self._critic_optimizer, found.tensors, "critic_optimizer")
        self._best_tensors = _below("best", found.tensors)
        self._iteration, self._kl_weight = found.iteration, found.state["kl_weight"]
        self._best = found.state["best"]
        self.history, self.evaluations = found.state["history"], found.state["evaluations"]


def _trained(model: Any) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _load(model: Any, tensors: dict[str, Tensor]) -> None:
    own = _trained(model)
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def _chunks(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _stop_unless_finite(name: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise _StopTraining(f"a {name} that is not finite")
