"""Loss of a generator on the JDs of held-out seekers, beside that of a model that knows no order of words."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from girl_features.batch.quality.unigram import Unigram
from girl_features.config import GirlConfig
from girl_features.errors import EmptyWindowError
from girl_features.generator.prompts import template_for
from girl_features.input.splits import Windows, sft_pairs
from girl_features.input.tables import Tables
from girl_features.trainers.training_data import Rows, hold_out_seekers, tokenize_pairs


def bits_per_character(loss: float, n_tokens: int, n_characters: int) -> float:
    """Return a mean loss in nats per token as bits per character of the same text."""
    return loss * n_tokens / math.log(2) / max(1, n_characters)


def held_out_metrics(loss: float, tokenizer: Any, rows: Rows, training_rows: Rows) -> dict[str, float]:
    """Return the metrics that a training record keeps of a mean `loss` in nats per token on the held-out `rows`.

    Bits per character compare models with different tokenizers. Those of the unigram model, which is fitted to the
    JDs of `training_rows`, are the mark that a model has to beat that has learned anything of the order of words.
    """
    n_tokens = sum(sum(row["completion_mask"]) for row in rows)
    jds = _jds(tokenizer, rows)
    n_characters = max(1, sum(map(len, jds)))
    unigram = Unigram.of(_jds(tokenizer, training_rows))
    return {
        "heldout_loss": loss,
        "heldout_perplexity": math.exp(min(loss, 700)),
        "heldout_bits_per_character": bits_per_character(loss, n_tokens, n_characters),
        "unigram_bits_per_character": sum(map(unigram.bits, jds)) / n_characters,
        "n_heldout_pairs": float(len(rows)),
    }


def stage_3_metrics(
    model: Any, tokenizer: Any, tables: Tables, windows: Windows, config: GirlConfig
) -> dict[str, float]:
    """Return the `held_out_metrics` of a generator of stage 3 on the pairs that stage 1 held out; none without any."""
    if not config.sft.holdout:
        return {}
    try:
        pairs = sft_pairs(tables, windows)
    except EmptyWindowError:  # stage 1 was trained elsewhere
        return {}
    parts = hold_out_seekers(pairs, config.sft.holdout, config.sft.seed)
    limits = (config.generator.max_cv_tokens, config.sft.max_jd_tokens)
    template = template_for(tokenizer, config.generator.prompt)
    train, rows = (tokenize_pairs(tokenizer, template, part, *limits).rows for part in parts)
    if not train or not rows:
        return {}
    return held_out_metrics(mean_loss(model, rows), tokenizer, rows, train)


@torch.inference_mode()
def mean_loss(model: Any, rows: Rows) -> float:
    """Return the mean negative log-likelihood of the JDs' tokens, in nats per token. One row is read at a time."""
    was_training = model.training
    model.eval()
    total, n = 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]], device=model.device)  # (1, t)
        counted = sum(row["completion_mask"])  # the JD comes last
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=counted + 1).logits[0, :-1].float()
        total += float(cross_entropy(logits, ids[0, -counted:], reduction="sum"))
        n += counted
    model.train(was_training)
    return total / max(1, n)


def _jds(tokenizer: Any, rows: Rows) -> list[str]:
    """Return the JDs of tokenized pairs, without their end tokens."""
    completions = (
        [token for token, counted in zip(row["input_ids"], row["completion_mask"], strict=True) if counted]
        for row in rows
    )
    return [tokenizer.decode(ids[:-1]) for ids in completions]
