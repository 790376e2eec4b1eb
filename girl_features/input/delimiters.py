"""The delimiter that a text file was written with, where it is not the one that its ending stands for."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import suppress

from girl_features.input.sources import open_bytes

DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
_HEADER_BYTES = 1 << 16


def other_delimiter(files: Sequence[str], delimiter: str, n_columns: int) -> str | None:
    """Return the delimiter that splits the header of all `files` into more names than `delimiter`, if there is one.

    The table should have at least `n_columns` columns, so that a header of fewer names is not taken for one.
    """
    found = {_best(name, delimiter, n_columns) for name in files}
    return found.pop() if len(found) == 1 else None


def _best(name: str, delimiter: str, n_columns: int) -> str | None:
    with open_bytes(name) as file:
        line = file.readline(_HEADER_BYTES).decode("utf-8", "replace")
    counts = dict.fromkeys(DELIMITERS, 0)
    for sign in DELIMITERS:
        with suppress(csv.Error):
            counts[sign] = len(next(csv.reader([line], delimiter=sign), []))
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] > counts[delimiter] and counts[best] >= n_columns else None
