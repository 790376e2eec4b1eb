"""Sampling JDs for PPO, and the log-probabilities of what was sampled, under one and the same distribution.

That is softmax(logits / temperature) over the whole vocabulary: no top-k, no nucleus, no repetition penalty. Each
sequence draws from a seed of its own, so that a run can go on from a checkpoint without any generator's state.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from girl_features.generator.sampling import SeededSampling


class Samples(NamedTuple):
    """b JDs as they were sampled: prompts padded on the left to p tokens, JDs on the right to t."""

    prompt_ids: Tensor  # (b, p) int64
    prompt_mask: Tensor  # (b, p) int64, 1 on the prompt
    completion_ids: Tensor  # (b, t) int64
    completion_mask: Tensor  # (b, t) float32, 1 up to the end token and on it
    finished: Tensor  # (b,) bool: the end token was written


class Rollout(NamedTuple):
    """One PPO batch: what was sampled, how likely that was, and what it was worth."""

    samples: Samples
    behaviour: Tensor  # (b, t) float32: log-probabilities under the policy that sampled
    frozen: Tensor  # (b, t) float32: under the frozen generator
    scores: Tensor  # (b,) float32: U(C, J') less penalties for unfinished and defective JDs
    rewards: Tensor  # (b,) float32: r (GIRL, eq. 4)
    values: Tensor  # (b,) float32: V(C) before this batch was learned from
    advantages: Tensor  # (b,) float32 (GIRL, eq. 5)


def take(samples: Samples, rows: Tensor) -> Samples:
    """The given rows of every field."""
    return Samples(*(field[rows] for field in samples))


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that differs wherever one of `parts` does."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def use_plain_sampling(model: Any, eos_token_id: int, pad_token_id: int) -> None:
    """Replace the model's own generation settings, which may bend the distribution (top_k=50 is a default)."""
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=eos_token_id, pad_token_id=pad_token_id)  # type: ignore[no-untyped-call]


@torch.no_grad()
def sample(
    model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
) -> Samples:
    """Sample one JD a prompt. The model's generation settings must be those of `use_plain_sampling`."""
    device = next(model.parameters()).device
    eos, pad = model.generation_config.eos_token_id, model.generation_config.pad_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[*[pad] * (width - len(row)), *row] for row in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
    # greedy decoding over a processor that leaves only the drawn token possible
    processors = LogitsProcessorList([SeededSampling(seeds, max_new_tokens, temperature, top_p=1.0)])
    output = model.generate(
        input_ids=ids, attention_mask=mask, logits_processor=processors, max_new_tokens=max_new_tokens
    )
    completion = output[:, width:]
    is_end = completion == eos
    after_end = is_end.int().cumsum(-1) - is_end.int() > 0  # (b, t): an end token stands before
    return Samples(ids, mask, completion, (~after_end).float(), is_end.any(-1))


def log_probabilities(model: Any, samples: Samples, temperature: float) -> Tensor:
    """(b, t) float32 log-probabilities of the sampled tokens at `temperature`; 0 on padding."""
    t = samples.completion_ids.shape[1]
    ids = torch.cat([samples.prompt_ids, samples.completion_ids], dim=1)  # (b, p + t)
    mask = torch.cat([samples.prompt_mask, samples.completion_mask.long()], dim=1)
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    known = inspect.signature(_inner(model).forward).parameters
    if "position_ids" in known:
        arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)  # the padding on the left counts for nothing
    if "logits_to_keep" in known:
        arguments["logits_to_keep"] = t + 1
    logits = model(**arguments).logits[:, -t - 1 : -1].float() / temperature  # (b, t, v): one place before each token
    chosen = logits.gather(-1, samples.completion_ids[..., None]).squeeze(-1)
    own: Tensor = (chosen - logits.logsumexp(-1)) * samples.completion_mask
    return own


def enable_recomputing(model: Any) -> None:
    """Let the layers compute their activations again for the gradient, where `recomputing` says so."""
    newest = getattr(model, "activation_checkpointing_enable", None)  # its name since transformers 5.2x
    (newest or model.gradient_checkpointing_enable)()


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """Within, the layers of `enable_recomputing` keep no activations; all else stays as in evaluation, no dropout."""
    layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _inner(model: Any) -> Any:
    """The language model inside an adapter's wrapping."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
