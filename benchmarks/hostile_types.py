"""Columns as lakes hold them: the same values in every Arrow type, each with what the stored values mean.

Each function takes the canonical values of a column, None where one is missing, and returns an Arrow array and its
meaning: the canonical values that the array stands for, or None if the array does not tell what they were.
"""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

Values = list[Any]
Typed = tuple[pa.Array, Values | None]


class ColumnType(NamedTuple):
    """One way to store a column. `largest` bounds the ids that fit in."""

    name: str
    store: Callable[[Values], Typed]
    largest: int = 2**62


def _each(convert: Callable[[Any], Any], values: Values) -> Values:
    return [None if value is None else convert(value) for value in values]


# ids: whole numbers in, text out


def _ids(arrow: pa.DataType, convert: Callable[[int], Any], is_known: bool, values: Values) -> Typed:
    stored = pa.array(_each(convert, values), arrow)
    return stored, _each(str, values) if is_known else None


def _uuids(arrow: pa.DataType, values: Values) -> Typed:
    whole = _each(lambda i: uuid.UUID(int=i), values)
    return pa.array(_each(lambda u: u.bytes, whole), pa.binary(16)).cast(arrow), _each(str, whole)


def _float_ids(arrow: pa.DataType, exact: int, values: Values) -> Typed:
    is_known = all(value is None or value < exact for value in values)
    return pa.array(_each(float, values), arrow), _each(str, values) if is_known else None


def _id_type(arrow: pa.DataType, convert: Callable[[int], Any] = int, largest: int = 2**62) -> ColumnType:
    return ColumnType(str(arrow), partial(_ids, arrow, convert, True), largest)


_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())
_BYTES_TYPES = (pa.binary(), pa.large_binary())

ID_TYPES = [
    *(_id_type(arrow, str) for arrow in _TEXT_TYPES),
    *(_id_type(arrow, lambda i: str(i).encode()) for arrow in _BYTES_TYPES),
    _id_type(pa.dictionary(pa.int32(), pa.string()), str),
    _id_type(pa.int8(), largest=2**7),
    _id_type(pa.int16(), largest=2**15),
    _id_type(pa.int32(), largest=2**31),
    _id_type(pa.int64()),
    _id_type(pa.uint8(), largest=2**8),
    _id_type(pa.uint16(), largest=2**16),
    _id_type(pa.uint32(), largest=2**32),
    _id_type(pa.uint64(), largest=2**64),
    _id_type(pa.dictionary(pa.int32(), pa.int64())),
    _id_type(pa.decimal128(38, 0), decimal.Decimal),
    _id_type(pa.decimal128(20, 0), decimal.Decimal),
    _id_type(pa.decimal256(60, 0), decimal.Decimal),
    _id_type(pa.decimal128(30, 2), decimal.Decimal),
    ColumnType("float32", partial(_float_ids, pa.float32(), 2**24), 2**30),
    ColumnType("float64, small", partial(_float_ids, pa.float64(), 2**53), 2**20),
    ColumnType("float64, beyond 2^53", partial(_float_ids, pa.float64(), 2**53)),
    ColumnType("uuid", partial(_uuids, pa.uuid()), 2**100),
    ColumnType("date32", partial(_ids, pa.date32(), lambda i: date.fromordinal(i % 3_000_000 + 1), False)),
    ColumnType("bool", partial(_ids, pa.bool_(), lambda i: i % 2 == 0, False)),
    ColumnType("list<string>", partial(_ids, pa.list_(pa.string()), lambda i: [str(i)], False)),
    ColumnType("null", lambda values: (pa.nulls(len(values)), [None] * len(values))),
]


# times: zoned datetimes in, the same out


def _times(arrow: pa.DataType, values: Values) -> Typed:
    stored = pa.array(_each(lambda t: t.astimezone(UTC), values), pa.timestamp("us", "UTC"))
    if arrow.tz is None:
        stored = stored.cast(pa.timestamp("us"))
    return stored.cast(arrow), values


def _fine_times(zone: str | None, values: Values) -> Typed:
    micros = pa.array(_each(lambda t: int(t.timestamp()) * 10**9 + 999, values), pa.int64())
    return micros.cast(pa.timestamp("ns", zone)), values


def _no_times(arrow: pa.DataType, convert: Callable[[datetime], Any], values: Values) -> Typed:
    return pa.array(_each(convert, values), arrow), None


def _texts_without_times(convert: Callable[[datetime], str], values: Values) -> Typed:
    """Store texts of which none is a time, so that every row is to be rejected."""
    return pa.array(_each(convert, values), pa.string()), [None] * len(values)


def _known_times(arrow: pa.DataType, convert: Callable[[datetime], Any], values: Values) -> Typed:
    return pa.array(_each(convert, values), arrow), values


_ZONES = (None, "UTC", "Europe/Berlin", "+05:30")

TIME_TYPES = [
    *(
        ColumnType(str(pa.timestamp(unit, zone)), partial(_times, pa.timestamp(unit, zone)))
        for unit in ("s", "ms", "us", "ns")
        for zone in _ZONES
    ),
    *(ColumnType(f"{zone} nanoseconds that are not whole", partial(_fine_times, zone)) for zone in (None, "UTC")),
    ColumnType("date32", partial(_known_times, pa.date32(), lambda t: t.date())),
    ColumnType("date64", partial(_known_times, pa.date64(), lambda t: t.date())),
    ColumnType("ISO text", partial(_known_times, pa.string(), lambda t: t.isoformat())),
    ColumnType("ISO text of days", partial(_known_times, pa.large_string(), lambda t: t.date().isoformat())),
    ColumnType("text, day first", partial(_texts_without_times, lambda t: f"{t:%d.%m.%Y}")),
    ColumnType("int64 seconds", partial(_no_times, pa.int64(), lambda t: int(t.timestamp()))),
    ColumnType("int64 milliseconds", partial(_no_times, pa.int64(), lambda t: int(t.timestamp() * 1000))),
    ColumnType("float64 seconds", partial(_no_times, pa.float64(), lambda t: t.timestamp())),
    ColumnType("time64", partial(_no_times, pa.time64("us"), lambda t: t.time())),
    ColumnType("duration", partial(_no_times, pa.duration("us"), lambda t: t - datetime(1970, 1, 1, tzinfo=UTC))),
    ColumnType("bool", partial(_no_times, pa.bool_(), lambda t: True)),
    ColumnType("null", lambda values: (pa.nulls(len(values)), [None] * len(values))),
]


# matched: bools in, the same out


def _known(arrow: pa.DataType, convert: Callable[[bool], Any], values: Values) -> Typed:
    return pa.array(_each(convert, values), arrow), values


def _unknown(arrow: pa.DataType, convert: Callable[[bool], Any], values: Values) -> Typed:
    stored = pa.array(_each(convert, values), arrow)
    return stored, values if stored.null_count == len(stored) else None


_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())

MATCHED_TYPES = [
    ColumnType("bool", partial(_known, pa.bool_(), bool)),
    *(ColumnType(f"{arrow} of 0 and 1", partial(_known, arrow, int)) for arrow in _INTEGERS),
    ColumnType("float64 of 0 and 1", partial(_known, pa.float64(), float)),
    ColumnType("decimal of 0 and 1", partial(_known, pa.decimal128(3, 1), lambda m: decimal.Decimal(int(m)))),
    ColumnType("text of true and false", partial(_known, pa.string(), lambda m: str(m).lower())),
    ColumnType("text of 0 and 1", partial(_known, pa.large_string(), lambda m: str(int(m)))),
    ColumnType("int64 of 0 to 5", partial(_unknown, pa.int64(), lambda m: 4 if m else 2)),
    ColumnType("float64 of shares", partial(_unknown, pa.float64(), lambda m: 0.9 if m else 0.3)),
    ColumnType("text of yes and no", partial(_unknown, pa.string(), lambda m: "hired" if m else "no")),
    ColumnType("date32", partial(_unknown, pa.date32(), lambda m: date(2020, 1, 1 + m))),
    ColumnType("list<bool>", partial(_unknown, pa.list_(pa.bool_()), lambda m: [m])),
    ColumnType("null", lambda values: (pa.nulls(len(values)), [None] * len(values))),
]


# texts: text in, the same out

TEXT_TYPES = [
    *(ColumnType(str(arrow), partial(_known, arrow, str)) for arrow in _TEXT_TYPES),
    *(ColumnType(str(arrow), partial(_known, arrow, lambda t: t.encode())) for arrow in _BYTES_TYPES),
    ColumnType("dictionary", partial(_known, pa.dictionary(pa.int32(), pa.string()), str)),
    ColumnType("int64", partial(_unknown, pa.int64(), len)),
    ColumnType("float64", partial(_unknown, pa.float64(), lambda t: len(t) / 3)),
    ColumnType("timestamp", partial(_unknown, pa.timestamp("us"), lambda t: datetime(2020, 1, 1))),
    ColumnType("list<string>", partial(_unknown, pa.list_(pa.string()), str.split)),
    ColumnType("null", lambda values: (pa.nulls(len(values)), [None] * len(values))),
]

TYPES = {
    "job_seeker_id": ID_TYPES,
    "job_id": ID_TYPES,
    "cv": TEXT_TYPES,
    "jd": TEXT_TYPES,
    "updated_at": TIME_TYPES,
    "posted_at": TIME_TYPES,
    "decided_at": TIME_TYPES,
    "matched": MATCHED_TYPES,
}
