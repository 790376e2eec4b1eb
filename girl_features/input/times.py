"""SQL that reads a time column of any kind: a time, a date, a text in ISO or another format, or a number since 1970."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from girl_features.config import EPOCH_FORMATS, TableConfig
from girl_features.config.times import time_directives
from girl_features.input.sources import Source
from girl_features.sql import quote_literal

INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
FLOATS = ("FLOAT", "DOUBLE")
_MICROSECONDS = {"epoch_s": "1000000", "epoch_ms": "1000", "epoch_us": "1", "epoch_ns": "0.001"}
EPOCH_SCALES = {"epoch_s": 1, "epoch_ms": 10**3, "epoch_us": 10**6, "epoch_ns": 10**9}  # numbers in a second
_DIGITS = {"epoch_s": 10, "epoch_ms": 13, "epoch_us": 16, "epoch_ns": 19}  # of a number from the years 2001 to 2286
_SECONDS = (631_152_000, 4_102_444_800)  # of the years 1990 to 2100: no other unit has such numbers then
_DAYS = (19_900_101, 21_001_231)  # the same years, as numbers of the format %Y%m%d
_FARTHEST = 10**17  # microseconds from 1970 to the year 5138, beyond which a number is no time


class TimeSQL(NamedTuple):
    """SQL of one time column."""

    value: str  # a TIMESTAMPTZ, NULL where there is none
    text: str  # what the column holds, if it need not be a time; NULL otherwise
    is_naive: str  # a bool: the time has no zone, and the settings name none
    is_cut: str  # a bool: the time is finer than microseconds


def is_numeric(sql_type: str) -> bool:
    """True for the DuckDB types of numbers."""
    return sql_type in INTEGERS + FLOATS or sql_type.startswith("DECIMAL")


def time_sql(source: Source, column: str, config: TableConfig) -> TimeSQL:
    """Return the SQL of a time column whose type `check_types` has found to fit the settings of `config`."""
    name, sql_type = source.columns[column], source.types[column]
    if config.time_format in EPOCH_FORMATS:
        return _epoch(name, sql_type, config.time_format)
    if config.time_format is not None:
        return _formatted(name, config.time_format, config.time_zone)
    if sql_type == "VARCHAR":
        return _iso(name, config.time_zone)
    if sql_type == "TIMESTAMP WITH TIME ZONE":
        is_cut = "true" if column in source.nanoseconds else "false"
        return TimeSQL(f"{name}::TIMESTAMPTZ", "NULL::VARCHAR", "false", is_cut)
    value = _zoned(_floored(name) if sql_type == "TIMESTAMP_NS" else f"{name}::TIMESTAMP", config.time_zone)
    is_naive, is_cut = _bool(config.time_zone is None), _bool(sql_type == "TIMESTAMP_NS")
    return TimeSQL(value, "NULL::VARCHAR" if config.time_zone is None else f"{name}::VARCHAR", is_naive, is_cut)


def format_of_numbers(least: float, most: float) -> str | None:
    """Return the time format of numbers from `least` to `most`, if they can be times of recent years in one alone."""
    if _DAYS[0] <= least and most <= _DAYS[1]:
        return "%Y%m%d"
    first, last = _SECONDS
    units = (unit for unit, scale in EPOCH_SCALES.items() if first * scale <= least and most <= last * scale)
    return next(units, None)


def format_advice(table: str, config: TableConfig, time_format: str | None) -> str:
    """Return the advice to set a unit of times in girl.yaml, or to find the format that is right."""
    setting = f"tables.{table}.time_format"
    if time_format is None:
        return f"`{setting}` is for times in another format"
    no_zone = f", and remove `tables.{table}.time_zone`" if config.time_zone else ""
    return f"set `{setting}: {time_format}`{no_zone}"


def bad_time_text(config: TableConfig, advice: Callable[[str | None], str]) -> str:
    """Return SQL of the text that is no time; if no time format is set, with the advice on the one to set.

    `advice` is called with the format, or with None where the text does not tell it.
    """
    if config.time_format:
        return "left(time_text, 40)"
    cases = " ".join(
        rf"WHEN regexp_full_match(trim(time_text), '\d{{{n}}}(\.\d*)?') THEN {quote_literal(f'; {advice(unit)}')}"
        for unit, n in _DIGITS.items()
    )
    return f"left(time_text, 40) || CASE {cases} ELSE {quote_literal(f'; {advice(None)}')} END"


def _epoch(name: str, sql_type: str, unit: str) -> TimeSQL:
    # DuckDB multiplies a FLOAT in 32 bits when it casts it to a decimal
    given = {"VARCHAR": f"trim({name})", "FLOAT": f"{name}::DOUBLE"}.get(sql_type, name)
    number = f"try_cast({given} AS DECIMAL(28, 9))"
    exact = f"({number} * {_MICROSECONDS[unit]}::DECIMAL(10, 3))"
    # a float is never exact, so that its last digits mean nothing
    whole, is_cut = (f"round({exact})", "false") if sql_type in FLOATS else (f"floor({exact})", None)
    value = f"CASE WHEN abs({whole}) < {_FARTHEST} THEN make_timestamp(try_cast({whole} AS BIGINT))::TIMESTAMPTZ END"
    return TimeSQL(value, f"{name}::VARCHAR", "false", is_cut or f"coalesce({exact} <> {whole}, false)")


def _formatted(name: str, time_format: str, time_zone: str | None) -> TimeSQL:
    directives = time_directives(time_format)
    parsed = f"try_strptime(trim({name}::VARCHAR), {quote_literal(time_format)})"
    is_cut = _bool("n" in directives)
    if directives & {"z", "Z"}:
        return TimeSQL(parsed, f"{name}::VARCHAR", "false", is_cut)
    naive = _floored(parsed) if "n" in directives else f"{parsed}::TIMESTAMP"
    return TimeSQL(_zoned(naive, time_zone), f"{name}::VARCHAR", _bool(time_zone is None), is_cut)


def _iso(name: str, time_zone: str | None) -> TimeSQL:
    is_naive = rf"NOT regexp_matches({name}, ':.*[+\-A-Za-z]')"
    is_cut = rf"regexp_matches({name}, '\.\d{{7}}')"
    value = f"try_cast(trim({name}) AS TIMESTAMPTZ)"
    if time_zone is None:
        return TimeSQL(value, name, is_naive, is_cut)
    naive = _zoned(f"try_cast(trim({name}) AS TIMESTAMP)", time_zone)
    return TimeSQL(f"CASE WHEN {is_naive} THEN {naive} ELSE {value} END", name, "false", is_cut)


def _floored(nanoseconds: str) -> str:
    """Return SQL of a TIMESTAMP_NS as the microsecond that it falls in; DuckDB's cast rounds up before 1970."""
    cast = f"{nanoseconds}::TIMESTAMP"
    return f"CASE WHEN {cast}::TIMESTAMP_NS > {nanoseconds} THEN {cast} - INTERVAL 1 MICROSECOND ELSE {cast} END"


def _zoned(timestamp: str, time_zone: str | None) -> str:
    """Return SQL of a time without a zone as one of `time_zone`, or of UTC.

    The guide says how a time is read that a change of clocks repeats or leaves out.
    """
    if time_zone is None:
        return f"{timestamp}::TIMESTAMPTZ"
    return f"try({timestamp} AT TIME ZONE {quote_literal(time_zone)})"


def _bool(value: bool) -> str:
    return "true" if value else "false"
