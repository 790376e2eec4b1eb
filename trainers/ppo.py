"""Stage 3: PPO from recruiter feedback (GIRL, eq. 3-8 and Algorithm 1). Where it departs from the paper: docs/adr/0009.

For each CV the actor writes a JD J'. Its reward is r = U(C, J') - lambda KL, its advantage r - V(C), one of each a
sequence; the critic V sees the CV alone. The actor learns from the clipped surrogate, the critic from (r - V)^2, each
with an optimizer of its own. The SFT generator and the reward model stay frozen.

Every random number is drawn from (seed, iteration), so a checkpoint needs no generator's state: a run that goes on
from one has the losses of a run that was never stopped.

Several processes (`accelerate launch`) share the sampling of a batch and the rows of each minibatch; gradients are
added up, so that they learn what one process would. All hold the whole rollout and the same weights.
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
from girl_features.trainers.feedback import Task, signs
from girl_features.trainers.heldout import Policies, Row, evaluate, is_sound, write
from girl_features.trainers.processes import (
    add_over_processes,
    check_divisible,
    from_all,
    is_main,
    own_places,
    own_rows,
    wait_for_all,
)
from girl_features.trainers.rollouts import (
    Rollout,
    enable_recomputing,
    log_probabilities,
    recomputing,
    seed_of,
    take,
)

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
    gradient_checkpointing: bool = False  # activations are computed twice instead of kept
    after_iteration: Callable[[int, Row], None] = lambda iteration, row: None
    history: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        gpu = torch.cuda.is_available()
        self._accelerator = Accelerator(cpu=not gpu, mixed_precision="bf16" if gpu else "no")
        models, s = self.models, self.settings
        check_divisible(s)
        for model in (models.actor, models.critic, models.frozen):
            if model is not None:  # in place; "evaluation" only says that we add the gradients up ourselves
                self._accelerator.prepare_model(model.eval(), evaluation_mode=True)
        if models.frozen is not None:
            models.frozen.requires_grad_(False)
        self._actor, self._critic = models.actor, models.critic
        if self.gradient_checkpointing:
            enable_recomputing(self._actor)
            enable_recomputing(self._critic)
        self._actor_optimizer = torch.optim.AdamW(_trained(self._actor).values(), s.learning_rate, weight_decay=0.0)
        critic_weights = _trained(self._critic).values()
        self._critic_optimizer = torch.optim.AdamW(critic_weights, s.critic_learning_rate, weight_decay=0.0)
        self._kl_weight = s.kl_weight
        self._iteration = 0
        self._best: Row | None = None
        self._best_tensors: dict[str, Tensor] = {}

    def run(self) -> Outcome:
        """Train from the newest checkpoint, or from the start; leaves the best weights in the actor."""
        self._resume()
        reason = None
        with Progress("ppo", self.settings.iterations, "iterations", quiet=not is_main()) as progress:
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
                learned = self._learn_critic(numbers, rollout.rewards, rows)
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
        values = self._all_values(numbers).to(scores.device)
        advantages = ADVANTAGES[s.advantage](rewards, values)
        row = {
            "iteration": float(self._iteration),
            "score": float(judged.scores.mean()),
            "reward": rewards.mean().item(),
            "kl": kl,
            "kl_weight": self._kl_weight,
            "value": values.mean().item(),
            "explained_variance": losses.explained_variance(values, rewards),
            **signs(judged),
        }
        _stop_unless_finite("reward", rewards)
        _stop_unless_finite("value", values)
        if kl > s.stop_kl:
            raise _StopTraining(f"KL of {kl:.3g} nats a JD, above ppo.stop_kl {s.stop_kl:g},")
        return Rollout(samples, behaviour, frozen, scores, rewards, values, advantages), row

    def _learn_actor(self, rollout: Rollout, rows: Tensor) -> Row:
        """One step on the clipped surrogate; the ratio is to the policy that sampled, or the paper's (eq. 6)."""
        s = self.settings
        own = own_rows(rows)
        samples = take(rollout.samples, own)
        with recomputing(self._actor):
            now = log_probabilities(self._actor, samples, s.temperature)
        reference = (rollout.behaviour if s.ratio == "behaviour" else rollout.frozen)[own]
        mask = samples.completion_mask
        share = mask.sum() / rollout.samples.completion_mask[rows].sum()  # of the minibatch's tokens; 1 if alone
        loss = losses.clipped_surrogate(now - reference, rollout.advantages[own], mask, s.clip) * share
        outside = ((now.detach() - reference).exp() - 1).abs() > s.clip
        clipped = (outside * mask).sum() / mask.sum() * share
        norm = self._step(self._actor, self._actor_optimizer, loss, clipped, "actor")
        return {"actor_loss": loss.item(), "actor_grad_norm": norm, "clipped": clipped.item()}

    def _learn_critic(self, numbers: Sequence[int], rewards: Tensor, rows: Tensor) -> Row:
        own = own_rows(rows)
        with recomputing(self._critic):
            values = self._values([numbers[i] for i in own.tolist()])
        loss = losses.critic_loss(values, rewards[own]) * (len(own) / len(rows))
        norm = self._step(self._critic, self._critic_optimizer, loss, None, "critic")
        return {"critic_loss": loss.item(), "critic_grad_norm": norm}

    def _step(self, model: Any, optimizer: Any, loss: Tensor, figure: Tensor | None, name: str) -> float:
        """One optimizer step on the loss of all processes, unless it or its gradient is not finite; the norm.

        `loss`, and `figure` where there is one, hold the sums over the processes afterwards.
        """
        optimizer.zero_grad()
        self._accelerator.backward(loss)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        add_over_processes([loss, *gradients] if figure is None else [loss, figure, *gradients])
        _stop_unless_finite(f"{name} loss", loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), self.settings.max_grad_norm)
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
        with self._accelerator.autocast():
            return sequence_scores(self._critic, rows, self.models.critic_pad_token_id)

    def _all_values(self, numbers: Sequence[int]) -> Tensor:
        """(b,) V(C) of a whole batch, on the CPU; processes share the work."""
        own = [numbers[i] for i in own_places(len(numbers))]
        chunks = [
            own[start : start + self.settings.minibatch_size]
            for start in range(0, len(own), self.settings.minibatch_size)
        ]
        part = torch.cat([self._values(chunk) for chunk in chunks]).cpu()
        return torch.cat(from_all(part))[: len(numbers)]

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
        if is_main():
            save_checkpoint(self.checkpoints, self._checkpoint())
        wait_for_all()

    def _checkpoint(self) -> Checkpoint:
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
        return Checkpoint(self._iteration, tensors, state)

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


def _stop_unless_finite(name: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise _StopTraining(f"a {name} that is not finite")
