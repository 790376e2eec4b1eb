"""A unigram model of words: the mark that a generator has to beat that has learned anything of their order."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from girl_features.generator.words import UNSPACED

_PIECES = re.compile(rf"\s?[{UNSPACED}]|\s?[^\W{UNSPACED}]+|\s?[^\w\s]|\s")  # together they are the whole text
_UNKNOWN_BITS = 20  # of a character that no training text has: about the number of bits of all of Unicode
_END = "\0"  # stands for the end of a text, and of a piece that is spelled


class Unigram(NamedTuple):
    """A model that knows how often each word is written, and nothing of their order."""

    pieces: Counter[str]
    characters: Counter[str]  # of the distinct pieces: an unknown piece is spelled by them

    @classmethod
    def of(cls, texts: Iterable[str]) -> Unigram:
        """Count the pieces of `texts`: words, punctuation marks, and the end of each text."""
        pieces = Counter(piece for text in texts for piece in (*_PIECES.findall(text), _END))
        return cls(pieces, Counter(character for piece in pieces for character in f"{piece}{_END}"))

    def bits(self, text: str) -> float:
        """Return the bits that the model needs for `text` and its end.

        Pieces that were never counted get as much probability as there are distinct ones (Witten and Bell, 1991), and
        are then spelled out.
        """
        n, n_distinct = self.pieces.total(), len(self.pieces)
        total = 0.0
        for piece in (*_PIECES.findall(text), _END):
            if count := self.pieces[piece]:
                total -= math.log2(count / (n + n_distinct))
            else:
                total += self._spelling_bits(piece) - math.log2(max(1, n_distinct) / max(1, n + n_distinct))
        return total

    def _spelling_bits(self, piece: str) -> float:
        n, n_distinct = self.characters.total(), len(self.characters)
        bits = 0.0
        for character in f"{piece}{_END}":
            count = self.characters[character]
            share = (count or max(1, n_distinct)) / max(1, n + n_distinct)
            bits += -math.log2(share) + (0 if count else _UNKNOWN_BITS)
        return bits
