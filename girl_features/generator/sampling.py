"""Seeded sampling inside a batch: each row draws from its own stream, whatever the other rows are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class SeededSampling(LogitsProcessor):
    """Draws each row's next token with the row's own random numbers and leaves only that token possible.

    Used with greedy decoding, which then takes the drawn token. A row uses one uniform number a step and
    picks by inverse CDF, so the same seed gives the same text in any batch (up to floating-point ties).
    """

    def __init__(self, seeds: Sequence[int], max_new_tokens: int, temperature: float, top_p: float) -> None:
        self._uniform = torch.stack(  # (b, max_new_tokens)
            [torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(s)) for s in seeds]
        )
        self._temperature = temperature
        self._top_p = top_p
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(b, v) logits -> (b, v) with 0 at the drawn token and -inf elsewhere."""
        probabilities = (scores.float() / self._temperature).softmax(-1)
        uniform = self._uniform[:, self._step, None].to(scores.device)
        self._step += 1
        drawn = (
            _draw_from_nucleus(probabilities, uniform, self._top_p)
            if self._top_p < 1
            else _draw(probabilities, uniform)
        )
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


def _draw(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """(b, v) probabilities and (b, 1) numbers in [0, 1) -> (b, 1) tokens; no order is needed, which saves much time."""
    cumulative = probabilities.cumsum(-1)
    position = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return position.clamp(max=probabilities.shape[-1] - 1)


def _draw_from_nucleus(probabilities: torch.Tensor, uniform: torch.Tensor, top_p: float) -> torch.Tensor:
    """The same over the nucleus, the fewest tokens whose mass reaches `top_p`."""
    probabilities, order = probabilities.sort(-1, descending=True)
    cumulative = probabilities.cumsum(-1)
    nucleus = cumulative - probabilities < top_p
    mass = (probabilities * nucleus).sum(-1, keepdim=True)
    position = torch.searchsorted(cumulative, uniform * mass).clamp(max=nucleus.sum(-1, keepdim=True) - 1)
    return order.gather(-1, position)
