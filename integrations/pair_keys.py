"""Ids and times of a user's own table, which mean the same as those of the input tables, whatever their types."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from girl_features.config import EPOCH_FORMATS, TableConfig
from girl_features.errors import ConfigError, DataError
from girl_features.input.checks import decision_times_sql
from girl_features.input.column_types import check_time
from girl_features.input.opening import open_sources
from girl_features.input.sources import printable
from girl_features.input.times import format_of_numbers
from girl_features.integrations.pair_warnings import warning_of_1970
from girl_features.integrations.pair_words import PairWords
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID, MATCHED
from girl_features.sql import connected
from girl_features.store.offline.exact_ids import kind_of, plain_type, whole_texts

KEYS = (JOB_SEEKER_ID, JOB_ID, DECIDED_AT)
N_ROWS_NAMED = 5  # in an error message
_MICROSECONDS = {"day": 86_400_000_000, "s": 1_000_000, "ms": 1000, "us": 1}
_MOST_MICROSECONDS = 2**63 - 1
_LEAST_NS = 1000 - 2**63  # in the year 1677; earlier ones are refused in the same way


class PairFormat(NamedTuple):
    """Settings of `tables.interactions` that say how a table is read; those of `TableConfig` say what each is."""

    quoting: str | None = None
    time_format: str | None = None  # of times that are texts or numbers
    time_zone: str | None = None


class PairKeys(NamedTuple):
    """Keys of n pairs."""

    decisions: pl.DataFrame  # n rows of job_seeker_id, job_id (strings) and decided_at (UTC), null where one is missing
    notes: list[str]  # about how times were read
    warning: str | None  # about times that cannot be right


def key_names(
    found: list[str], chosen: Mapping[str, str], usual: Mapping[str, str], words: PairWords
) -> dict[str, str]:
    """Return the name that each key has in a table with the columns `found`.

    A name in `chosen` must be there. Without one, the name in `usual` is taken if the table has it, else our own.

    Raises:
        DataError: a column is missing, or is there twice.
    """
    names = {key: chosen.get(key) or (usual[key] if usual.get(key) in found else key) for key in KEYS}
    if missing := {key: name for key, name in names.items() if name not in found}:
        listed = ", ".join(map(printable, found[:30])) or "none"
        raise DataError(
            f"{words.place} has no column {', '.join(map(repr, missing.values()))} (found {listed}); name yours, as in "
            f"{words.columns(list(missing))}"
        )
    if twice := [name for name in names.values() if found.count(name) > 1]:
        raise DataError(f"{words.place} has two columns {twice[0]!r}; rename one of them")
    return names


def pair_keys(
    columns: Mapping[str, pa.ChunkedArray], names: Mapping[str, str], words: PairWords, pair_format: PairFormat
) -> PairKeys:
    """Return the keys in `columns`, which are called `names` in the table; blank ids are null.

    Raises:
        DataError: ids or times of a type that stands for none, or a text that is no time.
        ConfigError: `pair_format` has a time format or time zone that is none.
    """
    ids = {key: _texts(columns[key], names[key], words.place) for key in (JOB_SEEKER_ID, JOB_ID)}
    given, name = columns[DECIDED_AT], names[DECIDED_AT]
    times, notes = _times(given, name, words, pair_format)
    time_format = None if kind_of(plain_type(given.type)) in ("dates", "times") else pair_format.time_format
    warning = warning_of_1970(times, plain_type(given.type), name, time_format, words)
    decisions = pl.DataFrame([pl.Series(key, column, dtype=pl.String) for key, column in ids.items()])
    return PairKeys(decisions.with_columns(times.alias(DECIDED_AT)), notes, warning)


def _texts(ids: pa.ChunkedArray, name: str, place: str) -> pa.ChunkedArray:
    """Return ids as the input tables and the store have them: as text. Whole numbers have no leading zeros."""
    found = ids.type
    ids = whole_texts(ids, name, place)
    ids = ids.cast(plain_type(ids.type))
    kind = kind_of(ids.type)
    if kind == "UUIDs":
        ids = pa.chunked_array([pa.array([None if value is None else str(value) for value in ids.to_pylist()])])
    elif kind not in ("text", "nothing"):
        raise DataError(f"column {name!r} of {place} is {found}; ids should be text or whole numbers: convert it")
    texts = ids.cast(pa.string())
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)


def _times(times: pa.ChunkedArray, name: str, words: PairWords, pair_format: PairFormat) -> tuple[pl.Series, list[str]]:
    found, place = times.type, words.place
    times = times.cast(plain_type(found))
    if kind_of(times.type) == "nothing":
        times = times.cast(pa.timestamp("us", "UTC"))
    is_time = kind_of(times.type) in ("dates", "times")
    if is_time:
        times = _readable(times, name, place)
    is_fine = pa.types.is_timestamp(times.type) and times.type.unit == "ns"
    # a decision of the input tables has these columns, of which the time alone is read here
    query = f"SELECT '' AS {JOB_SEEKER_ID}, '' AS {JOB_ID}, NULL AS {MATCHED}, {DECIDED_AT} FROM girl_pairs"
    time_format = None if is_time else pair_format.time_format
    config = _config(query, time_format, pair_format.time_zone)
    with connected() as connection:
        connection.execute("SET preserve_insertion_order = true")
        try:
            connection.register("girl_pairs", pa.table({DECIDED_AT: times}))
            with open_sources(connection, "interactions", config, home="memory") as [source]:
                source = source._replace(nanoseconds={DECIDED_AT} if is_fine else set())
                check_time(connection, source, config)
                read = connection.execute(
                    decision_times_sql(source, config, partial(_format_advice, words))
                ).to_arrow_table()
        except (DataError, duckdb.Error) as error:
            raise _wrong_type(times, name, words) from error
    frame = pl.DataFrame(read)
    assert frame.height == len(times), "DuckDB gives every row"
    reason = frame["problem"].struct.field("reason")
    bad = (reason.is_not_null() & (reason != "null_time")).arg_true()
    if bad.len():
        detail = printable(frame["problem"][bad[0]]["detail"], 200)
        if reason[bad[0]] == "future_time":
            detail = f"{DECIDED_AT} is after the year 9999"
        elif time_format is not None:
            detail += f"; if its times are in ISO format, leave the format out with {words.no_time_format}"
        raise _unusable(bad, name, place, detail)
    notes = {
        "is_naive": "has no time zone; it was read as UTC",
        "is_cut_time": "is finer than microseconds; it was cut",
    }
    known = frame.filter(reason.is_null())
    counts = {flag: int(known[flag].sum()) for flag in notes}
    return frame[DECIDED_AT], [f"{name} {notes[flag]} ({n} rows)" for flag, n in counts.items() if n]


def _config(query: str, time_format: str | None, time_zone: str | None) -> TableConfig:
    zone = None if time_format in EPOCH_FORMATS else time_zone  # numbers count in UTC
    try:
        return TableConfig(query=query, time_format=time_format, time_zone=zone)
    except ValidationError as error:
        raise ConfigError(f"a time format or zone is none: {error.errors()[0]['ctx']['error']}") from error


def _format_advice(words: PairWords, time_format: str | None) -> str:
    if time_format is None:
        return f"times in another format need it, as in {words.time_format('%d.%m.%Y %H:%M')}"
    return f"give {words.time_format(time_format)}"


def _wrong_type(times: pa.ChunkedArray, name: str, words: PairWords) -> DataError:
    """Return an error about a column that holds no times, with the format of its numbers if they tell it."""
    start = f"column {name!r} of {words.place} is {times.type}; times should be datetimes, dates or ISO 8601 texts: "
    if kind_of(times.type) not in ("whole numbers", "floats", "decimals"):
        return DataError(f"{start}convert it, or name another with {words.columns([DECIDED_AT])}")
    numbers = times.cast(pa.float64()) if pa.types.is_floating(times.type) else times
    least, most = pc.min_max(numbers).as_py().values()
    time_format = None if least is None else format_of_numbers(float(least), float(most))
    if time_format is None:
        units = ", ".join(words.time_format(unit) for unit in EPOCH_FORMATS)
        return DataError(f"{start}if its numbers count from 1970, give their unit, one of {units}")
    return DataError(f"{start}give {words.time_format(time_format)}")


def _readable(times: pa.ChunkedArray, name: str, place: str) -> pa.ChunkedArray:
    """Return dates and times so that DuckDB reads each as it is, or rounds it down to microseconds."""
    zone = pa.types.is_timestamp(times.type) and times.type.tz is not None
    unit = str(getattr(times.type, "unit", "day"))
    unit = "ms" if pa.types.is_date64(times.type) else unit
    numbers = times.cast(pa.int32() if unit == "day" else pa.int64()).cast(pa.int64())
    if unit == "ns" and not zone:
        return times  # the input tables' own rule rounds them down
    if unit == "ns":  # DuckDB cuts those with a zone towards 1970, also from before
        below = pc.subtract(pc.max_element_wise(numbers, _LEAST_NS, skip_nulls=False), 999)
        numbers = pc.if_else(pc.less(numbers, 0), below, numbers)
        return numbers.cast(pa.timestamp("ns", "UTC"))
    limit = _MOST_MICROSECONDS // _MICROSECONDS[unit]
    is_far = pc.or_(pc.greater(numbers, limit), pc.less(numbers, -limit))
    bad = pl.Series(pc.fill_null(is_far, False)).arg_true()
    if bad.len():
        raise _unusable(bad, name, place, f"{DECIDED_AT} is not in the years 1 to 9999")
    return times


def _unusable(bad: pl.Series, name: str, place: str, detail: str) -> DataError:
    rows = ", ".join(str(row + 1) for row in bad.head(N_ROWS_NAMED)) + (", ..." if bad.len() > N_ROWS_NAMED else "")
    return DataError(f"column {name!r} of {place} has {bad.len()} rows without a usable time (rows {rows}): {detail}")
