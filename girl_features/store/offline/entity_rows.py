"""Entity rows, a pandas DataFrame, as Arrow columns, each with one name and one type."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.errors import EntityTimestampInferenceException
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df

from girl_features.errors import DataError
from girl_features.store.feast_sources import as_utc

_MICROSECONDS = pa.timestamp("us", "UTC")


def entity_table(entity_df: pd.DataFrame | str, keys: Collection[str]) -> tuple[pa.Table, str]:
    """Return the entity rows as Arrow, and the name of their time column. Times without a zone are in UTC.

    Args:
        entity_df: the rows.
        keys: columns with ids.

    Raises:
        DataError: not a DataFrame, a missing column, two columns of one name, ids of several types, or times that
            cannot be read.
    """
    if not isinstance(entity_df, pd.DataFrame):
        raise DataError(
            f"entity rows should be a pandas DataFrame, found {type(entity_df).__name__}; run the query first"
        )
    names = [str(name) for name in entity_df.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"the entity rows have two columns {', '.join(map(repr, twice))}; drop or rename one of them")
    if missing := sorted(set(keys).difference(names)):
        raise DataError(
            f"the entity rows have no column {', '.join(map(repr, missing))}, by which the features are joined; "
            f"rename your column of ids (found {', '.join(map(repr, names))})"
        )
    try:
        at = infer_event_timestamp_from_entity_df(dict(zip(names, entity_df.dtypes, strict=True)))
    except EntityTimestampInferenceException as error:
        raise DataError(f"the entity rows have no column 'event_timestamp' (found {', '.join(names)})") from error
    columns = {}
    for name, (_, column) in zip(names, entity_df.items(), strict=True):
        columns[name] = _times(column) if name == at else arrow_column(column, name, is_key=name in keys)
    table = pa.table(columns)
    if time_range(table[at]) is None and table[at].null_count < len(table):
        raise DataError(f"column {at!r} of the entity rows holds times outside the years 1 to 9999; correct them")
    return table, at


def time_range(times: pa.ChunkedArray) -> tuple[datetime, datetime] | None:
    """Return the first and the last time, in UTC; None if there is none that Python can hold."""
    try:
        first, last = pc.min_max(times.cast(pa.timestamp("us", times.type.tz), safe=False)).as_py().values()
    except (pa.ArrowInvalid, ValueError, OverflowError):
        return None
    return None if first is None else (as_utc(first), as_utc(last))


def numbered_keys(entities: pa.Table, event_timestamp: str, ids: list[pa.ChunkedArray]) -> pa.Table:
    """Return the columns `row` (from 0), `at` (UTC, rounded down to microseconds), e0, e1, ...: the `ids` in order."""
    times = entities[event_timestamp]
    if times.type.unit == "ns":  # a cast would round times before 1970 up
        times = pc.floor_temporal(times.cast(pa.timestamp("ns")), unit="microsecond")
    rows = pa.array(np.arange(len(entities)))
    return pa.table({"row": rows, "at": times.cast(_MICROSECONDS)} | {f"e{i}": c for i, c in enumerate(ids)})


def check_names(entity_columns: Collection[str], features: Collection[str]) -> None:
    """Check that each column of a result has a name of its own.

    Raises:
        DataError: a feature is called like a column of the entity rows, or like another feature.
    """
    taken = set(entity_columns)
    if clash := sorted(taken.intersection(features)):
        raise DataError(
            f"the entity rows already have {', '.join(map(repr, clash))}, which this request would add; ask with "
            f"`full_feature_names=True` (each name then begins with its view's), or drop or rename these columns"
        )
    names = list(features)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"two features of this request are called {', '.join(map(repr, twice))}; ask with "
            f"`full_feature_names=True`, or for one of them at a time"
        )


def arrow_column(
    column: pd.Series, name: str, *, is_key: bool, place: str = "the entity rows"
) -> pa.Array | pa.ChunkedArray:
    """Return a pandas column as Arrow.

    Raises:
        DataError: its values have several types; the values of a key must have one to begin with.
    """
    is_mixed = is_key and column.dtype == object and len({*map(type, column.to_numpy())}) > 1
    if is_mixed and len(kinds := _kinds(column)) > 1:
        raise DataError(
            f"column {name!r} of {place} holds ids of several types ({', '.join(sorted(kinds))}); "
            f"convert all to the type of the stored ids"
        )
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        raise DataError(
            f"column {name!r} of {place} ({column.dtype}) does not fit one type: {error}; convert it, or leave it out"
        ) from error


def _kinds(column: pd.Series) -> set[str]:
    """Return the names of the types of the present values; those of NumPy count as Python's."""
    return {_kind(found) for found in {*map(type, column.dropna().to_numpy(object))}}


def _kind(found: type) -> str:
    for python, numpy in (
        (bool, np.bool_),
        (int, np.integer),
        (float, np.floating),
        (str, np.str_),
        (bytes, np.bytes_),
    ):
        if issubclass(found, (python, numpy)):
            return python.__name__
    return found.__name__


def _times(column: pd.Series) -> pa.Array | pa.ChunkedArray:
    """Return times with the zone UTC. Datetimes, dates and ISO 8601 texts are read; numbers have no known unit."""
    name = column.name
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    times = column.infer_objects()
    if pd.api.types.is_datetime64_any_dtype(times):
        return pa.array(times, from_pandas=True)
    if times.isna().all():
        return pa.nulls(len(times), _MICROSECONDS)
    if _kinds(times) & {"int", "float", "bool", "Decimal"}:
        raise DataError(
            f"column {name!r} of the entity rows holds numbers, whose unit is not known; convert them, "
            f"as in `pd.to_datetime(entity_df[{name!r}], unit='s', utc=True)`"
        )
    try:
        return pa.array(pd.to_datetime(times, utc=True, format="ISO8601"), from_pandas=True)
    except pd.errors.OutOfBoundsDatetime:  # pandas counts nanoseconds, from 1677 to 2262
        pass
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(_unreadable(name, str(error).splitlines()[0])) from error
    try:
        return pa.array([None if pd.isna(value) else _as_datetime(value) for value in times], _MICROSECONDS)
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        raise DataError(_unreadable(name, str(error))) from error


def _as_datetime(value: object) -> datetime:
    if isinstance(value, date) and not isinstance(value, datetime):
        return as_utc(datetime(value.year, value.month, value.day))
    return as_utc(value if isinstance(value, datetime) else datetime.fromisoformat(str(value)))


def _unreadable(name: object, reason: str) -> str:
    return (
        f"column {name!r} of the entity rows should hold datetimes or ISO 8601 texts ({reason}); "
        f"convert it, as in `pd.to_datetime(entity_df[{name!r}], format=..., utc=True)`"
    )
