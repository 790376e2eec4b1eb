"""The words of messages about a table that features are joined to: its place, and how its reader changes a setting."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple


class PairWords(NamedTuple):
    """Words for the user of the command, or for the caller of the function."""

    place: str
    columns: Callable[[Sequence[str]], str]  # names of keys -> how to name other columns for them
    time_format: Callable[[str], str]  # a time format -> how to give it
    no_time_format: str  # how to leave it out


def words_of_command(place: str) -> PairWords:
    """Return the words for a user of `girl join`."""
    return PairWords(
        place,
        lambda keys: f"`{' '.join(f'--column {key}=YOUR_COLUMN' for key in keys)}`",
        lambda time_format: f"`--time-format {shlex.quote(time_format)}`",
        "`--set tables.interactions.time_format=null`",
    )


def words_of_function(place: str) -> PairWords:
    """Return the words for a caller of `join_frame`."""
    return PairWords(
        place,
        lambda keys: f"`columns={dict.fromkeys(keys, 'YOUR_COLUMN')}`",
        lambda time_format: f"`pair_format=PairFormat(time_format={time_format!r})`",
        "a `pair_format` without a time format",
    )
