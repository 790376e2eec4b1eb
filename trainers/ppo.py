"""Stage 3: PPO from recruiter feedback (GIRL, eq. 3-8 and Algorithm 1). Departures from the paper: docs/adr/0009.

For each CV the actor writes a JD J'. The JD has one reward r = U(C, J') - lambda KL and one advantage r - V(C); the
critic V sees the CV alone. The actor learns from the clipped surrogate, the critic from (r - V)^2, each with its own
optimizer. The SFT generator and the reward model stay frozen.

Every random number is drawn from (seed, iteration), so a checkpoint holds no state of a random generator, and a resumed
run has the losses of a run that was never interrupted.

Several processes (`accelerate launch`) share the sampling of a batch and the rows of each minibatch. Their gradients
are added, so that they learn what a single process would. Each process holds the whole rollout and the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from girl_features.config import PPOConfig
from girl_features.generator.reward_model import sequence_scores
from girl_features.progress import Progress
from girl_features.trainers import checkpoints, losses, processes
from girl_features.trainers.checkpoints import Checkpoint
from girl_features.trainers.precision import stage_3_precision
from girl_features.trainers.rollouts import (
    Rollout,
    enable_recomputing,
    log_probabilities,
    recomputing,
    seed_of,
    take,
)
from girl_features.trainers.written_jds import (
    HeldOutEvaluator,
    Metrics,
    PPOModels,
    WritingTask,
    jd_statistics,
    trained_weights,
    write_jds,
)

PENALTIES = {"k1": losses.k1, "k3": losses.k3, "paper_kl": losses.paper_kl}
ADVANTAGES = {"plain": losses.plain_advantage, "whitened": losses.whitened_advantage}


class RLResult(NamedTuple):
    """Metrics of a finished stage-3 run, after which the actor holds the best weights."""

    history: list[Metrics]  # one entry an iteration
    evaluations: list[Metrics]  # on the held-out CVs; the first is of the SFT generator
    best: Metrics | None  # the evaluation of the weights now in the actor; None: no evaluation was within the limits
    stop_reason: str | None  # None: all iterations were done


class _StopTraining(Exception):  # noqa: N818 - `PPO.run` turns it into a result
    """Ends the run early; the message is the reason."""


@dataclass
class PPO:
    """The PPO loop; `run` trains."""

    models: PPOModels
    task: WritingTask
    held_out: WritingTask
    settings: PPOConfig
    max_new_tokens: int
    checkpoints: Path  # a folder
    gradient_checkpointing: bool = False  # activations are computed twice instead of kept
    after_iteration: Callable[[int, Metrics], None] = lambda iteration, metrics: None

    def __post_init__(self) -> None:
        gpu = torch.cuda.is_available()
        self._accelerator = Accelerator(
            cpu=not gpu, mixed_precision="bf16" if stage_3_precision() == "bfloat16" else "no"
        )
        models, settings = self.models, self.settings
        processes.check_divisible(settings)
        for model in (models.actor, models.critic, models.frozen):
            if model is not None:  # in place; in "evaluation mode" accelerate does not add up the gradients
                self._accelerator.prepare_model(model.eval(), evaluation_mode=True)
        if models.frozen is not None:
            models.frozen.requires_grad_(False)
        self._actor, self._critic = models.actor, models.critic
        if self.gradient_checkpointing:
            enable_recomputing(self._actor)
            enable_recomputing(self._critic)
        self._actor_optimizer = _new_optimizer(self._actor, settings.learning_rate)
        self._critic_optimizer = _new_optimizer(self._critic, settings.critic_learning_rate)
        self._kl_weight = settings.kl_weight
        self._iteration = 0
        self._history: list[Metrics] = []
        self._evaluator = HeldOutEvaluator(models, self.held_out, settings, self.max_new_tokens, _stop_unless_finite)

    def run(self) -> RLResult:
        """Train from the newest checkpoint or from the start, and put the best weights into the actor."""
        self._resume()
        reason = None
        with Progress("ppo", self.settings.iterations, "iterations", quiet=not processes.is_main()) as progress:
            progress.begin_at(self._iteration)
            try:
                if not self._evaluator.evaluations:
                    self._evaluator.evaluate(0)
                while self._iteration < self.settings.iterations:
                    self._advance()
                    progress.advance()
            except _StopTraining as stop:
                reason = f"{stop} at iteration {self._iteration}"
        self._evaluator.restore_best()
        return RLResult(self._history, self._evaluator.evaluations, self._evaluator.best, reason)

    def _advance(self) -> None:
        """Do one iteration, followed every `evaluate_every` iterations by an evaluation and a checkpoint."""
        metrics = self._iterate()
        self._history.append(metrics)
        self._iteration += 1
        if self._iteration % self.settings.evaluate_every == 0 or self._iteration == self.settings.iterations:
            self._evaluator.evaluate(self._iteration)
            if processes.is_main():
                checkpoints.save_checkpoint(self.checkpoints, self._checkpoint())
            processes.wait_for_all()
        self.after_iteration(self._iteration, metrics)

    def _iterate(self) -> Metrics:
        """Sample a batch, learn from it for E epochs, and return the metrics (one round of GIRL, Algorithm 1)."""
        settings = self.settings
        numbers = self._numbers(self._iteration)
        rollout, metrics = self._rollout(numbers)
        warming_up = self._iteration < settings.critic_warmup
        totals: dict[str, list[float]] = {}
        for epoch in range(settings.epochs):
            draw = torch.Generator().manual_seed(seed_of(settings.seed, "order", self._iteration, epoch))
            shuffled = torch.randperm(len(numbers), generator=draw)
            for rows in shuffled.split(settings.minibatch_size):  # type: ignore[no-untyped-call]
                step_metrics = self._learn_critic(numbers, rollout.rewards, rows)
                if not warming_up:
                    step_metrics |= self._learn_actor(rollout, rows)
                for name, value in step_metrics.items():
                    totals.setdefault(name, []).append(value)
        if settings.target_kl is not None and not warming_up:
            self._kl_weight = losses.adapted_kl_weight(self._kl_weight, metrics["kl"], settings.target_kl)
        return metrics | {name: sum(values) / len(values) for name, values in totals.items()}

    @torch.no_grad()
    def _rollout(self, numbers: Sequence[int]) -> tuple[Rollout, Metrics]:
        """Write JDs for the numbered CVs, and return them with rewards and advantages, and their metrics."""
        settings = self.settings
        seed_parts = ("train", self._iteration)
        samples, behaviour, frozen, scored = write_jds(
            self.models, self.task, numbers, seed_parts, settings, self.max_new_tokens
        )
        _stop_unless_finite("log-probability", behaviour)
        mask = samples.completion_mask
        scores = torch.tensor(scored.scores - scored.penalties, device=mask.device)
        kl = losses.k3(behaviour, frozen, mask).mean().item()
        penalty = PENALTIES[settings.kl_penalty](behaviour, frozen, mask)
        rewards = losses.sequence_reward(scores, penalty, self._kl_weight)
        values = self._all_values(numbers).to(scores.device)
        advantages = ADVANTAGES[settings.advantage](rewards, values)
        metrics = {
            "iteration": float(self._iteration),
            "score": float(scored.scores.mean()),
            "reward": rewards.mean().item(),
            "kl": kl,
            "kl_weight": self._kl_weight,
            "value": values.mean().item(),
            "explained_variance": losses.explained_variance(values, rewards),
            **jd_statistics(scored),
        }
        _stop_unless_finite("reward", rewards)
        _stop_unless_finite("value", values)
        if kl > settings.stop_kl:
            raise _StopTraining(f"KL of {kl:.3g} nats per JD, above ppo.stop_kl {settings.stop_kl:g},")
        return Rollout(samples, behaviour, frozen, rewards, advantages), metrics

    def _learn_actor(self, rollout: Rollout, rows: Tensor) -> Metrics:
        """Take one step on the clipped surrogate.

        The ratio is to the policy that sampled, or to the frozen generator as in the paper (eq. 6; docs/adr/0009).
        """
        settings = self.settings
        local = rows[processes.local_places(len(rows))]
        samples = take(rollout.samples, local)
        with recomputing(self._actor):
            log_probs = log_probabilities(self._actor, samples, settings.temperature)
        reference = (rollout.behaviour if settings.ratio == "behaviour" else rollout.frozen)[local]
        mask = samples.completion_mask
        share = mask.sum() / rollout.samples.completion_mask[rows].sum()  # of this process in the minibatch's tokens
        loss = losses.clipped_surrogate(log_probs - reference, rollout.advantages[local], mask, settings.clip) * share
        outside = ((log_probs.detach() - reference).exp() - 1).abs() > settings.clip
        clipped = (outside * mask).sum() / mask.sum() * share
        norm = self._step(self._actor, self._actor_optimizer, "actor", loss, clipped)
        return {"actor_loss": loss.item(), "actor_grad_norm": norm, "clipped": clipped.item()}

    def _learn_critic(self, numbers: Sequence[int], rewards: Tensor, rows: Tensor) -> Metrics:
        local = rows[processes.local_places(len(rows))]
        with recomputing(self._critic):
            values = self._values([numbers[i] for i in local.tolist()])
        loss = losses.critic_loss(values, rewards[local]) * (len(local) / len(rows))
        norm = self._step(self._critic, self._critic_optimizer, "critic", loss)
        return {"critic_loss": loss.item(), "critic_grad_norm": norm}

    def _step(self, model: Any, optimizer: Any, name: str, loss: Tensor, *figures: Tensor) -> float:
        """Take one optimizer step on the loss of all processes, and return the norm of the gradient.

        The run ends instead if the loss or the gradient is not finite. `loss` and `figures` become their sums over the
        processes, in place.
        """
        optimizer.zero_grad()
        self._accelerator.backward(loss)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        processes.add_over_processes([loss, *figures, *gradients])
        _stop_unless_finite(f"{name} loss", loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), self.settings.max_grad_norm)
        _stop_unless_finite(f"{name} gradient", norm)
        optimizer.step()
        return float(norm)

    def _values(self, numbers: Sequence[int]) -> Tensor:
        """Return the (b,) values V(C) of the numbered CVs; the critic reads a CV with a blank JD."""
        rows = [self.task.critic_rows[i] for i in numbers]
        with self._accelerator.autocast():
            return sequence_scores(self._critic, rows, self.models.critic_pad_token_id)

    def _all_values(self, numbers: Sequence[int]) -> Tensor:
        """Return the (b,) values V(C) of a whole batch, on the CPU; the processes share the work."""
        local = [numbers[i] for i in processes.local_places(len(numbers))]
        size = self.settings.minibatch_size
        chunks = [local[start : start + size] for start in range(0, len(local), size)]
        part = torch.cat([self._values(chunk) for chunk in chunks]).cpu()
        return torch.cat(processes.gather_from_all(part))[: len(numbers)]

    def _numbers(self, iteration: int) -> list[int]:
        """Return the numbers of an iteration's CVs.

        The iterations go through all CVs in a random order, then through all of them in another order, and so on.
        """
        n, b = len(self.task.prompts), self.settings.batch_size
        numbers: list[int] = []
        while len(numbers) < b:
            pass_number, place = divmod(iteration * b + len(numbers), n)
            draw = torch.Generator().manual_seed(seed_of(self.settings.seed, "pass", pass_number))
            numbers += torch.randperm(n, generator=draw)[place : place + b - len(numbers)].tolist()
        return numbers

    def _checkpoint(self) -> Checkpoint:
        tensors = {
            **{f"actor.{name}": p for name, p in trained_weights(self._actor).items()},
            **{f"critic.{name}": p for name, p in trained_weights(self._critic).items()},
            **{f"best.{name}": tensor for name, tensor in self._evaluator.best_weights.items()},
            **checkpoints.optimizer_tensors(self._actor_optimizer, "actor_optimizer"),
            **checkpoints.optimizer_tensors(self._critic_optimizer, "critic_optimizer"),
        }
        state = {
            "kl_weight": self._kl_weight,
            "best": self._evaluator.best,
            "history": self._history,
            "evaluations": self._evaluator.evaluations,
        }
        return Checkpoint(self._iteration, tensors, state)

    def _resume(self) -> None:
        checkpoint = checkpoints.load_newest(self.checkpoints)
        if checkpoint is None:
            return
        tensors, state = checkpoint.tensors, checkpoint.state
        checkpoints.load_weights(self._actor, checkpoints.with_prefix(tensors, "actor"))
        checkpoints.load_weights(self._critic, checkpoints.with_prefix(tensors, "critic"))
        checkpoints.restore_optimizer(self._actor_optimizer, tensors, "actor_optimizer")
        checkpoints.restore_optimizer(self._critic_optimizer, tensors, "critic_optimizer")
        self._iteration, self._kl_weight, self._history = checkpoint.iteration, state["kl_weight"], state["history"]
        self._evaluator.evaluations, self._evaluator.best = state["evaluations"], state["best"]
        self._evaluator.best_weights = checkpoints.with_prefix(tensors, "best")


def _new_optimizer(model: Any, learning_rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(trained_weights(model).values(), learning_rate, weight_decay=0.0)


def _stop_unless_finite(name: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise _StopTraining(f"a {name} that is not finite")
