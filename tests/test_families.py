"""Llama, Qwen, GPT-2 and BLOOM, small and random: sampling, log-probabilities and scores do not depend on padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    BloomForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from girl_features.generator.reward_model import sequence_scores
from girl_features.trainers.rollouts import log_probabilities, sample, use_plain_sampling

VOCABULARY, EOS, PAD = 30, 1, 0
ENDS = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": None, "num_labels": 1}
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "llama": (LlamaConfig(**ENDS, **SHAPE), LlamaForCausalLM, LlamaForSequenceClassification),
    "qwen": (
        Qwen3Config(**ENDS, **SHAPE, num_key_value_heads=1, head_dim=8),
        Qwen3ForCausalLM,
        Qwen3ForSequenceClassification,
    ),
    "gpt2": (GPT2Config(**ENDS, n_embd=16, n_layer=2, n_head=2), GPT2LMHeadModel, GPT2ForSequenceClassification),
    "bloom": (
        BloomConfig(**ENDS, hidden_size=16, n_layer=2, n_head=2),
        BloomForCausalLM,
        BloomForSequenceClassification,
    ),
}
PROMPTS = [[5, 6], [7, 8, 9, 10, 11], [12, 13, 14]]


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Causal LM and scorer of a family; weights large enough that tokens differ."""
    config, causal, scorer = FAMILIES[request.param]
    torch.manual_seed(0)
    models = causal(config).eval(), scorer(config).eval()
    with torch.no_grad():
        for model in models:
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(10)
    return models


def test_a_batch_of_samples_is_that_of_each_prompt_alone(family: tuple[Any, Any]) -> None:
    model, _ = family
    use_plain_sampling(model, [EOS], PAD)
    limits = {"max_new_tokens": 6, "temperature": 0.8}
    together = sample(model, PROMPTS, [1, 2, 3], **limits)
    probabilities = log_probabilities(model, together, 0.8)
    for row, prompt in enumerate(PROMPTS):
        alone = sample(model, [prompt], [row + 1], **limits)
        length = int(alone.completion_mask.sum())
        assert together.completion_ids[row, :length].tolist() == alone.completion_ids[0, :length].tolist()
        expected = log_probabilities(model, alone, 0.8)[0, :length]
        torch.testing.assert_close(probabilities[row, :length], expected, atol=1e-4, rtol=1e-4)
        assert int(together.completion_mask[row].sum()) == length


def test_log_probabilities_sum_to_one_over_the_vocabulary(family: tuple[Any, Any]) -> None:
    model, _ = family
    use_plain_sampling(model, [EOS], PAD)
    one = sample(model, PROMPTS, [1, 2, 3], max_new_tokens=1, temperature=0.8)
    total = torch.zeros(len(PROMPTS), 1)
    for token in range(VOCABULARY):
        total += log_probabilities(model, one._replace(completion_ids=torch.full((3, 1), token)), 0.8).exp()
    torch.testing.assert_close(total, torch.ones(len(PROMPTS), 1), atol=1e-4, rtol=0)


@torch.no_grad()
def test_scores_are_read_off_the_last_token_whatever_the_padding(family: tuple[Any, Any]) -> None:
    _, scorer = family
    rows = [[*prompt, EOS] for prompt in PROMPTS]
    together = sequence_scores(scorer, rows, PAD)
    alone = torch.cat([sequence_scores(scorer, [row], PAD) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    theirs = torch.cat([scorer(input_ids=torch.tensor([row])).logits[0] for row in rows])
    torch.testing.assert_close(alone, theirs, atol=1e-4, rtol=1e-4)
    assert together.std() > 1e-3
