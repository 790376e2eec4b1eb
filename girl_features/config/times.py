"""Checks of the settings that say how the times of a table are written: `time_format` and `time_zone`."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

# The unit of times written as numbers since 1970, in UTC.
EPOCH_FORMATS = ("epoch_s", "epoch_ms", "epoch_us", "epoch_ns")


def time_directives(time_format: str) -> set[str]:
    """Return the letters of the directives in a strptime pattern: {'d', 'm', 'Y'} for '%d.%m.%Y'."""
    return set(re.findall("%-?(.)", time_format)) - {"%"}


@lru_cache
def check_time_format(time_format: str) -> str:
    """Return `time_format` if it is one of EPOCH_FORMATS or a strptime pattern of DuckDB for whole times.

    Such a pattern gives a year, a month and a day, and no part of the time of day without the larger parts.

    Raises:
        ValueError: it is neither.
    """
    from girl_features.sql import connected, quote_literal

    if time_format in EPOCH_FORMATS:
        return time_format
    import duckdb

    # a pattern is complete if a time that is written with it is read back
    literal, moment = quote_literal(time_format), "TIMESTAMPTZ '2021-11-23 22:33:44.555666+00'"
    written = f"try_strptime(strftime({moment}, {literal}), {literal})::TIMESTAMPTZ"
    parts = ("day", "hour", "minute", "second", "millisecond", "microsecond")
    whole = ", ".join(f"date_trunc('{part}', {moment})" for part in parts)
    try:
        with connected() as connection:
            row = connection.execute(
                f"SELECT date_part('hour', {written}), {written}::DATE::VARCHAR, {written} IN ({whole})"
            ).fetchone()
    except duckdb.Error as error:
        reason = str(error).splitlines()[0].rpartition(": ")[0].rpartition(": ")[2] or "it cannot be read"
        raise ValueError(f"{time_format!r} is no pattern for times ({reason}); {_EXAMPLES}") from None
    hour, date, is_whole = row or (None, None, None)
    if date != "2021-11-23":
        raise ValueError(f"{time_format!r} does not give a year, a month and a day; {_EXAMPLES}")
    if hour not in (0, 22):
        raise ValueError(f"{time_format!r} does not tell morning from evening; write %H, or %I with %p")
    if not is_whole:
        raise ValueError(f"{time_format!r} leaves out a part of the time of day (%H, %M or %S) before a smaller one")
    return time_format


_EXAMPLES = f"wanted a pattern as '%d.%m.%Y %H:%M', or one of {', '.join(EPOCH_FORMATS)}"


@lru_cache
def check_time_zone(time_zone: str) -> str:
    """Return `time_zone` if it is the name of a time zone, as Europe/Berlin.

    Raises:
        ValueError: there is no such zone.
    """
    from girl_features.sql import connected

    with connected() as connection:
        names = [str(row[0]) for row in connection.execute("SELECT name FROM pg_timezone_names()").fetchall()]
    if time_zone in names:
        return time_zone
    nearest = difflib.get_close_matches(time_zone, names, n=1) or ["Europe/Berlin"]
    raise ValueError(f"{time_zone!r} is no time zone; wanted a name of the IANA list, as {nearest[0]}")
