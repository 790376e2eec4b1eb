"""Share of a generated JD that is copied from its CV, word for word."""

from __future__ import annotations

import re

from girl_features.generator.words import words_of

RUN_WORDS = 8  # shorter runs are common phrases, such as the name of a licence or "years of experience in the"

_MARKS = re.compile(r"[\W_]+")


def copied_share(cv: str, jd: str) -> float:
    """Return the share of the JD's runs of RUN_WORDS words that stand in the CV too, in any case and punctuation.

    A JD with fewer words has no such run, and its share is 0.
    """
    runs = _runs(jd)
    known = set(_runs(cv))
    return sum(run in known for run in runs) / len(runs) if runs else 0.0


def _runs(text: str) -> list[tuple[str, ...]]:
    words = [word for word in (_MARKS.sub("", word) for word in words_of(text.lower())) if word]
    return list(zip(*(words[start:] for start in range(RUN_WORDS)), strict=False))
