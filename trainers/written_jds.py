"""JDs that a policy writes for CVs, with log-probabilities and scores, and the evaluation on held-out CVs.

PPO learns from such JDs. Every stage-3 generator is compared with the SFT generator by the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from girl_features.config import PPOConfig, PromptStyle
from girl_features.generator.gate import defect
from girl_features.generator.prompts import PromptIds, answer_text, encode_prompt, template_for, until_end
from girl_features.generator.reward_model import TransformersRewardModel
from girl_features.generator.words import words_of
from girl_features.trainers import losses
from girl_features.trainers.checkpoints import load_weights
from girl_features.trainers.processes import gather_from_all, local_places
from girl_features.trainers.rollouts import Samples, log_probabilities, sample, seed_of, take

RUN_WORDS = 4  # words of a run that is looked for a second time
Metrics = dict[str, float]


class PPOModels(NamedTuple):
    """The models of stage 3. The reward model belongs to the task; only PPO has a use for the critic."""

    actor: Any  # the policy that is trained: causal LM, or one with a LoRA adapter
    frozen: Any | None  # the generator that it started from; None: the actor with its adapter switched off
    critic: Any  # copy of the reward model: sequence classification with one output
    critic_pad_token_id: int


class JDScores(NamedTuple):
    """Scores of n sampled JDs."""

    scores: np.ndarray  # (n,) float32: U(C, J')
    penalties: np.ndarray  # (n,) float32, to be subtracted from the scores
    unfinished: np.ndarray  # (n,) bool: no end token
    defective: np.ndarray  # (n,) bool: empty or looping
    texts: list[str]  # n


class WritingTask(Protocol):
    """CVs to write JDs for, numbered from 0, and the scoring of the JDs."""

    prompts: list[list[int]]  # token ids of each CV's prompt, by the generator's tokenizer
    critic_rows: list[list[int]]  # token ids of each CV with a blank JD, by the critic's tokenizer

    def judge(self, numbers: Sequence[int], completions: Sequence[Sequence[int]]) -> JDScores:
        """Score one completion, the token ids of a JD, of each numbered CV. A finished JD ends with the end token."""
        ...


@dataclass
class JDTask:
    """CVs whose JDs a reward model scores."""

    cvs: list[str]
    tokenizer: Any  # of the generator
    max_cv_tokens: int
    reward_model: TransformersRewardModel
    unfinished_penalty: float
    defect_penalty: float
    end_ids: Sequence[int]  # each of them ends a JD
    style: PromptStyle = "full"

    def __post_init__(self) -> None:
        self._template = template_for(self.tokenizer, self.style)
        prompts = [self.prompt_of(cv) for cv in self.cvs]
        self.prompts = [prompt.ids for prompt in prompts]
        self.n_cv_truncated = sum(prompt.cv_truncated for prompt in prompts)
        self.critic_rows = [self.reward_model.encode(cv, "").ids for cv in self.cvs]

    def prompt_of(self, cv: str) -> PromptIds:
        """Return the token ids of the prompt for any CV."""
        return encode_prompt(self.tokenizer, self._template, cv, self.max_cv_tokens)

    def judge(self, numbers: Sequence[int], completions: Sequence[Sequence[int]]) -> JDScores:
        """Score the JDs with the reward model. Unfinished and defective JDs get a penalty each."""
        jds = [until_end(ids, self.end_ids) for ids in completions]
        unfinished = np.array([len(jd) == len(ids) for jd, ids in zip(jds, completions, strict=True)])
        texts = [answer_text(self.tokenizer, jd) for jd in jds]
        defective = np.array([defect(text) is not None for text in texts])
        penalties = self.unfinished_penalty * unfinished + self.defect_penalty * defective
        scores = self.reward_model.score([self.cvs[i] for i in numbers], texts)
        return JDScores(scores, penalties.astype(np.float32), unfinished, defective, texts)


class WrittenJDs(NamedTuple):
    """b JDs with the log-probabilities of their tokens and their scores."""

    samples: Samples
    behaviour: Tensor  # (b, t) float32 log-probabilities under the actor
    frozen: Tensor  # (b, t) float32 log-probabilities under the frozen generator
    scored: JDScores


@torch.no_grad()
def write_jds(
    models: PPOModels,
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
    samples = sample(models.actor, prompts, seeds, max_new_tokens=max_new_tokens, temperature=settings.temperature)
    behaviour = _log_probabilities_in_chunks(models.actor, samples, settings)
    if models.frozen is not None:
        frozen = _log_probabilities_in_chunks(models.frozen, samples, settings)
    else:
        with models.actor.disable_adapter():
            frozen = _log_probabilities_in_chunks(models.actor, samples, settings)
    lengths = samples.completion_mask.sum(-1).long().tolist()
    completions = [ids[:length] for ids, length in zip(samples.completion_ids.tolist(), lengths, strict=True)]
    part = WrittenJDs(samples, behaviour, frozen, task.judge(local_numbers, completions))
    return _gather_written(part, len(numbers), models.actor.generation_config.pad_token_id)


@dataclass
class HeldOutEvaluator:
    """Evaluations of the actor on held-out CVs, and the best weights so far whose JDs are within the limits.

    Every evaluation writes one JD for each CV, with the same seeds.
    """

    models: PPOModels
    task: WritingTask
    settings: PPOConfig
    max_new_tokens: int
    check: Callable[[str, Tensor], None] = lambda name, values: None  # gets a name and each batch's log-probabilities
    evaluations: list[Metrics] = field(default_factory=list)  # the first is of the SFT generator
    best: Metrics | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def evaluate(self, iteration: int) -> Metrics:
        """Evaluate once, and keep the weights if their objective is the best so far within the limits.

        Returns:
            Among others `score` (U), `objective` (U minus penalties) and `kl` (k3, nats per JD), means over the CVs.
        """
        actor = self.models.actor
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
        load_weights(self.models.actor, self.best_weights)

    def _figures(self) -> Metrics:
        settings, numbers = self.settings, range(len(self.task.prompts))
        scored, kls = [], []
        for start in range(0, len(numbers), settings.batch_size):
            batch = numbers[start : start + settings.batch_size]
            written = write_jds(self.models, self.task, batch, ("held out",), settings, self.max_new_tokens)
            self.check("log-probability", written.behaviour)
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
        slack = 0.05 + 0.5 / math.sqrt(len(self.task.prompts))  # 0.5 / sqrt(n): the largest standard error of a share
        return (
            math.isfinite(metrics["objective"])
            and metrics["kl"] <= self.settings.stop_kl
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

    def stack(tensors: list[Tensor], value: int = 0, side: str = "right") -> Tensor:
        rows = [row for tensor in tensors for row in tensor][:n]
        return pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side).to(device)

    samples = Samples(
        stack([p.samples.prompt_ids for p in parts], pad_token_id, side="left"),
        stack([p.samples.prompt_mask for p in parts], side="left"),
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


def concatenate_scores(parts: Sequence[JDScores]) -> JDScores:
    """Return the scores of all parts as one, in their order."""
    *arrays, texts = zip(*parts, strict=True)
    scores, penalties, unfinished, defective = (np.concatenate(array) for array in arrays)
    return JDScores(scores, penalties, unfinished, defective, list(chain.from_iterable(texts)))


def jd_statistics(jds: JDScores) -> dict[str, float]:
    """Return the shares of unfinished and of defective JDs, and the `text_statistics` of all."""
    shares = {"unfinished": float(jds.unfinished.mean()), "defective": float(jds.defective.mean())}
    return shares | text_statistics(jds.texts)


def text_statistics(texts: Sequence[str]) -> dict[str, float]:
    """Return how long and how repetitive the texts are.

    Returns:
        `words`, the mean number of words; `distinct_2`, the number of distinct bigrams divided by that of all bigrams
        of all texts; and `repetition`, the mean share of 4-word runs of a text that occur in it before.
    """
    words_by_text = [words_of(text) for text in texts]
    bigrams = [bigram for words in words_by_text for bigram in pairwise(words)]
    repeated = []
    for words in words_by_text:
        runs = [tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1)]
        repeated.append(1 - len(set(runs)) / len(runs) if runs else 0.0)
    return {
        "words": float(np.mean([len(words) for words in words_by_text])),
        "distinct_2": len(set(bigrams)) / len(bigrams) if bigrams else 0.0,
        "repetition": float(np.mean(repeated)),
    }
