"""What a generated JD must be to be stored as a feature."""

from __future__ import annotations

import unicodedata

MIN_WORDS = 3
LOOP_WORDS = 4  # a loop is a run of this many words ...
LOOP_REPEATS = 4  # ... standing this often or more in one text


def clean(text: str) -> str:
    """`text` as CVs are cleaned: Unicode NFC, no control characters but line ends and tabs, no broken bytes."""
    kept = (c for c in unicodedata.normalize("NFC", text) if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
    return "".join(kept).replace("\ufffd", "").strip()


def defect(text: str) -> str | None:
    """`empty` or `looping` where the text is, else None. A JD cut at its length limit still counts as good."""
    words = text.split()
    if len(words) < MIN_WORDS:
        return "empty"
    counts: dict[tuple[str, ...], int] = {}
    for start in range(len(words) - LOOP_WORDS + 1):
        run = tuple(words[start : start + LOOP_WORDS])
        counts[run] = counts.get(run, 0) + 1
        if counts[run] >= LOOP_REPEATS:
            return "looping"
    return None
