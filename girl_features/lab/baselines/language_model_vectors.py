"""Vectors of texts from the last layer of a causal language model, as in BIGRec (Bao et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from girl_features.contract import EncoderContract
from girl_features.errors import require
from girl_features.generator.checkpoint import adapter_hash, is_adapter, weights_hash
from girl_features.generator.prompts import plain_text_ids
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.lab.baselines.early_stopping import batches_by_length
from girl_features.schema import Encoded

torch = require("torch", "rank")

MAX_TOKENS = 256
READING = "last state 1"  # increase the number when a change of this file changes the vector of a text


class LanguageModelEncoder:
    """A TextEncoder that returns the last layer's state at the last token, not normalized: BIGRec uses L2 distance."""

    def __init__(self, folder: Path, batch_size: int = 32) -> None:
        self._model, self._tokenizer = load_causal_lm(folder)
        self._model.eval()
        self._batch_size = batch_size
        self.contract = EncoderContract(
            name=f"language model {folder.name}, {READING}",
            weights_sha256=adapter_hash(folder) if is_adapter(folder) else weights_hash(folder),
            max_tokens=MAX_TOKENS,
            pooling="other",
            normalized=False,
            dtype="float32",
            dimension=int(self._model.config.hidden_size),
        )

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts as (n, d) float32; `truncated` is True for texts that were cut at MAX_TOKENS."""
        token_ids = [plain_text_ids(self._tokenizer, text) or [self._tokenizer.eos_token_id] for text in texts]
        vectors = np.zeros((len(texts), self.contract.dimension), np.float32)
        for rows in batches_by_length(token_ids, self._batch_size):
            with torch.inference_mode():
                states = last_states(self._model, [token_ids[i][:MAX_TOKENS] for i in rows])
            vectors[rows] = states.float().numpy()
        return Encoded(vectors, np.array([len(ids) > MAX_TOKENS for ids in token_ids], bool))


def last_states(model: Any, token_ids: Sequence[list[int]]) -> Any:
    """Return the (b, h) states of the model's last layer at the last token of each of b rows of token ids."""
    width, lengths = max(map(len, token_ids)), torch.tensor([len(row) for row in token_ids])
    padded = torch.tensor([row + [0] * (width - len(row)) for row in token_ids])
    mask = (torch.arange(width) < lengths[:, None]).long()
    states = model.base_model(input_ids=padded, attention_mask=mask, use_cache=False).last_hidden_state
    return states[torch.arange(len(token_ids)), lengths - 1]
