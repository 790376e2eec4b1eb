"""Columns of features as bytes: of one width in every row, or one value after the other."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds
from feast.protos.feast.types.Value_pb2 import BoolList, BytesList, DoubleList, Int32List, Int64List, StringList
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values

from girl_features.store.feature_types import UTC_MICROSECONDS, ColumnPlace, arrow_type
from girl_features.store.online import packed
from girl_features.store.online.packed import NO_VALUE, PackedValue, pack_value

FixedColumn = tuple[int, np.ndarray]  # kind and (n, width) uint8 bytes of n values
_SCALARS: dict[pa.DataType, tuple[int, str]] = {  # kind in the bytes, NumPy type
    pa.int64(): (packed.INT64, "<i8"),
    pa.int32(): (packed.INT32, "<i4"),
    pa.float64(): (packed.DOUBLE, "<f8"),
    pa.float32(): (packed.FLOAT, "<f4"),
    pa.bool_(): (packed.BOOL, "?"),
    UTC_MICROSECONDS: (packed.MICROSECONDS, "<i8"),
}
_ITEMS = {  # lists of numbers that are stored as such
    pa.float32(): (packed.VECTOR, "<f4"),
    UTC_MICROSECONDS: (packed.TIMES, "<i8"),
}
_LISTS: dict[pa.DataType, tuple[str, Any]] = {  # field of Feast's Value, and its type
    pa.int64(): ("int64_list_val", Int64List),
    pa.int32(): ("int32_list_val", Int32List),
    pa.float64(): ("double_list_val", DoubleList),
    pa.bool_(): ("bool_list_val", BoolList),
    pa.string(): ("string_list_val", StringList),
    pa.binary(): ("bytes_list_val", BytesList),
}


def fixed_column(feature: Any, column: pa.ChunkedArray) -> FixedColumn | None:
    """Return the bytes of a column in its declared type that has one width and no nulls, else None."""
    if column.null_count or not len(column) or arrow_type(feature.dtype) is None:
        return None
    if column.type in _SCALARS:
        kind, dtype = _SCALARS[column.type]
        return kind, _as_bytes(_numbers(column).astype(dtype))
    if kinds.is_string(column.type):
        return _strings_of_one_width(column)
    if kinds.is_list(column.type) and column.type.value_type in _ITEMS:
        array = column.combine_chunks()
        lengths = array.value_lengths().to_numpy()
        if lengths[0] and (lengths == lengths[0]).all():
            kind, dtype = _ITEMS[column.type.value_type]
            items = _numbers(array.flatten()).astype(dtype).reshape(len(array), lengths[0])
            return kind, np.ascontiguousarray(items).view(np.uint8)
    return None


def column_values(feature: Any, column: pa.ChunkedArray, place: ColumnPlace) -> list[PackedValue]:
    """Return the n values of a column in its declared type, which may have nulls and any widths.

    Raises:
        StoreError: a map, struct, set or the like that Feast would store as another value.
    """
    target = arrow_type(feature.dtype)
    if target is None:
        return [pack_value(proto) for proto in _equal_protos(feature, column, place)]
    if target in _SCALARS:
        kind, dtype = _SCALARS[target]
        values = _numbers(column.fill_null(pa.scalar(0).cast(pa.int64()).cast(target))).astype(dtype)
        packed_values = [PackedValue(kind, value.tobytes()) for value in values]
        return [value if known else NO_VALUE for value, known in zip(packed_values, column.is_valid(), strict=True)]
    item = target.value_type if kinds.is_list(target) else None
    if item in _ITEMS:
        kind, dtype = _ITEMS[item]
        arrays = [None if row is None else _numbers(row).astype(dtype) for row in _list_rows(column)]
        return [NO_VALUE if row is None else PackedValue(kind, row.tobytes()) for row in arrays]
    rows = column.to_pylist()
    if kinds.is_string(target):
        return [NO_VALUE if row is None else PackedValue(packed.STRING, row.encode()) for row in rows]
    if item is None:
        return [NO_VALUE if row is None else pack_value(ValueProto(bytes_val=row)) for row in rows]
    field, list_type = _LISTS[item]
    return [NO_VALUE if row is None else pack_value(ValueProto(**{field: list_type(val=row)})) for row in rows]


def _list_rows(column: pa.ChunkedArray) -> list[pa.Array | None]:
    return [scalar.values for chunk in column.chunks for scalar in chunk]


def _numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return numbers without nulls; times as microseconds."""
    if kinds.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if isinstance(column, pa.ChunkedArray):
        return np.asarray(column.to_numpy())
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _strings_of_one_width(column: pa.ChunkedArray) -> FixedColumn | None:
    data = column.combine_chunks().cast(pa.binary())
    width = len(data[0].as_py())
    if not width or pc.min(pc.binary_length(data)).as_py() != width or pc.max(pc.binary_length(data)).as_py() != width:
        return None
    joined = b"".join(data.to_pylist())
    return packed.STRING, np.frombuffer(joined, np.uint8).reshape(len(data), width)


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1, 1).view(np.uint8)


def _equal_protos(feature: Any, column: pa.ChunkedArray, place: ColumnPlace) -> list[ValueProto | None]:
    """Convert values as Feast does, and refuse one that does not come back as it was."""
    value_type = feature.dtype.to_value_type()
    try:
        values = column.to_pylist(maps_as_pydicts="strict")
    except KeyError as error:
        raise place.refusal(f"a map has the key {error} twice; keep one of them") from error
    protos: list[ValueProto | None] = []
    for row, value in enumerate(values):
        proto = None
        if value is not None:
            try:
                [proto] = python_values_to_proto_values([value], value_type)
                is_equal = _is_equal(feast_value_type_to_python_type(proto), value)
            except Exception as error:  # Feast raises plain ones too
                raise place.refusal(f"Feast cannot store {value!r:.100} as {feature.dtype}: {error}", row) from error
            if not is_equal:
                raise place.refusal(
                    f"Feast would store {value!r:.100} as {feature.dtype} with another value; "
                    f"declare a type that holds it, or cast the column in the source",
                    row,
                )
        protos.append(proto)
    return protos


def _is_equal(stored: Any, value: Any) -> bool:
    """True if Feast's Python value is that of the source; ids and JSON are text there, sets are lists."""
    if isinstance(value, dict):
        same_keys = isinstance(stored, dict) and stored.keys() == value.keys()
        return same_keys and all(_is_equal(stored[key], item) for key, item in value.items())
    if isinstance(stored, (set, frozenset)):
        return isinstance(value, list) and stored == {type(next(iter(stored)))(item) for item in value}
    if isinstance(value, list):
        same_length = isinstance(stored, list) and len(stored) == len(value)
        return same_length and all(map(_is_equal, stored, value))
    if isinstance(value, float) and math.isnan(value):
        return isinstance(stored, float) and math.isnan(stored)
    if isinstance(value, str) and isinstance(stored, (UUID, Decimal)):
        return str(stored) == value.lower()
    if isinstance(value, str) and not isinstance(stored, str):
        return bool(stored == json.loads(value))
    return bool(stored == value) and isinstance(stored, bool) == isinstance(value, bool)
