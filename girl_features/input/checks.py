"""Checks of single rows, as SQL: text cleaned, times in UTC, and for a bad row the reason.

`staging_sql` makes one SELECT per table. It yields the clean columns, FILE_COLUMN, `problem` (a struct of reason
and detail, NULL for a good row) and `flags` (a struct of FLAGS, which become notes).
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from girl_features.errors import DataError
from girl_features.input.sources import FILE_COLUMN, Source
from girl_features.schema import (
    CV,
    CV_HASH,
    DECIDED_AT,
    JD,
    JOB_ID,
    JOB_SEEKER_ID,
    MATCHED,
    POSTED_AT,
    UPDATED_AT,
)

MAX_ID_BYTES = 512
MAX_TEXT_CHARS = 1_000_000  # characters of one CV or JD; the rest is cut and counted
OLDEST = "1900-01-01"  # earlier times are placeholders, and Feast's pandas cannot hold those before 1677

ID_COLUMNS = {
    "job_seekers": (JOB_SEEKER_ID,),
    "jobs": (JOB_ID,),
    "interactions": (JOB_SEEKER_ID, JOB_ID),
}
TIME_COLUMN = {"job_seekers": UPDATED_AT, "jobs": POSTED_AT, "interactions": DECIDED_AT}
TEXT_COLUMN = {"job_seekers": CV, "jobs": JD}

KNOWN_AT = "known_at"
FLAGS = ("is_naive", "is_cut_time", "is_truncated", "is_changed", "is_blank")

# Control characters to drop: all of Unicode's Cc but tab, line feed and carriage return. Those that break
# lines (vertical tab, form feed, next line) become a line feed first, so that no two words run together.
_LINE_BREAKS = r"[\x0b\x0c\x{85}]"
_CONTROLS = r"[\x00-\x08\x0e-\x1f\x7f-\x{9f}]"
_ANY_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}]"
# Characters that NFC leaves alone whatever their neighbours, but the controls above: a text of these alone is clean.
_CLEAN = (
    r"\t\n\r\x20-\x7e\x{a0}-\x{2ff}\x{400}-\x{482}"
    r"\x{2010}-\x{205e}\x{20a0}-\x{20bf}\x{25a0}-\x{25ff}\x{4e00}-\x{9fff}"
)
BLANK = r"[\s\p{Z}\p{Cf}]*"

# Files mistaken for text, by their first characters: as bytes read as Latin-1 or cp1252, with replacement
# characters, or as base64. Tested in this order.
_FILE_TYPES = (
    ("a PDF file", r"%PDF|JVBERi0"),
    ("a ZIP archive or Office file (docx, xlsx)", r"PK\x03\x04|UEsDBBQ"),
    ("an RTF file", r"\{\\rtf"),
    ("a PNG image", r"[\x{89}\x{fffd}\x{2030}?]PNG\r?\n|[\x{89}\x{fffd}\x{2030}]PNG|iVBORw0KGgo"),
    (
        "an old Office file (doc, xls)",
        r"\x{d0}\x{cf}\x11\x{e0}|[\x{fffd}?]{2}\x11|(?i:d0cf11e0a1b1)|0M8R4KGxGuE",
    ),
    ("a JPEG image", r"[\x{ff}\x{fffd}?][\x{d8}\x{fffd}?][\x{ff}\x{fffd}?](?s:.){0,4}(?:JFIF|Exif)"),
    ("a GIF image", r"GIF8[79]a"),
    ("a gzip file", r"\x1f[\x{8b}\x{fffd}?]\x08"),
    ("a PostScript file", r"%!PS"),
)
_MIN_BINARY_CONTROLS = 32  # so many control characters, and a tenth of the first 1000, are no text

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")


class Check(NamedTuple):
    """A row is bad if `condition` holds. Both other columns go to the report."""

    reason: str
    condition: str  # SQL
    detail: str  # SQL of type text


def staging_sql(source: Source, latest: datetime) -> str:
    """SELECT of the checked rows of `source`, in its order; times after `latest` are in the future.

    Raises:
        DataError: a column has a type that cannot be read as what it should be.
    """
    ids = ID_COLUMNS[source.table]
    for column in ids:
        _check_id_type(source, column)
    time = TIME_COLUMN[source.table]
    typed = [f"{source.columns[column]}::VARCHAR AS {column}" for column in ids]
    typed += _time_columns(source, time)
    checks = [check for column in ids for check in _id_checks(column)] + _time_checks(time, latest)
    if source.table == "interactions":
        typed.append(f"{_matched_value(source)} AS {MATCHED}")
        typed.append(f"{source.columns[MATCHED]}::VARCHAR AS matched_text")
        checks += _matched_checks()
        return f"""
            SELECT {JOB_SEEKER_ID}, {JOB_ID}, {MATCHED}, {time}, {FILE_COLUMN}, {_problem(checks)} AS problem,
                   {_flags(is_truncated="false", is_changed="false", is_blank="false")} AS flags
            FROM (SELECT {", ".join(typed)}, {FILE_COLUMN} FROM {source.relation})
        """
    text = TEXT_COLUMN[source.table]
    checks += _text_checks(text)
    extra = f"left(sha256(final), 16) AS {CV_HASH}" if text == CV else f"{time} AS {KNOWN_AT}"
    return f"""
        SELECT {ids[0]}, final AS {text}, {time}, {extra}, {FILE_COLUMN}, {_problem(checks)} AS problem,
               {_flags("is_truncated", "final <> cut AND NOT is_blank", "is_blank")} AS flags
        FROM (SELECT *, CASE WHEN is_blank THEN '' ELSE clean END AS final
        FROM (SELECT *, regexp_full_match(clean, '{BLANK}') AS is_blank
        FROM (SELECT *, {_cleaned("cut", "is_suspect", "has_controls")} AS clean
        FROM (SELECT *, is_suspect AND regexp_matches(cut, '{_ANY_CONTROL}') AS has_controls
        FROM (SELECT *, regexp_matches(cut, '[^{_CLEAN}]') AS is_suspect
        FROM (SELECT {", ".join(typed)}, {_text_columns(source, text)}, {FILE_COLUMN} FROM {source.relation}))))))
    """


def _flags(is_truncated: str, is_changed: str, is_blank: str) -> str:
    values = ("is_naive", "is_cut_time", is_truncated, is_changed, is_blank)
    return "{" + ", ".join(f"'{flag}': {value}" for flag, value in zip(FLAGS, values, strict=True)) + "}"


def _problem(checks: list[Check]) -> str:
    """The first check that fails, as a struct, or NULL."""
    cases = " ".join(
        f"WHEN {check.condition} THEN {{'reason': '{check.reason}', 'detail': {check.detail}}}" for check in checks
    )
    return f"CASE {cases} END"


def _wrong_type(source: Source, column: str, wanted: str, cast: str) -> DataError:
    theirs = source.columns[column]
    relation = "..." if source.place.startswith("the query") else f"read_parquet({source.place})"
    return DataError(
        f"table {source.table}: column {theirs} of {source.place} is {source.types[column]}, wanted {wanted} "
        f"for {column}; cast it: `tables.{source.table}.query: SELECT * REPLACE ({cast} AS {theirs}) "
        f"FROM {relation}`"
    )


def _check_id_type(source: Source, column: str) -> None:
    kind = source.types[column]
    if kind != "VARCHAR" and not kind.startswith("ENUM"):
        raise _wrong_type(source, column, "text", f"CAST({source.columns[column]} AS VARCHAR)")


def _id_checks(column: str) -> list[Check]:
    return [
        Check("null_id", f"{column} IS NULL", f"'{column} is null'"),
        Check("blank_id", f"regexp_full_match({column}, '{BLANK}')", f"'{column} is blank'"),
        Check(
            "long_id",
            f"strlen({column}) > {MAX_ID_BYTES}",
            f"'{column} has ' || strlen({column}) || ' bytes, at most {MAX_ID_BYTES} are allowed'",
        ),
        Check(
            "bad_id",
            rf"regexp_matches({column}, '[\x00-\x1f\x7f-\x{{9f}}]')",
            f"'{column} holds control characters'",
        ),
    ]


def _time_columns(source: Source, column: str) -> list[str]:
    """The time as TIMESTAMPTZ, the text it was written as (CSV), and whether it had no zone or was cut."""
    theirs, kind = source.columns[column], source.types[column]
    text, value = "NULL::VARCHAR", f"{theirs}::TIMESTAMPTZ"
    is_naive, is_cut = "true", "false"
    if source.is_csv:
        text, value = theirs, f"try_cast(trim({theirs}) AS TIMESTAMPTZ)"
        is_naive = rf"NOT regexp_matches({theirs}, ':.*[+\-A-Za-z]')"
        is_cut = rf"regexp_matches({theirs}, '\.\d{{7}}')"
    elif kind.endswith("WITH TIME ZONE") and kind.startswith("TIMESTAMP"):
        is_naive = "false"
        is_cut = "true" if column in source.nanoseconds else "false"
    elif kind.startswith("TIMESTAMP"):
        is_cut = "true" if kind == "TIMESTAMP_NS" else "false"
    elif kind != "DATE":
        raise _wrong_type(source, column, "a timestamp or date", f"CAST({theirs} AS TIMESTAMPTZ)")
    return [
        f"{value} AS {column}",
        f"{text} AS time_text",
        f"{is_naive} AS is_naive",
        f"{is_cut} AS is_cut_time",
    ]


def _time_checks(column: str, latest: datetime) -> list[Check]:
    return [
        Check("null_time", f"{column} IS NULL AND coalesce(trim(time_text), '') = ''", f"'{column} is null'"),
        Check("bad_time", f"{column} IS NULL", f"'{column} is no ISO date or time: ' || left(time_text, 40)"),
        Check(
            "bad_time",
            f"NOT isfinite({column}) OR {column} < TIMESTAMPTZ '{OLDEST} 00:00:00+00'",
            f"'{column} is before {OLDEST} or not finite'",
        ),
        Check(
            "future_time",
            f"{column} > TIMESTAMPTZ '{latest.isoformat()}'",
            f"'{column} ' || {column}::VARCHAR || ' is later than now plus the allowed clock skew'",
        ),
    ]


def _matched_value(source: Source) -> str:
    theirs, kind = source.columns[MATCHED], source.types[MATCHED]
    if kind == "BOOLEAN":
        return theirs
    if source.is_csv:
        return (
            f"CASE lower(trim({theirs})) WHEN 'true' THEN true WHEN '1' THEN true "
            f"WHEN 'false' THEN false WHEN '0' THEN false END"
        )
    if kind in _INTEGERS:
        return f"CASE {theirs} WHEN 1 THEN true WHEN 0 THEN false END"
    raise _wrong_type(source, MATCHED, "true/false or 1/0", f"CAST({theirs} AS BOOLEAN)")


BAD_MATCHED = "bad_matched"  # not a rejection: a table that holds such a value means something else


def _matched_checks() -> list[Check]:
    return [
        Check("null_matched", "coalesce(trim(matched_text), '') = ''", f"'{MATCHED} is null'"),
        Check(BAD_MATCHED, f"{MATCHED} IS NULL", "left(matched_text, 40)"),
    ]


def _text_columns(source: Source, column: str) -> str:
    """The text cut to MAX_TEXT_CHARS, whether it was longer, and whether it is bytes that are no UTF-8."""
    theirs, kind = source.columns[column], source.types[column]
    if kind == "BLOB":
        raw = f"coalesce(try(decode({theirs})), decode({theirs}, 'replace'), '')"
        undecodable = f"{theirs} IS NOT NULL AND try(decode({theirs})) IS NULL"
    elif kind == "VARCHAR" or kind.startswith("ENUM"):
        raw, undecodable = f"coalesce({theirs}::VARCHAR, '')", "false"
    else:
        raise _wrong_type(source, column, "text", f"CAST({theirs} AS VARCHAR)")
    is_long = f"(strlen({raw}) > {MAX_TEXT_CHARS} AND length({raw}) > {MAX_TEXT_CHARS})"  # bytes cost nothing to count
    return (
        f"CASE WHEN {is_long} THEN left({raw}, {MAX_TEXT_CHARS}) ELSE {raw} END AS cut, {is_long} AS is_truncated, "
        f"{undecodable} AS is_undecodable"
    )


def _cleaned(text: str, is_suspect: str, has_controls: str) -> str:
    """Control characters removed, then Unicode NFC; each pass only where it can change something."""
    plain = (
        f"CASE WHEN {has_controls} THEN regexp_replace(regexp_replace({text}, '{_LINE_BREAKS}', chr(10), 'g'), "
        f"'{_CONTROLS}', '', 'g') ELSE {text} END"
    )
    return f"CASE WHEN {is_suspect} THEN nfc_normalize({plain}) ELSE {text} END"


def _text_checks(column: str) -> list[Check]:
    head = r"regexp_replace(left(cut, 64), '^[\s\x{feff}]+', '')"
    named = " ".join(f"WHEN regexp_matches({head}, '^(?:{pattern})') THEN '{name}'" for name, pattern in _FILE_TYPES)
    any_of_them = "|".join(pattern for _, pattern in _FILE_TYPES)
    checks = [
        Check(
            "binary_text",
            f"regexp_matches(left(cut, 64), '^[\\s\\x{{feff}}]*(?:{any_of_them})')",
            f"'{column} looks like ' || CASE {named} END",
        )
    ]
    kept = f"length(regexp_replace(left(cut, 1000), '{_CONTROLS}', '', 'g'))"
    n_controls = f"(length(left(cut, 1000)) - {kept})"
    checks += [
        Check("binary_text", "is_undecodable", f"'{column} holds bytes of no known type, not UTF-8 text'"),
        Check(
            "binary_text",
            f"has_controls AND {n_controls} >= greatest({_MIN_BINARY_CONTROLS}, length(left(cut, 1000)) / 10)",
            f"'{column} holds bytes of no known type: ' || {n_controls} || ' control characters'",
        ),
    ]
    if column == JD:
        checks.append(Check("blank_jd", "is_blank", f"'{column} is null or blank'"))
    return checks
