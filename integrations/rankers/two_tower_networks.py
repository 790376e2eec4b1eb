"""The networks of GIRL's equations 10-15 and variants with interaction terms, as plain torch modules.

Each takes NetworkInputs of b pairs and returns (b,) logits. In the variants, the last layer of every learned part
starts at zero, so training starts from a logistic regression on the cosines.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class NetworkInputs(NamedTuple):
    """Inputs of b pairs of d-dimensional vectors."""

    cv: Tensor  # (b, d)
    jd: Tensor  # (b, d)
    mlp: Tensor  # (b, p) standardised columns of the MLP or of the CV's tower
    jd_tower: Tensor  # (b, q) standardised columns of the JD's tower; q = 0 without one
    linear: Tensor  # (b, w) standardised columns of the linear part; w = 0 without one


class Widths(NamedTuple):
    """Input and hidden widths of a network."""

    vector: int  # d
    mlp: int  # p
    jd_tower: int  # q
    linear: int  # w
    hidden: int


class PlainMLP(nn.Module):
    """MLP([c; j]) (GIRL, eq. 10) or MLP([c; j; j']) (eq. 13)."""

    def __init__(self, widths: Widths, dropout: float) -> None:
        super().__init__()
        half = max(1, widths.hidden // 2)
        layers = [*_entry(widths.mlp, widths.hidden, dropout), nn.Linear(widths.hidden, half), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(half, 1))

    def forward(self, inputs: NetworkInputs) -> Tensor:
        """Return (b,) logits."""
        logits: Tensor = self.mlp(inputs.mlp).squeeze(1)
        return logits


class InteractionMLP(PlainMLP):
    """linear(cosines) + MLP([c; j; c*j; cosines ...])."""

    def __init__(self, widths: Widths, dropout: float) -> None:
        super().__init__(widths, dropout)
        _start_at_zero(self.mlp)
        self.linear = nn.Linear(widths.linear, 1)

    def forward(self, inputs: NetworkInputs) -> Tensor:
        """Return (b,) logits."""
        logits: Tensor = self.linear(inputs.linear).squeeze(1) + super().forward(inputs)
        return logits


class PlainDot(nn.Module):
    """c . j (GIRL, eq. 11): nothing to train."""

    def __init__(self, widths: Widths, dropout: float) -> None:
        super().__init__()

    def forward(self, inputs: NetworkInputs) -> Tensor:
        """Return (b,) dot products."""
        return (inputs.cv * inputs.jd).sum(dim=1)


class PlainDotTower(nn.Module):
    """c' . j with c' = MLP([c; j']) (GIRL, eq. 14 and 15)."""

    def __init__(self, widths: Widths, dropout: float) -> None:
        super().__init__()
        self.cv_tower = _tower(widths.mlp, widths.hidden, widths.vector, dropout)

    def forward(self, inputs: NetworkInputs) -> Tensor:
        """Return (b,) logits."""
        logits: Tensor = (self.cv_tower(inputs.mlp) * inputs.jd).sum(dim=1)
        return logits


class ResidualDot(nn.Module):
    """linear(cosines) + scale * (c' . j*  -  c . j) with c' = c + MLP([c; (j')]) and j* = j + MLP(j).

    c and j are first scaled to unit length. c . j is subtracted because the linear part already contains it, so the
    network starts as the linear part alone.
    """

    def __init__(self, widths: Widths, dropout: float) -> None:
        super().__init__()
        self.cv_tower = _start_at_zero(_tower(widths.mlp, widths.hidden, widths.vector, dropout))
        self.jd_tower = _start_at_zero(_tower(widths.jd_tower, widths.hidden, widths.vector, dropout))
        self.linear = nn.Linear(widths.linear, 1)
        self.log_scale = nn.Parameter(torch.tensor([2.3]))  # about 10: cosines are small beside logits

    def forward(self, inputs: NetworkInputs) -> Tensor:
        """Return (b,) logits."""
        cv, jd = nn.functional.normalize(inputs.cv), nn.functional.normalize(inputs.jd)
        moved_cv, moved_jd = cv + self.cv_tower(inputs.mlp), jd + self.jd_tower(inputs.jd_tower)
        learned = (moved_cv * moved_jd - cv * jd).sum(dim=1)
        logits: Tensor = self.linear(inputs.linear).squeeze(1) + self.log_scale.exp() * learned
        return logits


def _tower(width: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*_entry(width, hidden, dropout), nn.Linear(hidden, out))


def _entry(width: int, hidden: int, dropout: float) -> list[nn.Module]:
    return [nn.Dropout(0.4 * dropout), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]


def _start_at_zero(layers: nn.Sequential) -> nn.Sequential:
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return layers
