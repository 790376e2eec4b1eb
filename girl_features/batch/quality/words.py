"""Words of real texts, to tell real words and their order in other texts."""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise

from girl_features.generator.words import UNSPACED

_PARTS = re.compile(f"[{UNSPACED}]|[^{UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{UNSPACED}]")


def units(text: str) -> list[str]:
    """Return the words of `text` in lower case, and the single characters of scripts without spaces, in order.

    Punctuation at the ends of a word is cut off. Units without a letter are left out.
    """
    found = []
    for token in unicodedata.normalize("NFC", text).casefold().split():
        if token.isascii() and token.isalpha():  # most words of most texts: nothing to cut off
            found.append(token)
            continue
        for part in _PARTS.findall(token):
            word = _trimmed(part)
            if any(character.isalpha() for character in word):
                found.append(word)
    return found


def _trimmed(part: str) -> str:
    """Return `part` without the punctuation at its ends. A vowel sign belongs to its word."""
    start, end = 0, len(part)
    while start < end and not _is_inner(part[start]):
        start += 1
    while end > start and not _is_inner(part[end - 1]):
        end -= 1
    return part[start:end]


def _is_inner(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M"


class KnownWords:
    """The words of real texts, and the pairs of neighbours among them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._words: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()
        for text in texts:
            found = units(text)
            self._words.update(found)
            self._pairs.update(pairwise(found))

    def __len__(self) -> int:
        """Number of different words."""
        return len(self._words)

    def share_real(self, texts: Iterable[str]) -> float:
        """Return the share of words in `texts` that are known; NaN if there are no words.

        In a script without spaces a word is two neighbouring characters, as single ones occur in any text.
        """
        n_known = n = 0
        for text in texts:
            found = units(text)
            known = [word in self._words for word in found if not _IS_UNSPACED.match(word)]
            known += [pair in self._pairs for pair in pairwise(found) if all(map(_IS_UNSPACED.match, pair))]
            n_known, n = n_known + sum(known), n + len(known)
        return n_known / n if n else math.nan

    def order(self, texts: Sequence[str], seed: int = 0) -> float:
        """Return how many more pairs of neighbours are known in `texts` than in the same texts shuffled, as a share.

        It is 0 for words in random order. NaN if there are no pairs.
        """
        rng = random.Random(seed)
        n_known = n_shuffled = n = 0
        for text in texts:
            found = units(text)
            n += max(0, len(found) - 1)
            n_known += sum(pair in self._pairs for pair in pairwise(found))
            rng.shuffle(found)
            n_shuffled += sum(pair in self._pairs for pair in pairwise(found))
        return (n_known - n_shuffled) / n if n else math.nan
