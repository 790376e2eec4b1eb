"""Features in the types that their view declares: equal values offline and online, or an error that names the row.

| declared | columns that fit |
|---|---|
| Int32, Int64 | integers, booleans, and floats and decimals that are whole; NaN is a missing value |
| Float32, Float64 | floats, and integers and decimals whose digits a Float64 holds |
| Bool | booleans, and the integers 0 and 1 |
| String, Bytes | text, bytes |
| UnixTimestamp | timestamps and dates, to UTC; nanoseconds are rounded down to microseconds |
| Array of these | lists of these; a missing entry becomes NaN in a list of floats, and is refused in any other |

DuckDB cuts nanoseconds of times with a zone while it reads a file, towards 1970.
Float32 rounds to its precision. A dictionary counts as its values. Columns of other declared types stay as they are.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds
from feast.feature_view import FeatureView
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    ImageBytes,
    Int32,
    Int64,
    PdfBytes,
    PrimitiveFeastType,
    String,
    UnixTimestamp,
)

from girl_features.errors import StoreError

UTC_MICROSECONDS = pa.timestamp("us", "UTC")
_ARROW: dict[PrimitiveFeastType, pa.DataType] = {
    Int64: pa.int64(),
    Int32: pa.int32(),
    Float64: pa.float64(),
    Float32: pa.float32(),
    Bool: pa.bool_(),
    String: pa.string(),
    Bytes: pa.binary(),
    PdfBytes: pa.binary(),
    ImageBytes: pa.binary(),
    UnixTimestamp: UTC_MICROSECONDS,
}
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999  # microseconds of the years 1 and 9999


class ColumnPlace(NamedTuple):
    """The view and name of a column, and the ids of its rows, for messages."""

    view: str
    column: str
    ids: pa.ChunkedArray | None

    def refusal(self, problem: str, row: int | None = None) -> StoreError:
        """Return the error for this column, or for one row of it."""
        whose = "" if row is None else f", row {row}" if self.ids is None else f", id {self.ids[row].as_py()!r}"
        return StoreError(f"view {self.view!r}, column {self.column!r}{whose}: {problem}")


def arrow_type(dtype: Any) -> pa.DataType | None:
    """Return the one Arrow type of features that are declared as `dtype`; None for maps, structs and the like."""
    if isinstance(dtype, Array):
        item = _ARROW.get(dtype.base_type) if isinstance(dtype.base_type, PrimitiveFeastType) else None
        return None if item is None else pa.list_(item)
    return _ARROW.get(dtype) if isinstance(dtype, PrimitiveFeastType) else None


def in_view_types(view: FeatureView, table: pa.Table) -> pa.Table:
    """Return `table`, which has the view's own column names, with its features in their declared types.

    Raises:
        StoreError: a column or a value has no equal in its declared type; names view, column, type and id.
    """
    keys = [field.name for field in view.entity_columns]
    ids = table[keys[0]] if keys and keys[0] in table.column_names else None
    for feature in view.features:
        if feature.name not in table.column_names:
            raise ColumnPlace(view.name, feature.name, None).refusal(_missing(feature.name, table))
        column = table[feature.name]
        declared = in_declared_type(column, feature.dtype, ColumnPlace(view.name, feature.name, ids))
        if declared is not column:
            table = table.set_column(table.column_names.index(feature.name), feature.name, declared)
    return table


def _missing(name: str, table: pa.Table) -> str:
    alike = next((found for found in table.column_names if found.lower() == name.lower()), None)
    if alike is None:
        return "the rows have no such column; add it"
    return f"the rows have {alike!r}; spell the two names alike"


def in_declared_type(column: pa.ChunkedArray, dtype: Any, place: ColumnPlace) -> pa.ChunkedArray:
    """Return a column of a feature in the type of `dtype`, and itself if it has that already.

    Raises:
        StoreError: the column or a value has no equal in this type.
    """
    target = arrow_type(dtype)
    if target is None or (column.type == target and _needs_no_look(column)):
        return column
    chunks, start = [], 0
    for chunk in column.chunks:
        if isinstance(dtype, Array):
            chunks.append(_lists(chunk, target, dtype, place, start))
        else:
            chunks.append(_exact(chunk, target, dtype, place, np.arange(start, start + len(chunk))))
        start += len(chunk)
    return pa.chunked_array(chunks, target)


def event_times(table: pa.Table, view: str, name: str, *, may_miss: bool = False) -> pa.ChunkedArray:
    """Return a column of times as int64 microseconds since 1970.

    Raises:
        StoreError: the column has no times, or a time is missing and may not be.
    """
    place = ColumnPlace(view, name, None)
    if name not in table.column_names:
        raise place.refusal(_missing(name, table))
    column = in_declared_type(table[name], UnixTimestamp, place)
    if column.null_count and not may_miss:
        raise place.refusal("no time; fill it in or leave the row out", pc.index(column.is_null(), True).as_py())
    return column.cast(pa.int64())


def _needs_no_look(column: pa.ChunkedArray) -> bool:
    if kinds.is_list(column.type):
        is_time = kinds.is_timestamp(column.type.value_type)
        return not is_time and not any(chunk.values.null_count for chunk in column.chunks)
    return not kinds.is_timestamp(column.type)


def _lists(array: pa.Array, target: pa.DataType, dtype: Any, place: ColumnPlace, start: int) -> pa.Array:
    if array.null_count == len(array):
        return pa.nulls(len(array), target)
    if not (kinds.is_list(array.type) or kinds.is_large_list(array.type) or kinds.is_fixed_size_list(array.type)):
        raise place.refusal(f"it is {array.type}, but the view declares {dtype}; declare the type that it has")
    lengths = pc.list_value_length(array).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    rows = start + np.repeat(np.arange(len(array)), lengths)
    values = _exact(array.flatten(), target.value_type, dtype.base_type, place, rows)
    if values.null_count and kinds.is_floating(target.value_type):
        values = values.fill_null(np.nan)
    elif values.null_count:
        row = rows[pc.index(values.is_null(), True).as_py()]
        raise place.refusal(
            f"its {dtype} has a missing entry, which Feast's lists of this type cannot hold; take the entry out, "
            f"put a value of your own in its place, or store a list of floats, in which it is NaN",
            row,
        )
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=array.is_null() if array.null_count else None)


def _exact(values: pa.Array, target: pa.DataType, dtype: Any, place: ColumnPlace, rows: np.ndarray) -> pa.Array:
    """Return `values` in the Arrow type `target`; `rows` are the row numbers of the values in the column."""
    if kinds.is_dictionary(values.type):
        values = values.dictionary_decode()
    found = values.type
    if values.null_count == len(values):  # DuckDB reads a column of nulls alone as integers
        return pa.nulls(len(values), target)
    if not _may_become(found, target):
        has_no_type = kinds.is_duration(found) or kinds.is_time(found)
        advice = "Feast has no type for it: cast it to a number" if has_no_type else "declare the type that it has"
        raise place.refusal(f"it holds {found}, but the view declares {dtype}; {advice}, or leave the column out")
    if kinds.is_float16(found):
        values = values.cast(pa.float32())
    if kinds.is_floating(values.type) and kinds.is_integer(target):
        values = pc.if_else(pc.is_nan(values), None, values)
    try:
        result = _cast(values, target)
        fits = _fits(values, result)
    except pa.ArrowInvalid:
        result, fits = None, pa.array([_can_cast(value, target) for value in values], pa.bool_())
    unequal = -1 if fits is None else pc.index(fits, False).as_py()
    if unequal >= 0:
        problem = f"{_shown(values[unequal])} has no equal in {dtype}; correct it or declare another type"
        raise place.refusal(problem, rows[unequal])
    return result


def _may_become(found: pa.DataType, target: pa.DataType) -> bool:
    is_integer, is_decimal = kinds.is_integer(found), kinds.is_decimal(found)
    if kinds.is_integer(target):
        return bool(is_integer or kinds.is_floating(found) or is_decimal or kinds.is_boolean(found))
    if kinds.is_floating(target):
        return bool(is_integer or kinds.is_floating(found) or is_decimal)
    if kinds.is_boolean(target):
        return bool(is_integer or kinds.is_boolean(found))
    if kinds.is_timestamp(target):
        return bool(kinds.is_timestamp(found) or kinds.is_date(found))
    if kinds.is_string(target):
        return bool(kinds.is_string(found) or kinds.is_large_string(found) or kinds.is_string_view(found))
    is_binary = kinds.is_binary(found) or kinds.is_large_binary(found) or kinds.is_binary_view(found)
    return bool(is_binary or kinds.is_fixed_size_binary(found))


def _cast(values: pa.Array, target: pa.DataType) -> pa.Array:
    """Return `values` in the type `target`: nanoseconds rounded down, numbers as the nearest float."""
    if kinds.is_timestamp(values.type) and values.type.unit == "ns":  # a cast would round times before 1970 up
        values = pc.floor_temporal(values.cast(pa.timestamp("ns")), unit="microsecond")
    elif kinds.is_decimal(values.type) and kinds.is_floating(target):
        floats = [None if value is None else float(value) for value in values.to_pylist()]
        return pa.array(floats, pa.float64()).cast(target)
    elif kinds.is_integer(values.type) and kinds.is_floating(target):
        return values.cast(pa.float64(), safe=False).cast(target)
    return values.cast(target)


def _fits(values: pa.Array, result: pa.Array) -> pa.Array | None:
    """Tell for each value if the result of a cast equals it, where Arrow itself does not look; None if it does."""
    if kinds.is_timestamp(result.type):
        microseconds = result.cast(pa.int64())
        return pc.and_(pc.greater_equal(microseconds, _FIRST), pc.less_equal(microseconds, _LAST))
    if kinds.is_boolean(result.type) and kinds.is_integer(values.type):
        return pc.equal(result.cast(values.type), values)
    is_to_float = kinds.is_floating(result.type)
    if is_to_float and (kinds.is_decimal(values.type) or (kinds.is_integer(values.type) and _has_large(values))):
        return pa.array([None if value is None else _has_float(value) for value in values.to_pylist()], pa.bool_())
    if kinds.is_float32(result.type) and kinds.is_float64(values.type):
        return pc.or_(pc.invert(pc.is_inf(result)), pc.is_inf(values))
    return None


def _has_large(integers: pa.Array) -> bool:
    """Return True if there may be an integer that has no equal Float64."""
    least, most = pc.min_max(integers).as_py().values()
    return bool(least < -(2**53) or most > 2**53)


def _has_float(value: int | Decimal) -> bool:
    """Return True if a Float64 equals `value`, or has its digits when it is written out, as that of 0.1 has."""
    number = float(value)
    return number == value or (isinstance(value, Decimal) and Decimal(repr(number)) == value)


def _can_cast(value: pa.Scalar, target: pa.DataType) -> bool:
    try:
        value.cast(target)
    except pa.ArrowInvalid:
        return False
    return True


def _shown(value: pa.Scalar) -> str:
    is_time = kinds.is_timestamp(value.type)  # Python has no times beyond the year 9999
    return str(value.cast(pa.string()).as_py()) if is_time else repr(value.as_py())[:100]
