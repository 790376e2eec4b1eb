"""Ids and times of a user's own table, which mean the same as those of the input tables, whatever their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from girl_features.config import TableConfig
from girl_features.errors import DataError
from girl_features.input.checks import decision_times_sql
from girl_features.input.sources import open_source, printable
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID, MATCHED
from girl_features.sql import connected
from girl_features.store.offline.exact_ids import kind_of, plain_type, whole_floats

KEYS = (JOB_SEEKER_ID, JOB_ID, DECIDED_AT)
N_ROWS_NAMED = 5  # in an error message


class PairKeys(NamedTuple):
    """Keys of n pairs."""

    decisions: pl.DataFrame  # n rows of job_seeker_id, job_id (strings) and decided_at (UTC), null where one is missing
    notes: list[str]  # about how times were read


def key_names(
    found: list[str], chosen: Mapping[str, str], usual: Mapping[str, str], place: str, advice: str
) -> dict[str, str]:
    """Return the name that each key has in a table with the columns `found`.

    A name in `chosen` must be there. Without one, the name in `usual` is taken if the table has it, else our own.

    Raises:
        DataError: a column is missing, or is there twice.
    """
    names = {key: chosen.get(key) or (usual[key] if usual.get(key) in found else key) for key in KEYS}
    if missing := {key: name for key, name in names.items() if name not in found}:
        listed = ", ".join(map(printable, found[:30])) or "none"
        raise DataError(f"{place} has no column {', '.join(map(repr, missing.values()))} (found {listed}); {advice}")
    if twice := [name for name in names.values() if found.count(name) > 1]:
        raise DataError(f"{place} has two columns {twice[0]!r}; rename one of them")
    return names


def pair_keys(columns: Mapping[str, pa.ChunkedArray], names: Mapping[str, str], place: str) -> PairKeys:
    """Return the keys in `columns`, which are called `names` in the table; blank ids are null.

    Raises:
        DataError: ids or times of a type that stands for none, or a text that is no time.
    """
    ids = {key: _texts(columns[key], names[key], place) for key in (JOB_SEEKER_ID, JOB_ID)}
    times, notes = _times(columns[DECIDED_AT], names[DECIDED_AT], place)
    decisions = pl.DataFrame([pl.Series(key, column, dtype=pl.String) for key, column in ids.items()])
    return PairKeys(decisions.with_columns(times.alias(DECIDED_AT)), notes)


def _texts(ids: pa.ChunkedArray, name: str, place: str) -> pa.ChunkedArray:
    """Return ids as the input tables and the store have them: as text. Whole numbers have no leading zeros."""
    found = f"column {name!r} of {place} is {ids.type}"
    ids = ids.cast(plain_type(ids.type))
    kind = kind_of(ids.type)
    if kind == "floats":
        ids = whole_floats(pc.if_else(pc.is_nan(ids), None, ids), found, name)
    elif kind == "decimals":
        try:
            ids = ids.cast(pa.decimal128(38, 0))
        except pa.ArrowInvalid as error:
            raise DataError(f"{found} and holds fractions ({error}); ids should be text or whole numbers") from error
    elif kind == "UUIDs":
        ids = pa.chunked_array([pa.array([None if value is None else str(value) for value in ids.to_pylist()])])
    elif kind not in ("text", "whole numbers", "nothing"):
        raise DataError(f"{found}; ids should be text or whole numbers: convert it")
    texts = ids.cast(pa.string())
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)


def _times(times: pa.ChunkedArray, name: str, place: str) -> tuple[pl.Series, list[str]]:
    found = times.type
    times = times.cast(plain_type(found))
    kind = kind_of(times.type)
    if kind == "nothing":
        times = times.cast(pa.timestamp("us", "UTC"))
    elif kind not in ("text", "dates", "times"):
        raise DataError(
            f"column {name!r} of {place} is {found}; times should be datetimes, dates or ISO 8601 texts: convert it"
        )
    relation = pa.table({DECIDED_AT: times})
    # a decision of the input tables has these columns, of which the time alone is read here
    query = f"SELECT '' AS {JOB_SEEKER_ID}, '' AS {JOB_ID}, NULL AS {MATCHED}, {DECIDED_AT} FROM girl_pairs"
    with connected() as connection:
        connection.execute("SET preserve_insertion_order = true").register("girl_pairs", relation)
        with open_source(connection, "interactions", TableConfig(query=query), home="memory") as source:
            is_fine = pa.types.is_timestamp(times.type) and times.type.unit == "ns"
            source = source._replace(is_csv=kind == "text", nanoseconds={DECIDED_AT} if is_fine else set())
            read = connection.execute(decision_times_sql(source)).to_arrow_table()
    frame = pl.DataFrame(read)
    assert frame.height == len(times), "DuckDB gives every row"
    reason = frame["problem"].struct.field("reason")
    bad = (reason.is_not_null() & (reason != "null_time")).arg_true()
    if bad.len():
        rows = ", ".join(str(row + 1) for row in bad.head(N_ROWS_NAMED)) + (", ..." if bad.len() > N_ROWS_NAMED else "")
        detail = printable(frame["problem"][bad[0]]["detail"], 200)
        raise DataError(
            f"column {name!r} of {place} has {bad.len()} rows without a usable time (rows {rows}): {detail}"
        )
    notes = {
        "is_naive": "has no time zone; it was read as UTC",
        "is_cut_time": "is finer than microseconds; it was cut",
    }
    known = frame.filter(reason.is_null())
    counts = {flag: int(known[flag].sum()) for flag in notes}
    return frame[DECIDED_AT], [f"{name} {notes[flag]} ({n} rows)" for flag, n in counts.items() if n]
