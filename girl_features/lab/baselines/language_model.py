"""Baselines around a causal language model: its vectors of texts for BIGRec, and FT-LLM, which answers yes or no.

BIGRec (Bao et al., 2023) reads the last layer's state at the last token of a text.

FT-LLM is tuned to answer whether a CV and a JD match (as TALLRec, Bao et al., 2023). Its score is logit(yes) -
logit(no) after the CV, the JD and a question. The whole model is tuned by AdamW on the log loss, and stopped early by
the log loss on the valid part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from girl_features.contract import EncoderContract
from girl_features.errors import GirlError, require
from girl_features.generator.checkpoint import adapter_hash, is_adapter, weights_hash
from girl_features.generator.prompts import plain_text_ids
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.integrations.rankers.early_stopping import batches_by_length, train_with_early_stopping
from girl_features.ranker import PairTexts, check_text_parts
from girl_features.schema import Encoded
from girl_features.torch_threads import one_thread
from girl_features.vectors.regression import Calibration, fit_calibration, log_loss_of_logits

torch = require("torch", "rank")

MAX_TOKENS = 256
READING = "last state 1"  # increase the number when a change of this file changes the vector of a text
QUESTION, YES, NO = "\n\nIs this job a match for this CV? Answer yes or no.\nAnswer:", " yes", " no"


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


@dataclass(frozen=True)
class YesNoSettings:
    """Settings of the tuning; the defaults suit a few million parameters and some thousand pairs."""

    max_cv_tokens: int = 96
    max_jd_tokens: int = 64
    learning_rate: float = 3e-4
    batch_size: int = 32
    max_epochs: int = 3
    patience: int = 1


class YesNoRanker:
    """A TextRanker around the language model in `folder`. The same seed, data and machine give the same scores."""

    def __init__(self, folder: Path, seed: int = 0, settings: YesNoSettings | None = None) -> None:
        self.folder, self.seed, self.settings = folder, seed, settings or YesNoSettings()
        self._model: Any = None
        self._calibration = Calibration(1.0, 0.0)

    def fit(self, texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
        """Tune a fresh copy of the model; ShapeError as in every TextRanker."""
        check_text_parts(texts, labels, valid_texts, valid_labels)
        self._model, self._tokenizer = load_causal_lm(self.folder, torch.float32)
        self._answers = [self._ids(word)[-1] for word in (YES, NO)]
        if self._answers[0] == self._answers[1]:
            raise GirlError(
                f"the tokenizer of {self.folder} ends {YES!r} and {NO!r} with the same token; use another base model"
            )
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._train(self._rows(texts), labels, self._rows(valid_texts), valid_labels)
            logits = self._logits(self._rows(valid_texts))
        self._calibration = fit_calibration(logits, valid_labels)

    def score(self, texts: PairTexts) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, in (0, 1)."""
        if self._model is None:
            raise GirlError("this yes-no ranker is not trained yet; call fit()")
        with one_thread():
            return self._calibration.probabilities(self._logits(self._rows(texts)))

    def _ids(self, text: str) -> list[int]:
        return plain_text_ids(self._tokenizer, text)

    def _rows(self, texts: PairTexts) -> list[list[int]]:
        """Return the token ids of CV, JD and question for each pair. No text can spell a special token."""
        ids_of = {text: self._ids(text) for text in dict.fromkeys([*texts.cvs, *texts.jds])}
        separator, question = self._ids("\n\n"), self._ids(QUESTION)
        rows = []
        for cv, jd in zip(texts.cvs, texts.jds, strict=True):
            cv_ids, jd_ids = ids_of[cv][: self.settings.max_cv_tokens], ids_of[jd][: self.settings.max_jd_tokens]
            rows.append([*cv_ids, *separator, *jd_ids, *question])
        return rows

    def _train(
        self, rows: list[list[int]], labels: np.ndarray, valid_rows: list[list[int]], valid_labels: np.ndarray
    ) -> None:
        targets = torch.from_numpy(labels.astype(np.float32))

        def batch_loss(batch: np.ndarray) -> Any:
            logits = self._forward([rows[i] for i in batch])
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets[batch])

        train_with_early_stopping(
            self._model,
            torch.optim.AdamW(self._model.parameters(), lr=self.settings.learning_rate),
            batch_loss,
            lambda: log_loss_of_logits(self._logits(valid_rows), valid_labels),
            n_rows=len(rows),
            batch_size=self.settings.batch_size,
            max_epochs=self.settings.max_epochs,
            patience=self.settings.patience,
            seed=self.seed,
            max_grad_norm=1.0,
        )

    def _logits(self, rows: list[list[int]]) -> np.ndarray:
        self._model.eval()
        logits = np.zeros(len(rows))
        with torch.no_grad():
            for batch in batches_by_length(rows, 64):
                logits[batch] = self._forward([rows[i] for i in batch]).numpy()
        return logits

    def _forward(self, rows: list[list[int]]) -> Any:
        """Return (b,) logit(yes) - logit(no) at the last token of each row."""
        last = last_states(self._model, rows)  # (b, h)
        answers = self._model.get_output_embeddings()(last)[:, self._answers].float()  # (b, 2)
        return answers[:, 0] - answers[:, 1]
