"""Reasons why a join gave no row its features, although nothing failed: times in 1970, or ids that the store lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa

from girl_features.config import EPOCH_FORMATS
from girl_features.contract import FeatureContract
from girl_features.input.sources import printable
from girl_features.input.times import EPOCH_SCALES, format_of_numbers
from girl_features.integrations.pair_words import PairWords
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID
from girl_features.store.stored_ids import FIRST_AT, stored_ids

_N_EXAMPLES = 3
# what may differ between two ids that mean the same -> an function that takes it away
_DIFFERENCES: dict[str, Callable[[pl.Series], pl.Series]] = {
    "'.0' at their end": lambda ids: ids.str.strip_suffix(".0"),
    "spaces around them": lambda ids: ids.str.strip_chars(),
    "quotation marks around them": lambda ids: ids.str.strip_chars("\"'"),
    "zeros in front": lambda ids: ids.str.strip_chars_start("0"),
    "a difference between upper and lower case": lambda ids: ids.str.to_lowercase(),
}


def warning_of_1970(
    read: pl.Series, given: pa.DataType, name: str, time_format: str | None, words: PairWords
) -> str | None:
    """Return a warning if all times in the column `name` were `read` as times in 1970; `given` is its type."""
    known = read.drop_nulls()
    if known.is_empty() or (known.dt.year() != 1970).any():
        return None
    start = f"all {known.len()} times in column {name!r} of {words.place} are in 1970, the first is {known[0]}"
    units = {"s": "epoch_s", "ms": "epoch_ms", "us": "epoch_us", "ns": "epoch_ns"}
    is_number = time_format in EPOCH_FORMATS
    unit = time_format if is_number else units.get(str(getattr(given, "unit", None)))
    if unit is None:
        return f"{start}: check what the column holds, or name another with {words.columns([DECIDED_AT])}"
    seconds = known.to_physical() / 1e6
    least, most = (float(end) * EPOCH_SCALES[unit] for end in (seconds.min(), seconds.max()))  # type: ignore[arg-type]
    better = format_of_numbers(least, most)
    if better is None:
        return f"{start}: its numbers were read as {unit}, which is not their unit"
    if is_number:
        return f"{start}: its numbers were read as {unit}; give {words.time_format(better)}"
    return f"{start}: its type is {given}; write it again as whole numbers, and give {words.time_format(better)}"


def warnings_of_no_match(
    repo: Path, contract: FeatureContract, decisions: pl.DataFrame, names: Mapping[str, str], words: PairWords
) -> list[str]:
    """Return the reasons why none of the `decisions`, which have all keys, has vectors of `contract`.

    Raises:
        StoreError: the repo cannot be read.
    """
    warnings, times = [], []
    for key in (JOB_SEEKER_ID, JOB_ID):
        stored = stored_ids(repo, contract, key)
        matching = decisions.join(stored, on=key)
        if not matching.is_empty():
            times.append(f"{str(matching[FIRST_AT].min())[:16]} for {key}")
        elif stored.is_empty():
            warnings.append(f"the store holds no vector for any {key}; run `girl materialize`")
        else:
            column = f"column {names[key]!r} of {words.place}"
            warnings.append(_no_match(decisions[key].unique(maintain_order=True), stored[key], column, words, key))
    if warnings:
        return warnings
    return [
        f"the ids are in the store, but no pair has both vectors from before its decision: the last decision is of "
        f"{str(decisions[DECIDED_AT].max())[:16]}, and the first vectors are of {' and '.join(times)}"
    ]


def _no_match(ids: pl.Series, stored: pl.Series, column: str, words: PairWords, key: str) -> str:
    advice = f"name a column of such ids with {words.columns([key])}"
    for difference, without in _DIFFERENCES.items():
        if without(ids).is_in(without(stored).implode()).any():
            advice = f"they match without {difference}: write them as the store has them"
            break
    return (
        f"none of the {ids.len()} ids in {column} is in the store: they are as {_examples(ids)}, those of the store "
        f"as {_examples(stored)}; {advice}"
    )


def _examples(ids: pl.Series) -> str:
    return ", ".join(repr(printable(value)) for value in ids.head(_N_EXAMPLES))
