"""Generators, which write job descriptions from CVs, and reward models, which score them: protocols and engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from girl_features.schema import GeneratedText


class Generator(Protocol):
    """Writes job descriptions from CVs."""

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        """Generate one JD for each seed of each CV, in order.

        The same CV and seed give the same text, whatever else is in the batch, except for floating-point
        differences between batch shapes.

        Raises:
            ShapeError: `cvs` and `seeds` differ in length.
        """
        ...


class RewardModel(Protocol):
    """Scores pairs of CV and JD. A higher score is a better fit; only scores for the same CV can be compared."""

    def score(self, cvs: Sequence[str], jds: Sequence[str]) -> np.ndarray:
        """Return the (n,) float32 scores of n pairs.

        Raises:
            ShapeError: `cvs` and `jds` differ in length.
        """
        ...
