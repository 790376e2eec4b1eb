"""Types of input columns: an error for a column of a type that cannot be read, which says how to convert it."""

from __future__ import annotations

import re

import duckdb

from girl_features.config import EPOCH_FORMATS, TableConfig
from girl_features.config.written import setting_text
from girl_features.errors import DataError
from girl_features.input.advice import columns_advice, query_advice
from girl_features.input.checks import ID_COLUMNS, TEXT_COLUMN, TIME_COLUMN
from girl_features.input.sources import Source, printable
from girl_features.input.times import FLOATS, INTEGERS, format_advice, format_of_numbers, is_numeric
from girl_features.schema import MATCHED
from girl_features.sql import quote_identifier

# ids are compared as text, and of these types every id has one text: the number 5 is '5' in all of them
_EXACT_IDS = re.compile(r"VARCHAR|ENUM\b.*|U?(?:TINY|SMALL|BIG|HUGE)INT|U?INTEGER|UUID|DECIMAL\(\d+,0\)", re.DOTALL)
_EXACT_FLOATS = {"FLOAT": 2**24, "DOUBLE": 2**53}  # whole numbers below these are exact in the type


def check_types(connection: duckdb.DuckDBPyConnection, source: Source, config: TableConfig) -> None:
    """Raise a DataError for the first column of `source` whose type cannot be read.

    The values of the column are looked at only then, for what the error suggests.
    """
    for column in ID_COLUMNS[source.table]:
        if not _EXACT_IDS.fullmatch(source.types[column]):
            advice = _id_advice(connection, source, config, column)
            raise _wrong_type(source, config, column, "text or integers", advice)
    text = TEXT_COLUMN.get(source.table)
    if text is not None and not _is_text(source.types[text]) and source.types[text] != "BLOB":
        raise _wrong_type(source, config, text, "text", _text_advice(source, config, text))
    if source.table == "interactions" and not source.is_csv and source.types[MATCHED] not in ("BOOLEAN", *INTEGERS):
        raise _wrong_type(source, config, MATCHED, "true/false or 1/0", matched_advice(source, config))
    check_time(connection, source, config)


def matched_advice(source: Source, config: TableConfig) -> str:
    """Return a query in which the user says which values of `matched` are a match, as the last part of a message."""
    if source.types[MATCHED].endswith("]") or source.types[MATCHED].startswith(("STRUCT", "MAP", "UNION")):
        return columns_advice(source.table, [MATCHED], config.columns)
    name = _their_name(config, MATCHED)
    case = f"CASE WHEN {name} IN (YOUR_MATCHES) THEN true WHEN {name} IN (YOUR_MISMATCHES) THEN false END"
    return f"say which values are a match and which are none: {query_advice(source, config, name, case)}"


def check_time(connection: duckdb.DuckDBPyConnection, source: Source, config: TableConfig) -> None:
    """Raise a DataError if the type of the time column of `source` does not fit the settings of `config`."""
    column = TIME_COLUMN[source.table]
    sql_type, time_format = source.types[column], config.time_format
    if sql_type == "VARCHAR":
        return
    if sql_type == "DATE" or sql_type.startswith("TIMESTAMP"):
        if time_format is not None:
            raise DataError(
                f"table {source.table}: column {_their_name(config, column)} of {source.place} is {sql_type} already; "
                f"remove `tables.{source.table}.time_format`"
            )
        return
    if not is_numeric(sql_type):
        advice = columns_advice(source.table, [column], config.columns)
        raise _wrong_type(source, config, column, "a time, a date or a text", advice)
    if time_format is None or (time_format not in EPOCH_FORMATS and sql_type not in INTEGERS):
        advice = _epoch_advice(connection, source, config, column)
        raise _wrong_type(source, config, column, "a time, a date or a text", advice)


def _epoch_advice(connection: duckdb.DuckDBPyConnection, source: Source, config: TableConfig, column: str) -> str:
    """Return the unit of the numbers if they can only be of one, else the units to choose from."""
    name = source.columns[column]
    row = connection.execute(f"SELECT min({name})::DOUBLE, max({name})::DOUBLE FROM {source.relation}").fetchone()
    least, most = row or (None, None)
    unit = None if least is None or most is None else format_of_numbers(least, most)
    if unit in EPOCH_FORMATS:
        return format_advice(source.table, config, unit)
    if unit is not None and source.types[column] in INTEGERS:
        return f"set `tables.{source.table}.time_format: {setting_text(unit)}`"
    setting = f"tables.{source.table}.time_format"
    return (
        f"if they count from 1970, set `{setting}: epoch_s` (seconds), `{setting}: epoch_ms` (milliseconds), "
        f"`{setting}: epoch_us` (microseconds) or `{setting}: epoch_ns` (nanoseconds)"
    )


def _id_advice(connection: duckdb.DuckDBPyConnection, source: Source, config: TableConfig, column: str) -> str:
    value, name, sql_type = source.columns[column], _their_name(config, column), source.types[column]
    if is_numeric(sql_type):
        limit = f"abs({value}) < {_EXACT_FLOATS[sql_type]}" if sql_type in FLOATS else "true"
        if _holds(connection, source, f"{value} = floor({value}) AND {limit}"):
            return query_advice(source, config, name, f"CAST(CAST({name} AS HUGEINT) AS VARCHAR)")
        return "its numbers are not whole, or too large to be exact; write the table again with ids as text"
    if sql_type == "BLOB":
        if _holds(connection, source, f"{value} IS NULL OR try(decode({value})) IS NOT NULL"):
            return query_advice(source, config, name, f"decode({name})")
        return "its bytes are not UTF-8 text; write the table again with ids as text"
    return f"no cast makes ids of it: {columns_advice(source.table, [column], config.columns)}"


def _text_advice(source: Source, config: TableConfig, column: str) -> str:
    name, sql_type = _their_name(config, column), source.types[column]
    if sql_type in ("VARCHAR[]", "JSON"):
        text = f"{name} ->> '$'" if sql_type == "JSON" else f"array_to_string({name}, chr(10))"
        return query_advice(source, config, name, text)
    return f"no cast makes a text of it: {columns_advice(source.table, [column], config.columns)}"


def _their_name(config: TableConfig, column: str) -> str:
    """Return the name of `column` in the user's table, quoted."""
    return quote_identifier(config.columns.get(column, column))


def _holds(connection: duckdb.DuckDBPyConnection, source: Source, condition: str) -> bool:
    """True if no value of the column that `condition` is about breaks it; a missing value does not."""
    row = connection.execute(f"SELECT count(*) FROM {source.relation} WHERE NOT ({condition})").fetchone()
    return row == (0,)


def _is_text(sql_type: str) -> bool:
    return sql_type == "VARCHAR" or sql_type.startswith("ENUM")


def _wrong_type(source: Source, config: TableConfig, column: str, wanted: str, advice: str) -> DataError:
    name, sql_type = printable(_their_name(config, column)), printable(source.types[column])
    if column in source.disagreements:
        sql_type, advice = source.disagreements[column], "write these files again with one such type"
    return DataError(
        f"table {source.table}: column {name} of {source.place} is {sql_type}, wanted {wanted} for {column}; {advice}"
    )
