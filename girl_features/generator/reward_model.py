"""Reward model: one score for how well a JD suits a CV (GIRL, section IV-B).

It is a language model with a linear head on the last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from girl_features.errors import CheckpointError, ShapeError
from girl_features.generator.checkpoint import REWARD_RECORD_NAME, read_record
from girl_features.generator.prompts import PromptTemplate, encode_prompt, plain_text_ids, template_for
from girl_features.generator.tokens import load_tokenizer


class PairIds(NamedTuple):
    """Token ids of a CV and a JD as the reward model reads them: prompt, JD and end token."""

    ids: list[int]
    cv_truncated: bool
    jd_truncated: bool


def encode_pair(
    tokenizer: Any, template: PromptTemplate, cv: str, jd: str, max_cv_tokens: int, max_jd_tokens: int
) -> PairIds:
    """Return the token ids of a pair, with CV and JD cut to their first tokens. The critic of PPO reads no JD."""
    prompt = encode_prompt(tokenizer, template, cv, max_cv_tokens)
    jd_ids = plain_text_ids(tokenizer, jd) if jd else []
    ids = [*prompt.ids, *jd_ids[:max_jd_tokens], tokenizer.eos_token_id]
    return PairIds(ids, prompt.cv_truncated, len(jd_ids) > max_jd_tokens)


def sequence_scores(model: Any, rows: Sequence[Sequence[int]], pad_token_id: int) -> torch.Tensor:
    """Return the (n,) float32 scores of n token sequences, each read at the last token of its sequence."""
    device = next(model.parameters()).device
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_token_id] * (width - len(row))] for row in rows], device=device)  # (n, t)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = (torch.arange(width, device=device) < lengths[:, None]).long()
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state  # (n, t, h)
    scores: torch.Tensor = model.score(hidden[torch.arange(len(rows), device=device), lengths - 1])  # (n, 1)
    return scores.squeeze(-1).float()


def load_scorer(folder: Path) -> tuple[Any, Any]:
    """Load a saved reward model and its tokenizer, from safetensors only and without remote code."""
    model = AutoModelForSequenceClassification.from_pretrained(
        str(folder), trust_remote_code=False, use_safetensors=True
    )
    return model.eval(), load_tokenizer(folder)


class TransformersRewardModel:
    """A trained reward model, loaded from its folder."""

    def __init__(self, folder: Path, batch_size: int = 64) -> None:
        """Load it; CheckpointError if its files have changed, or if its prompt is not the one it was trained on."""
        self.record = read_record(folder, REWARD_RECORD_NAME)
        self.model, self.tokenizer = load_scorer(folder)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self._template = template_for(self.tokenizer)
        if self._template.version != self.record.prompt_version:
            raise CheckpointError(
                f"{folder} was trained on prompt {self.record.prompt_version!r}, but this version writes "
                f"{self._template.version!r}; train again with `girl train reward`"
            )
        self._max_jd_tokens = int(str(self.record.settings["max_jd_tokens"]))
        self._batch_size = batch_size

    def encode(self, cv: str, jd: str) -> PairIds:
        """Return the token ids of a pair."""
        return encode_pair(self.tokenizer, self._template, cv, jd, self.record.max_cv_tokens, self._max_jd_tokens)

    @torch.inference_mode()
    def score(self, cvs: Sequence[str], jds: Sequence[str]) -> np.ndarray:
        """Return the (n,) float32 scores of n pairs, as the protocol `RewardModel` says."""
        if len(cvs) != len(jds):
            raise ShapeError(f"{len(cvs)} CVs came with {len(jds)} JDs")
        rows = [self.encode(cv, jd).ids for cv, jd in zip(cvs, jds, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # similar lengths need little padding
        scores = np.zeros(len(rows), np.float32)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            batch_rows = [rows[i] for i in batch]
            scores[batch] = sequence_scores(self.model, batch_rows, self.tokenizer.pad_token_id).cpu().numpy()
        return scores
