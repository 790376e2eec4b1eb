"""Training loop of the networks: batches in random order, stopped when the valid loss no longer falls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch


def train_with_early_stopping(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_loss: Callable[[np.ndarray], torch.Tensor],
    valid_loss: Callable[[], float],
    *,
    n_rows: int,
    batch_size: int,
    max_epochs: int,
    patience: int,
    seed: int,
    max_grad_norm: float | None = None,
    first_loss: float = np.inf,
) -> None:
    """Train `model`, and leave it with the weights of the epoch that had the lowest valid loss.

    Args:
        batch_loss: returns the loss of (b,) of the `n_rows` training rows.
        valid_loss: returns the loss on the valid part; may switch the model to evaluation mode.
        patience: epochs without a lower valid loss after which training stops.
        max_grad_norm: gradients are clipped to this norm; None for no clipping.
        first_loss: valid loss before the first step. The first weights are kept if no epoch has a lower loss.
    """
    rng = np.random.default_rng(seed)
    best_loss, best_epoch, best_weights = first_loss, 0, copy.deepcopy(model.state_dict())
    for epoch in range(1, max_epochs + 1):
        model.train()
        for rows in batches(rng.permutation(n_rows), batch_size):
            loss: Any = batch_loss(rows)
            optimizer.zero_grad()
            loss.backward()
            if max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
        loss_of_epoch = valid_loss()
        if loss_of_epoch < best_loss:
            best_loss, best_epoch, best_weights = loss_of_epoch, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= patience:
            break
    model.load_state_dict(best_weights)


def batches_by_length(token_ids: Sequence[list[int]], size: int) -> Iterator[np.ndarray]:
    """Yield batches of row numbers, shortest rows first: rows of similar lengths need little padding."""
    yield from batches(np.argsort([len(row) for row in token_ids], kind="stable"), size)


def batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cut (n,) rows into batches of `size`; the last one may be smaller."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
