"""What makes a generated JD unfit to be stored as a feature."""

from __future__ import annotations

MIN_WORDS = 3
LOOP_WORDS = 4  # a loop is a run of this many words ...
LOOP_REPEATS = 4  # ... standing this often or more in one text


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
