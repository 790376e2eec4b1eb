"""Sampling of JDs for PPO, and log-probabilities of the sampled tokens under the same distribution.

The distribution is softmax(logits / temperature) over the whole vocabulary, without top-k, nucleus sampling or
repetition penalty. Each sequence has its own seed, so that a run can resume without the state of a random generator.
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
    """b sampled JDs: prompts padded on the left to p tokens, JDs padded on the right to t tokens."""

    prompt_ids: Tensor  # (b, p) int64
    prompt_mask: Tensor  # (b, p) int64, 1 on the prompt
    completion_ids: Tensor  # (b, t) int64
    completion_mask: Tensor  # (b, t) float32, 1 up to and including the end token
    finished: Tensor  # (b,) bool: the JD has an end token


class Rollout(NamedTuple):
    """One PPO batch: sampled JDs with their log-probabilities, rewards and advantages."""

    samples: Samples
    behaviour: Tensor  # (b, t) float32: log-probabilities under the policy that sampled
    frozen: Tensor  # (b, t) float32: under the frozen generator
    rewards: Tensor  # (b,) float32: r (GIRL, eq. 4)
    advantages: Tensor  # (b,) float32 (GIRL, eq. 5), by the critic before it learns from this batch


def take(samples: Samples, rows: Tensor) -> Samples:
    """Return the given rows of every field."""
    return Samples(*(field[rows] for field in samples))


def seed_of(*parts: int | str) -> int:
    """Return a 63-bit seed made from a hash of `parts`."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def use_plain_sampling(model: Any, eos_token_ids: Sequence[int], pad_token_id: int) -> None:
    """Replace the model's generation settings, which may change the distribution (top_k=50 is a default)."""
    settings = {"do_sample": False, "eos_token_id": list(eos_token_ids), "pad_token_id": pad_token_id}
    model.generation_config = GenerationConfig(**settings)  # type: ignore[no-untyped-call]


def end_ids(model: Any) -> list[int]:
    """Return the tokens that end a JD, from the model's generation settings."""
    ends = model.generation_config.eos_token_id
    return [ends] if isinstance(ends, int) else list(ends)


@torch.no_grad()
def sample(
    model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
) -> Samples:
    """Sample one JD for each prompt, each with its seed. The model must have been given to `use_plain_sampling`."""
    device = next(model.parameters()).device
    pad = model.generation_config.pad_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[*[pad] * (width - len(row)), *row] for row in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
    # decoding is greedy; the processor draws a token and makes all others impossible
    processors = LogitsProcessorList([SeededSampling(seeds, max_new_tokens, temperature, top_p=1.0)])
    output = model.generate(
        input_ids=ids, attention_mask=mask, logits_processor=processors, max_new_tokens=max_new_tokens
    )
    completion = output[:, width:]
    is_end = torch.isin(completion, torch.tensor(end_ids(model), device=device))
    after_end = is_end.int().cumsum(-1) - is_end.int() > 0  # (b, t): after the first end token
    return Samples(ids, mask, completion, (~after_end).float(), is_end.any(-1))


def log_probabilities(model: Any, samples: Samples, temperature: float) -> Tensor:
    """Return the (b, t) float32 log-probabilities of the sampled tokens at `temperature`, 0 on padding."""
    t = samples.completion_ids.shape[1]
    ids = torch.cat([samples.prompt_ids, samples.completion_ids], dim=1)  # (b, p + t)
    mask = torch.cat([samples.prompt_mask, samples.completion_mask.long()], dim=1)
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    language_model = model.get_base_model() if hasattr(model, "get_base_model") else model  # without its adapter
    parameters = inspect.signature(language_model.forward).parameters
    if "position_ids" in parameters:
        arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)  # padding on the left has no positions
    if "logits_to_keep" in parameters:
        arguments["logits_to_keep"] = t + 1
    logits = model(**arguments).logits[:, -t - 1 : -1].float() / temperature  # (b, t, v): one place before each token
    chosen = logits.gather(-1, samples.completion_ids[..., None]).squeeze(-1)
    result: Tensor = (chosen - logits.logsumexp(-1)) * samples.completion_mask
    return result


def enable_recomputing(model: Any) -> None:
    """Prepare the layers to compute their activations twice instead of keeping them; `recomputing` switches it on."""
    if hasattr(model, "activation_checkpointing_enable"):  # the name since transformers 5.2x
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable()


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """Within the block, the layers prepared by `enable_recomputing` keep no activations.

    Everything else stays in evaluation mode, so there is no dropout.
    """
    layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
