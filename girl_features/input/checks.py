"""SQL that cleans and checks single rows: clean texts, times in UTC, and the reason why a row is bad.

`staging_sql` returns one SELECT for one table. Its result has the clean columns, SOURCE_FILE, `problem` (a struct of
reason and detail, NULL for a good row) and `flags` (a struct of FLAGS, which are reported as notes).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from girl_features.config import TableConfig
from girl_features.input.html_text import STRIP_HTML
from girl_features.input.sources import Source
from girl_features.input.text_cleaning import (
    MAX_TEXT_CHARS,
    SQL_ANY_CONTROL,
    SQL_BLANK,
    SQL_CLEAN_CHARACTERS,
    SQL_CONTROLS,
    cleaning_sql,
)
from girl_features.input.times import bad_time_text, format_advice, time_sql
from girl_features.schema import (
    CV,
    CV_HASH,
    DECIDED_AT,
    JD,
    JOB_ID,
    JOB_SEEKER_ID,
    KNOWN_AT,
    MATCHED,
    POSTED_AT,
    SOURCE_FILE,
    UPDATED_AT,
)

MAX_ID_BYTES = 512
OLDEST = "1900-01-01"  # earlier times are placeholders, and pandas, which Feast uses, has no times before 1677

ID_COLUMNS = {"job_seekers": (JOB_SEEKER_ID,), "jobs": (JOB_ID,), "interactions": (JOB_SEEKER_ID, JOB_ID)}
TIME_COLUMN = {"job_seekers": UPDATED_AT, "jobs": POSTED_AT, "interactions": DECIDED_AT}
TEXT_COLUMN = {"job_seekers": CV, "jobs": JD}

FLAGS = ("is_naive", "is_cut_time", "is_truncated", "is_changed", "is_blank")
BAD_MATCHED = "bad_matched"  # this reason rejects the whole table: its column `matched` holds something else

# Signatures of binary files, as they look where a program read the bytes as Latin-1 or cp1252, replaced bytes that
# it could not decode, or encoded them in base64. They are tried in this order, at the start of a text.
_FILE_TYPES = (
    ("a PDF file", r"%PDF|JVBERi0"),
    ("a ZIP archive or Office file (docx, xlsx)", r"PK\x03\x04|UEsDBBQ"),
    ("an RTF file", r"\{\\rtf"),
    ("a PNG image", r"[\x{89}\x{fffd}\x{2030}?]PNG\r?\n|[\x{89}\x{fffd}\x{2030}]PNG|iVBORw0KGgo"),
    ("an old Office file (doc, xls)", r"\x{d0}\x{cf}\x11\x{e0}|[\x{fffd}?]{2}\x11|(?i:d0cf11e0a1b1)|0M8R4KGxGuE"),
    ("a JPEG image", r"[\x{ff}\x{fffd}?][\x{d8}\x{fffd}?][\x{ff}\x{fffd}?](?s:.){0,4}(?:JFIF|Exif)"),
    ("a GIF image", r"GIF8[79]a"),
    ("a gzip file", r"\x1f[\x{8b}\x{fffd}?]\x08"),
    ("a PostScript file", r"%!PS"),
)
_MIN_BINARY_CONTROLS = 32  # a text is binary if it has this many, and a tenth, among its first 1000 characters


class Check(NamedTuple):
    """A condition that makes a row bad; the report shows its reason and detail."""

    reason: str
    condition: str  # SQL of a bool
    detail: str  # SQL of a text


def staging_sql(source: Source, config: TableConfig, latest: datetime) -> str:
    """Return the SELECT of the checked rows of `source`, in their order. A time after `latest` makes a row bad.

    The columns have types that `check_types` accepts. With `config.strip_html`, the connection has the function
    STRIP_HTML.
    """
    ids, time = ID_COLUMNS[source.table], TIME_COLUMN[source.table]
    typed = [f"{source.columns[column]}::VARCHAR AS {column}" for column in ids]
    typed += _time_columns(source, time, config)
    checks = [check for column in ids for check in _id_checks(column)]
    checks += _time_checks(source.table, config, latest, partial(format_advice, source.table, config))
    if source.table == "interactions":
        return _interactions_sql(source, typed, checks)
    return _texts_sql(source, typed, checks, config.strip_html)


def decision_times_sql(source: Source, config: TableConfig, advice: Callable[[str | None], str]) -> str:
    """Return the SELECT of DECIDED_AT in UTC, `problem`, `is_naive` and `is_cut_time` of the rows, in their order.

    `advice` is that of `bad_time_text`.
    """
    problem = _problem(_time_checks("interactions", config, datetime.max.replace(tzinfo=UTC), advice))
    rows = f"(SELECT {', '.join(_time_columns(source, DECIDED_AT, config))} FROM {source.relation})"
    return f"SELECT {DECIDED_AT}, {problem} AS problem, is_naive, is_cut_time FROM {rows}"


def _interactions_sql(source: Source, typed: list[str], checks: list[Check]) -> str:
    is_null = Check("null_matched", "coalesce(trim(matched_text), '') = ''", f"'{MATCHED} is null'")
    is_bad = Check(BAD_MATCHED, f"{MATCHED} IS NULL", "left(matched_text, 40)")
    columns = [*typed, f"{_matched_value(source)} AS {MATCHED}", f"{source.columns[MATCHED]}::VARCHAR AS matched_text"]
    return f"""
        SELECT {JOB_SEEKER_ID}, {JOB_ID}, {MATCHED}, {DECIDED_AT}, {SOURCE_FILE},
               {_problem([*checks, is_null, is_bad])} AS problem,
               {_flags(is_truncated="false", is_changed="false", is_blank="false")} AS flags
        FROM (SELECT {", ".join(columns)}, {SOURCE_FILE} FROM {source.relation})
    """


def _texts_sql(source: Source, typed: list[str], checks: list[Check], strip_html: bool) -> str:
    """Return the SELECT of a table with texts; `final` is the clean text, empty if it is blank."""
    (id_column,) = ID_COLUMNS[source.table]
    text, time = TEXT_COLUMN[source.table], TIME_COLUMN[source.table]
    extra = f"left(sha256(final), 16) AS {CV_HASH}" if text == CV else f"{time} AS {KNOWN_AT}"
    texts = _text_columns(source, text, strip_html)
    return f"""
        SELECT {id_column}, final AS {text}, {time}, {extra}, {SOURCE_FILE},
               {_problem(checks + _text_checks(text))} AS problem,
               {_flags("is_truncated", "final <> cut AND NOT is_blank", "is_blank")} AS flags
        FROM (SELECT *, CASE WHEN is_blank THEN '' ELSE clean END AS final
        FROM (SELECT *, regexp_full_match(clean, '{SQL_BLANK}') AS is_blank
        FROM (SELECT *, {cleaning_sql("cut", "is_suspect", "has_controls")} AS clean
        FROM (SELECT *, is_suspect AND regexp_matches(cut, '{SQL_ANY_CONTROL}') AS has_controls
        FROM (SELECT *, regexp_matches(cut, '[^{SQL_CLEAN_CHARACTERS}]') AS is_suspect
        FROM (SELECT {", ".join(typed)}, {texts}, {SOURCE_FILE} FROM {source.relation}))))))
    """


def _flags(is_truncated: str, is_changed: str, is_blank: str) -> str:
    values = ("is_naive", "is_cut_time", is_truncated, is_changed, is_blank)
    return "{" + ", ".join(f"'{flag}': {value}" for flag, value in zip(FLAGS, values, strict=True)) + "}"


def _problem(checks: list[Check]) -> str:
    """Return SQL of the first failed check, as a struct; NULL if none fails."""
    cases = " ".join(
        f"WHEN {check.condition} THEN {{'reason': '{check.reason}', 'detail': {check.detail}}}" for check in checks
    )
    return f"CASE {cases} END"


def _id_checks(column: str) -> list[Check]:
    return [
        Check("null_id", f"{column} IS NULL", f"'{column} is null'"),
        Check("blank_id", f"regexp_full_match({column}, '{SQL_BLANK}')", f"'{column} is blank'"),
        Check(
            "long_id",
            f"strlen({column}) > {MAX_ID_BYTES}",
            f"'{column} has ' || strlen({column}) || ' bytes, at most {MAX_ID_BYTES} are allowed'",
        ),
        Check(
            "bad_id", rf"regexp_matches({column}, '[\x00-\x1f\x7f-\x{{9f}}]')", f"'{column} holds control characters'"
        ),
    ]


def _time_columns(source: Source, column: str, config: TableConfig) -> list[str]:
    """Return SQL of the time as TIMESTAMPTZ, its text in the table, and two flags: no time zone, digits were cut."""
    sql = time_sql(source, column, config)
    names = (column, "time_text", "is_naive", "is_cut_time")
    return [f"{value} AS {name}" for value, name in zip(sql, names, strict=True)]


def _time_checks(table: str, config: TableConfig, latest: datetime, advice: Callable[[str | None], str]) -> list[Check]:
    column, bad_text = TIME_COLUMN[table], bad_time_text(config, advice)
    wanted = "an ISO date or time"
    if config.time_format is not None:
        wanted = f"of time_format {config.time_format}".replace("'", "''")
    return [
        Check("null_time", f"{column} IS NULL AND coalesce(trim(time_text), '') = ''", f"'{column} is null'"),
        Check("bad_time", f"{column} IS NULL", f"'{column} is not {wanted}: ' || {bad_text}"),
        Check(
            "bad_time",
            f"NOT isfinite({column}) OR {column} < TIMESTAMPTZ '{OLDEST} 00:00:00+00'",
            f"'{column} is before {OLDEST} or not finite' || coalesce(': ' || {bad_text}, '')",
        ),
        Check(
            "future_time",
            f"{column} > TIMESTAMPTZ '{latest.isoformat()}'",
            f"'{column} ' || {column}::VARCHAR || ' is later than now plus the allowed clock skew'",
        ),
    ]


def _matched_value(source: Source) -> str:
    source_column, sql_type = source.columns[MATCHED], source.types[MATCHED]
    if sql_type == "BOOLEAN":
        return source_column
    if source.is_csv:
        return (
            f"CASE lower(trim({source_column})) WHEN 'true' THEN true WHEN '1' THEN true "
            f"WHEN 'false' THEN false WHEN '0' THEN false END"
        )
    return f"CASE {source_column} WHEN 1 THEN true WHEN 0 THEN false END"


def _text_columns(source: Source, column: str, strip_html: bool) -> str:
    """Return SQL of the text cut to MAX_TEXT_CHARS, and two flags: it was longer, its bytes are not UTF-8."""
    source_column, sql_type = source.columns[column], source.types[column]
    if sql_type == "BLOB":
        raw = f"coalesce(try(decode({source_column})), decode({source_column}, 'replace'), '')"
        undecodable = f"{source_column} IS NOT NULL AND try(decode({source_column})) IS NULL"
    else:
        raw, undecodable = f"coalesce({source_column}::VARCHAR, '')", "false"
    # strlen, in bytes, needs no decoding, so it spares counting the characters of short texts
    is_long = f"(strlen({raw}) > {MAX_TEXT_CHARS} AND length({raw}) > {MAX_TEXT_CHARS})"
    cut = f"CASE WHEN {is_long} THEN left({raw}, {MAX_TEXT_CHARS}) ELSE {raw} END"
    if strip_html:
        cut = f"CASE WHEN contains({raw}, '<') OR contains({raw}, '&') THEN {STRIP_HTML}({cut}) ELSE {cut} END"
    return f"{cut} AS cut, {is_long} AS is_truncated, {undecodable} AS is_undecodable"


def _text_checks(column: str) -> list[Check]:
    head = r"regexp_replace(left(cut, 64), '^[\s\x{feff}]+', '')"
    type_names = " ".join(
        f"WHEN regexp_matches({head}, '^(?:{pattern})') THEN '{name}'" for name, pattern in _FILE_TYPES
    )
    any_type = "|".join(pattern for _, pattern in _FILE_TYPES)
    n_other = f"length(regexp_replace(left(cut, 1000), '{SQL_CONTROLS}', '', 'g'))"
    n_controls = f"(length(left(cut, 1000)) - {n_other})"
    checks = [
        Check(
            "binary_text",
            f"regexp_matches(left(cut, 64), '^[\\s\\x{{feff}}]*(?:{any_type})')",
            f"'{column} looks like ' || CASE {type_names} END",
        ),
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
