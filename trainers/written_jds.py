"""Writing for CVs and judging the result: what PPO learns from, and what any stage-3 generator is compared by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from girl_features.config import PPOConfig
from girl_features.trainers import losses
from girl_features.trainers.feedback import Judgement, Task, joined, signs
from girl_features.trainers.processes import from_all, own_places
from girl_features.trainers.rollouts import Samples, log_probabilities, sample, seed_of, take

Row = dict[str, float]


class Policies(NamedTuple):
    """The generator that is trained, and the one it started from."""

    actor: Any  # causal LM, or one with a LoRA adapter
    frozen: Any | None  # causal LM; None: the actor with its adapter off


class Writing(NamedTuple):
    """b JDs, how likely each of their tokens was, and what they are worth."""

    samples: Samples
    behaviour: Tensor  # (b, t) float32 log-probabilities under the actor
    frozen: Tensor  # (b, t) float32 log-probabilities under the frozen generator
    judged: Judgement


@torch.no_grad()
def write(
    policies: Policies,
    task: Task,
    numbers: Sequence[int],
    seed_parts: tuple[int | str, ...],
    settings: PPOConfig,
    max_new_tokens: int,
) -> Writing:
    """One JD for each numbered CV; the seed parts and the place in the batch say which. Processes share the work."""
    places = own_places(len(numbers))
    own = [numbers[i] for i in places]
    seeds = [seed_of(settings.seed, *seed_parts, i, numbers[i]) for i in places]
    prompts = [task.prompts[i] for i in own]
    samples = sample(policies.actor, prompts, seeds, max_new_tokens=max_new_tokens, temperature=settings.temperature)
    behaviour = _in_chunks(policies.actor, samples, settings)
    if policies.frozen is not None:
        frozen = _in_chunks(policies.frozen, samples, settings)
    else:
        with policies.actor.disable_adapter():
            frozen = _in_chunks(policies.actor, samples, settings)
    lengths = samples.completion_mask.sum(-1).long().tolist()
    completions = [ids[:length] for ids, length in zip(samples.completion_ids.tolist(), lengths, strict=True)]
    part = Writing(samples, behaviour, frozen, task.judge(own, completions))
    return _whole(part, len(numbers), policies.actor.generation_config.pad_token_id)


def evaluate(
    policies: Policies,
    task: Task,
    settings: PPOConfig,
    max_new_tokens: int,
    check: Callable[[str, Tensor], None] = lambda name, values: None,
) -> Row:
    """Mean figures over all CVs of `task`, with the same seeds whenever it is called.

    score is U, objective is U less penalties, kl is k3 in nats a JD. `check` sees the log-probabilities of each chunk.
    """
    numbers = range(len(task.prompts))
    judged, kls = [], []
    for start in range(0, len(numbers), settings.batch_size):
        chunk = numbers[start : start + settings.batch_size]
        written = write(policies, task, chunk, ("held out",), settings, max_new_tokens)
        check("log-probability", written.behaviour)
        kls.append(losses.k3(written.behaviour, written.frozen, written.samples.completion_mask).cpu())
        judged.append(written.judged)
    whole = joined(judged)
    return {
        "score": float(whole.scores.mean()),
        "score_sd": float(whole.scores.std()),
        "objective": float((whole.scores - whole.penalties).mean()),
        "kl": torch.cat(kls).mean().item(),
        **signs(whole),
    }


def is_sound(row: Row, start: Row, stop_kl: float, n: int) -> bool:
    """Whether a rise of the score over `start`, on n CVs, is not paid for with KL, broken, longer or repetitive JDs."""
    slack = 0.05 + 0.5 / math.sqrt(n)  # a share's standard error is at most the second
    return (
        math.isfinite(row["objective"])
        and row["kl"] <= stop_kl
        and row["defective"] <= start["defective"] + slack
        and row["unfinished"] <= start["unfinished"] + slack
        and 0.6 * start["words"] <= row["words"] <= 1.4 * start["words"]
        and row["repetition"] <= start["repetition"] + slack
        and row["distinct_2"] >= 0.7 * start["distinct_2"]
    )


def _whole(own: Writing, n: int, pad_token_id: int) -> Writing:
    """The n rows that all processes wrote together, in their order, padded to one width."""
    device = own.behaviour.device
    on_cpu = Samples(*(t.cpu() for t in own.samples))
    parts = from_all(Writing(on_cpu, own.behaviour.cpu(), own.frozen.cpu(), own.judged))
    if len(parts) == 1:
        return own

    def stacked(tensors: list[Tensor], value: int = 0, left: bool = False) -> Tensor:
        width = max(t.shape[1] for t in tensors)
        missing = [width - t.shape[1] for t in tensors]
        rows = [pad(t, (m, 0) if left else (0, m), value=value) for t, m in zip(tensors, missing, strict=True)]
        return torch.cat(rows)[:n].to(device)

    samples = Samples(
        stacked([p.samples.prompt_ids for p in parts], pad_token_id, left=True),
        stacked([p.samples.prompt_mask for p in parts], left=True),
        stacked([p.samples.completion_ids for p in parts], pad_token_id),
        stacked([p.samples.completion_mask for p in parts]),
        torch.cat([p.samples.finished for p in parts])[:n].to(device),
    )
    judged = Judgement._make(field[:n] for field in joined([p.judged for p in parts]))
    return Writing(samples, stacked([p.behaviour for p in parts]), stacked([p.frozen for p in parts]), judged)


def _in_chunks(model: Any, samples: Samples, settings: PPOConfig) -> Tensor:
    chunks = torch.arange(len(samples.finished)).split(settings.minibatch_size)  # type: ignore[no-untyped-call]
    return torch.cat([log_probabilities(model, take(samples, rows), settings.temperature) for rows in chunks])
