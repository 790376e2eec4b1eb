"""Generator and RewardModel protocols, and their engines: CV text -> generated JDs, and a score for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from girl_features.schema import GeneratedText


class Generator(Protocol):
    """Writes job descriptions from CVs."""

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        """For each CV, one JD for each of its seeds, in order.

        The same (CV, seed) gives the same text whatever else is in the batch, up to floating-point
        differences between batch shapes.

        Raises:
            ShapeError: `cvs` and `seeds` differ in length.
        """
        ...


class RewardModel(Protocol):
    """Scores pairs of CV and JD; higher is a better fit. Only differences between JDs of one CV have a meaning."""

    def score(self, cvs: Sequence[str], jds: Sequence[str]) -> np.ndarray:
        """(n,) float32 for n pairs.

        Raises:
            ShapeError: `cvs` and `jds` differ in length.
        """
        ...
