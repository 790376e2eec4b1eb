"""Types of id columns: ids are compared as text, so a type must have one exact text for every id."""

from __future__ import annotations

import re

from girl_features.errors import DataError
from girl_features.input.sources import Source

_EXACT = re.compile(r"VARCHAR|ENUM\b.*|U?(?:TINY|SMALL|BIG|HUGE)INT|U?INTEGER|UUID|DECIMAL\(\d+,0\)", re.DOTALL)


def id_sql(source: Source, column: str) -> str:
    """Return SQL of an id as text. The number 5 becomes '5' in every type, so that tables of other types join.

    Raises:
        DataError: the column has a type without an exact text, such as a float.
    """
    name, sql_type = source.columns[column], source.types[column]
    if _EXACT.fullmatch(sql_type):
        return f"{name}::VARCHAR"
    start = f"table {source.table}: column {name} of {source.place} is {sql_type}, wanted text or integers for {column}"
    if column in source.disagreements:
        raise DataError(f"{start}: it is {source.disagreements[column]}; write these files again with one type")
    relation = "..." if source.place.startswith("the query") else f"read_parquet({source.place})"
    query = f"`tables.{source.table}.query: SELECT * REPLACE ({{}} AS {name}) FROM {relation}`"
    if sql_type in ("FLOAT", "DOUBLE"):
        limit = "2^24" if sql_type == "FLOAT" else "2^53"
        cast = query.format(f"CAST(CAST({name} AS BIGINT) AS VARCHAR)")
        raise DataError(
            f"{start}; floats from {limit} on stand for several integers, so write it again with text or integers, "
            f"or cast it if all ids are smaller whole numbers: {cast}"
        )
    if sql_type.startswith("DECIMAL"):
        cast = query.format(f"CAST(CAST({name} AS HUGEINT) AS VARCHAR)")
        raise DataError(f"{start}; cast it if all ids are whole numbers: {cast}")
    if sql_type == "BLOB":
        raise DataError(f"{start}; if its bytes are UTF-8 text, decode it: {query.format(f'decode({name})')}")
    raise DataError(
        f"{start}; name the column that holds the ids: `tables.{source.table}.columns: {{{column}: YOUR_COLUMN}}`"
    )
