"""Generator protocol and its engines: CV text -> generated JDs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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
