"""Share of a training run's work that is done, counted in tokens.

Batches of long rows come before those of short ones, so a share of the steps would promise twice the time at first.
"""

from __future__ import annotations

import math

EVALUATED = 1 / 3  # work of a token that is only read, where one that is learned from takes 1


class TrainingWork:
    """The work of all epochs. After each of them the held-out rows are read.

    Args:
        n_tokens: of the rows to learn from.
        n_evaluated_tokens: of the held-out rows.
    """

    def __init__(self, n_tokens: int, n_evaluated_tokens: int) -> None:
        self._n_tokens, self._evaluation = n_tokens, n_evaluated_tokens * EVALUATED
        self._total = math.inf

    def set_epochs(self, n_epochs: float) -> None:
        """Say how many times the rows are learned from."""
        self._total = self._n_tokens * n_epochs + self._evaluation * math.ceil(n_epochs)

    def share(self, n_tokens_seen: int, n_evaluations: float) -> float:
        """Return the share of the work that is done after so many tokens and evaluations, which may be unfinished."""
        return min(1.0, (n_tokens_seen + self._evaluation * n_evaluations) / self._total)
