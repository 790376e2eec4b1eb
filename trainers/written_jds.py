"""JDs that a policy writes for CVs, with log-probabilities and scores, and the evaluation on held-out CVs.

PPO learns from such JDs. Every stage-3 generator is compared with the SFT generator by the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from girl_features.config import PPOConfig
from girl_features.trainers import losses
from girl_features.trainers.checkpoints import load_weights
from girl_features.trainers.feedback import JDScores, WritingTask, concatenate_scores, jd_statistics
from girl_features.trainers.processes import gather_from_all, local_places
from girl_features.trainers.rollouts import Samples, log_probabilities, sample, seed_of, take

Metrics = dict[str, float]


class Policies(NamedTuple):
    """The generator that is trained, and the one that it started from."""

    actor: Any  # causal LM, or one with a LoRA adapter
    frozen: Any | None  # causal LM; None: the actor with its adapter switched off


class WrittenJDs(NamedTuple):
    """b JDs with the log-probabilities of their tokens and their scores."""

    samples: Samples
    behaviour: Tensor  # (b, t) float32 log-probabilities under the actor
    frozen: Tensor  # (b, t) float32 log-probabilities under the frozen generator
    scored: JDScores


@torch.no_grad()
def write_jds(
    policies: Policies,
    task: WritingTask,
    numbers: Sequence[int],
    seed_parts: tuple[int | str, ...],
    settings: PPOConfig,
    max_new_tokens: int,
) -> WrittenJDs:
    """Write one JD for each numbered CV of `task`; the processes share the work.

    What is drawn depends on `seed_parts`, `ppo.seed`, the number of the CV and its place among the numbers.
    """
    places = local_places(len(numbers))
    local_numbers = [numbers[i] for i in places]
    seeds = [seed_of(settings.seed, *seed_parts, i, numbers[i]) for i in places]
    prompts = [task.prompts[i] for i in local_numbers]
    samples = sample(policies.actor, prompts, seeds, max_new_tokens=max_new_tokens, temperature=settings.temperature)
    behaviour = _log_probabilities_in_chunks(policies.actor, samples, settings)
    if policies.frozen is not None:
        frozen = _log_probabilities_in_chunks(policies.frozen, samples, settings)
    else:
        with policies.actor.disable_adapter():
            frozen = _log_probabilities_in_chunks(policies.actor, samples, settings)
    lengths = samples.completion_mask.sum(-1).long().tolist()
    completions = [ids[:length] for ids, length in zip(samples.completion_ids.tolist(), lengths, strict=True)]
    part = WrittenJDs(samples, behaviour, frozen, task.judge(local_numbers, completions))
    return _gather_written(part, len(numbers), policies.actor.generation_config.pad_token_id)


class HeldOutEvaluator:
    """Evaluations of the actor on held-out CVs, and the best weights so far whose JDs are within the limits.

    Every evaluation writes one JD for each CV, with the same seeds. `check` gets a name and each batch's
    log-probabilities.
    """

    def __init__(
        self,
        policies: Policies,
        task: WritingTask,
        settings: PPOConfig,
        max_new_tokens: int,
        check: Callable[[str, Tensor], None] = lambda name, values: None,
    ) -> None:
        self._policies, self._task, self._settings = policies, task, settings
        self._max_new_tokens, self._check = max_new_tokens, check
        self.evaluations: list[Metrics] = []  # the first is of the SFT generator
        self.best: Metrics | None = None
        self.best_weights: dict[str, Tensor] = {}

    def evaluate(self, iteration: int) -> Metrics:
        """Evaluate once, and keep the weights if their objective is the best so far within the limits.

        Returns:
            Among others `score` (U), `objective` (U minus penalties) and `kl` (k3, nats a JD), means over the CVs.
        """
        actor = self._policies.actor
        was_training = actor.training
        actor.eval()
        metrics = {"iteration": float(iteration), **self._figures()}
        actor.train(was_training)
        self.evaluations.append(metrics)
        is_best = self.best is None or metrics["objective"] > self.best["objective"]
        if iteration > 0 and is_best and self._is_acceptable(metrics):
            self.best = metrics
            self.best_weights = {name: p.detach().cpu().clone() for name, p in trained_weights(actor).items()}
        return metrics

    def restore_best(self) -> None:
        """Load the best weights into the actor."""
        load_weights(self._policies.actor, self.best_weights)

    def _figures(self) -> Metrics:
        settings, numbers = self._settings, range(len(self._task.prompts))
        scored, kls = [], []
        for start in range(0, len(numbers), settings.batch_size):
            batch = numbers[start : start + settings.batch_size]
            written = write_jds(self._policies, self._task, batch, ("held out",), settings, self._max_new_tokens)
            self._check("log-probability", written.behaviour)
            kls.append(losses.k3(written.behaviour, written.frozen, written.samples.completion_mask).cpu())
            scored.append(written.scored)
        jds = concatenate_scores(scored)
        return {
            "score": float(jds.scores.mean()),
            "score_sd": float(jds.scores.std()),
            "objective": float((jds.scores - jds.penalties).mean()),
            "kl": torch.cat(kls).mean().item(),
            **jd_statistics(jds),
        }

    def _is_acceptable(self, metrics: Metrics) -> bool:
        """True if the KL is within its limit and the JDs are about as sound, long and varied as at the start."""
        start = self.evaluations[0]
        slack = 0.05 + 0.5 / math.sqrt(len(self._task.prompts))  # 0.5 / sqrt(n): the largest standard error of a share
        return (
            math.isfinite(metrics["objective"])
            and metrics["kl"] <= self._settings.stop_kl
            and metrics["defective"] <= start["defective"] + slack
            and metrics["unfinished"] <= start["unfinished"] + slack
            and 0.6 * start["words"] <= metrics["words"] <= 1.4 * start["words"]
            and metrics["repetition"] <= start["repetition"] + slack
            and metrics["distinct_2"] >= 0.7 * start["distinct_2"]
        )


def trained_weights(model: Any) -> dict[str, Tensor]:
    """Return the parameters of `model` that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _gather_written(part: WrittenJDs, n: int, pad_token_id: int) -> WrittenJDs:
    """Return the n JDs of all processes in order, padded to one width."""
    device = part.behaviour.device
    on_cpu = Samples(*(t.cpu() for t in part.samples))
    parts = gather_from_all(WrittenJDs(on_cpu, part.behaviour.cpu(), part.frozen.cpu(), part.scored))
    if len(parts) == 1:
        return part

    def stack(tensors: list[Tensor], value: int = 0, pad_left: bool = False) -> Tensor:
        width = max(t.shape[1] for t in tensors)
        missing = [width - t.shape[1] for t in tensors]
        rows = [pad(t, (m, 0) if pad_left else (0, m), value=value) for t, m in zip(tensors, missing, strict=True)]
        return torch.cat(rows)[:n].to(device)

    samples = Samples(
        stack([p.samples.prompt_ids for p in parts], pad_token_id, pad_left=True),
        stack([p.samples.prompt_mask for p in parts], pad_left=True),
        stack([p.samples.completion_ids for p in parts], pad_token_id),
        stack([p.samples.completion_mask for p in parts]),
        torch.cat([p.samples.finished for p in parts])[:n].to(device),
    )
    scored = JDScores._make(values[:n] for values in concatenate_scores([p.scored for p in parts]))
    return WrittenJDs(samples, stack([p.behaviour for p in parts]), stack([p.frozen for p in parts]), scored)


def _log_probabilities_in_chunks(model: Any, samples: Samples, settings: PPOConfig) -> Tensor:
    """Return the (b, t) `log_probabilities` of the samples, computed a minibatch at a time."""
    chunks = torch.arange(len(samples.finished)).split(settings.minibatch_size)  # type: ignore[no-untyped-call]
    return torch.cat([log_probabilities(model, take(samples, rows), settings.temperature) for rows in chunks])
