"""Seeded sampling in a batch: each row has its own random numbers, independent of the other rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class SeededSampling(LogitsProcessor):
    """Draws the next token of each row with the random numbers of that row, and masks all other tokens.

    Use it with greedy decoding, which then takes the drawn token. Each step uses one uniform number for each row and
    the inverse CDF, so the same seed gives the same text in any batch, except for floating-point ties.
    """

    def __init__(self, seeds: Sequence[int], max_new_tokens: int, temperature: float, top_p: float) -> None:
        self._uniform = torch.stack(  # (b, max_new_tokens)
            [torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(s)) for s in seeds]
        )
        self._temperature = temperature
        self._top_p = top_p
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Turn (b, v) logits into (b, v) logits with 0 at the drawn token and -inf elsewhere."""
        probabilities = (scores.float() / self._temperature).softmax(-1)
        uniform = self._uniform[:, self._step, None].to(scores.device)
        self._step += 1
        if self._top_p < 1:
            drawn = _draw_from_nucleus(probabilities, uniform, self._top_p)
        else:
            drawn = _draw(probabilities, uniform)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


def _draw(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw (b, 1) tokens from (b, v) probabilities with (b, 1) uniform numbers; fast because nothing is sorted."""
    cumulative = probabilities.cumsum(-1)
    position = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return position.clamp(max=probabilities.shape[-1] - 1)


def _draw_from_nucleus(probabilities: torch.Tensor, uniform: torch.Tensor, top_p: float) -> torch.Tensor:
    """Draw (b, 1) tokens from the nucleus: the fewest tokens whose total probability reaches `top_p`."""
    probabilities, order = probabilities.sort(-1, descending=True)
    cumulative = probabilities.cumsum(-1)
    nucleus = cumulative - probabilities < top_p
    mass = (probabilities * nucleus).sum(-1, keepdim=True)
    position = torch.searchsorted(cumulative, uniform * mass).clamp(max=nucleus.sum(-1, keepdim=True) - 1)
    return order.gather(-1, position)
