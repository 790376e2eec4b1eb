"""Fit of a CV and a JD: how much likelier the CV makes the JD's words, by the generator, without writing anything.

For each token t of the JD, d(t) = log p(t given CV and the tokens before) - log p(t given an empty CV and the tokens
before). The CV is read once, and its jobs' JDs are read in batches behind the same cache. A JD is read only once behind
an empty CV.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from girl_features.config import PromptStyle
from girl_features.errors import ShapeError
from girl_features.generator.prompts import TINY, encode_jd, encode_prompt, template_for
from girl_features.generator.tokens import check_positions
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.schema import FIT_COLUMNS

FIT_RECIPE = 1  # a change of what the columns mean makes it another number
_N_FIRST = 8
_SHARE = 5  # one in five tokens


class FitScorer:
    """Computes FIT_COLUMNS for pairs of CV and JD with a causal language model, as a tuned generator is."""

    def __init__(
        self,
        folder: str | Path,
        *,
        max_cv_tokens: int,
        max_jd_tokens: int,
        style: PromptStyle = "full",
        batch_size: int = 8,
    ) -> None:
        """Load the model in `folder`, in float32: a fit is a small difference of large numbers.

        Raises:
            CheckpointError: as `load_causal_lm`, or prompt and JD are longer than the model reads at once.
        """
        model, self._tokenizer = load_causal_lm(folder, torch.float32)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device).eval()
        self._template = template_for(self._tokenizer, style)
        self._max_cv_tokens, self._max_jd_tokens, self._batch_size = max_cv_tokens, max_jd_tokens, batch_size
        self._alone: dict[str, np.ndarray] = {}  # JD -> log p of its tokens behind an empty CV
        if self._template != TINY:  # `tiny` has as many positions as its texts had, and no table of them
            n_tokens = len(self._prompt("")) + max_cv_tokens + max_jd_tokens + 1
            check_positions(self._model.config, n_tokens, "`generator.max_cv_tokens` or `sft.max_jd_tokens`")

    def score(
        self, cvs: Sequence[str], jds: Sequence[str], progress: Callable[[int], object] = lambda n_pairs: None
    ) -> np.ndarray:
        """Return (n, 9) float32: FIT_COLUMNS of each pair. `progress` is called with the number of finished pairs.

        Raises:
            ShapeError: `cvs` and `jds` differ in length.
        """
        if len(cvs) != len(jds):
            raise ShapeError(f"{len(cvs)} CVs came with {len(jds)} JDs")
        ids_of = {jd: encode_jd(self._tokenizer, jd, self._max_jd_tokens).ids for jd in dict.fromkeys(jds)}
        new = [jd for jd in ids_of if jd not in self._alone]
        self._alone.update(zip(new, self._log_probabilities("", [ids_of[jd] for jd in new]), strict=True))
        rows_of: dict[str, list[int]] = {}
        for row, cv in enumerate(cvs):
            rows_of.setdefault(cv, []).append(row)
        fits = np.zeros((len(cvs), len(FIT_COLUMNS)), np.float32)
        for cv, rows in rows_of.items():
            wanted = list(dict.fromkeys(jds[row] for row in rows))
            given = dict(zip(wanted, self._log_probabilities(cv, [ids_of[jd] for jd in wanted]), strict=True))
            for row in rows:
                fits[row] = fit_of(given[jds[row]], self._alone[jds[row]])
            progress(len(rows))
        return fits

    @torch.inference_mode()
    def _log_probabilities(self, cv: str, jds: list[list[int]]) -> list[np.ndarray]:
        """Return log p of each token of each JD behind the prompt for `cv`, which is read once."""
        prompt = self._prompt(cv)
        read = self._model(input_ids=self._tensor([prompt]), use_cache=True, logits_to_keep=1)
        order = sorted(range(len(jds)), key=lambda i: len(jds[i]))
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            rows = self._behind(read, len(prompt), [jds[i] for i in batch])
            found.update(zip(batch, rows, strict=True))
        return [found[i] for i in range(len(jds))]

    def _behind(self, read: Any, n_prompt: int, jds: list[list[int]]) -> list[np.ndarray]:
        """Return log p of the tokens of b JDs behind a prompt that was read, whose cache stays as it is."""
        width = max(map(len, jds))
        padded = self._tensor([[*ids, *[ids[-1]] * (width - len(ids))] for ids in jds])  # (b, t)
        cache = copy.deepcopy(read.past_key_values)
        # b copies of its one row, which every kind of layer can make
        cache.reorder_cache(torch.zeros(len(jds), dtype=torch.long, device=self._device))
        places = torch.arange(n_prompt, n_prompt + width, device=self._device).expand(len(jds), -1)
        mask = torch.ones((len(jds), n_prompt + width), dtype=torch.long, device=self._device)
        logits = self._model(  # padding comes last, so no token that counts sees it
            input_ids=padded, past_key_values=cache, position_ids=places, attention_mask=mask, use_cache=True
        ).logits
        first = read.logits[:, -1:].expand(len(jds), -1, -1)
        return [
            _chosen(torch.cat([first[row], logits[row, : len(ids) - 1]]), padded[row, : len(ids)])
            for row, ids in enumerate(jds)
        ]

    def _prompt(self, cv: str) -> list[int]:
        return encode_prompt(self._tokenizer, self._template, cv, self._max_cv_tokens).ids

    def _tensor(self, rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, device=self._device)


def fit_of(given: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Return FIT_COLUMNS of a JD whose t tokens have (t,) log-probabilities `given` the CV, and without it."""
    gain = given - alone
    ordered, n = np.sort(gain), math.ceil(len(gain) / _SHARE)
    return np.array(
        [
            *(gain.sum(), gain.mean(), ordered[-n:].mean(), ordered[:n].mean(), gain[:_N_FIRST].sum()),
            *((gain > 1).mean(), given.mean(), alone.mean(), len(gain)),
        ],
        np.float32,
    )


def _chosen(logits: Tensor, ids: Tensor) -> np.ndarray:
    """Return (t,) float64 log-probabilities of `ids` under (t, v) logits."""
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    return log_probabilities.gather(1, ids[:, None])[:, 0].double().cpu().numpy()
