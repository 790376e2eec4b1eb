"""Ids of entity rows in the type of the stored ids, so that equal means equal: no id is rounded on the way.

Text, bytes, UUIDs, numbers, dates and times are kinds of ids. Ids of one kind are compared by value, whatever their
width; ids of two kinds are refused, because 7 may stand for '7' or for '007'.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from girl_features.errors import DataError

_EXACT_BITS = {16: 11, 32: 24, 64: 53}  # width of a float -> bits of whole numbers, below which every one has its float
_NUMBERS = ("whole numbers", "floats", "decimals")
_ADVICE = {  # (kind in the entity rows, kind in the store) -> pandas code after `entity_df[...]`
    ("whole numbers", "text"): '.astype("string")',
    ("floats", "text"): '.astype("Int64").astype("string")',
    ("decimals", "text"): '.astype("int64[pyarrow]").astype("string")',
    ("bytes", "text"): '.astype(object).str.decode("utf-8")',
    ("UUIDs", "text"): '.astype("string")',
    ("text", "whole numbers"): '.astype("string").astype("Int64")',
    ("text", "bytes"): '.astype(object).str.encode("utf-8")',
    ("text", "UUIDs"): '.astype(object).map(uuid.UUID, na_action="ignore")',
}


class StoredIds(NamedTuple):
    """Type and place of the ids that entity rows are compared with."""

    type: pa.DataType
    place: str  # for messages


def kind_of(id_type: pa.DataType) -> str | None:
    """Return the kind of ids of this type; None for a type that no id has, such as lists."""
    types = pa.types
    kinds = {
        "text": types.is_string(id_type) or types.is_large_string(id_type) or types.is_string_view(id_type),
        "bytes": types.is_binary(id_type)
        or types.is_large_binary(id_type)
        or types.is_binary_view(id_type)
        or types.is_fixed_size_binary(id_type),
        "UUIDs": id_type == pa.uuid(),
        "whole numbers": types.is_integer(id_type),
        "floats": types.is_floating(id_type),
        "decimals": types.is_decimal(id_type) and id_type.bit_width <= 128,  # DuckDB reads wider ones as floats
        "booleans": types.is_boolean(id_type),
        "dates": types.is_date(id_type),
        "times": types.is_timestamp(id_type),
        "nothing": types.is_null(id_type),
    }
    return next((kind for kind, is_of_kind in kinds.items() if is_of_kind), None)


def plain_type(id_type: pa.DataType) -> pa.DataType:
    """Return the type of the values of a dictionary, and any other type as it is."""
    return plain_type(id_type.value_type) if pa.types.is_dictionary(id_type) else id_type


def as_stored_ids(ids: pa.ChunkedArray, stored: StoredIds, column: str) -> pa.ChunkedArray:
    """Return the ids of the entity rows' `column` in the stored type, null where they can equal no stored id.

    Raises:
        DataError: the ids are of another kind than the stored ones, or cannot be compared exactly.
    """
    found = ids.type
    ids = ids.cast(plain_type(found))
    if pa.types.is_floating(ids.type):
        ids = pc.if_else(pc.is_nan(ids), None, ids)
    kind, stored_kind = kind_of(ids.type), kind_of(stored.type)
    if ids.null_count == len(ids) or stored_kind == "nothing":
        return pa.chunked_array([pa.nulls(len(ids), stored.type)])
    both = f"column {column!r} of the entity rows is {found}, and the ids in {stored.place} are {stored.type}"
    if kind == "floats":
        ids = whole_floats(ids, both, column)
    if kind in _NUMBERS and stored_kind in _NUMBERS:
        return _numbers(ids, stored.type, both)
    if kind is None or kind != stored_kind:
        advice = _ADVICE.get((kind or "", stored_kind or ""))
        code = f"convert them: `entity_df[{column!r}]{advice}`" if advice else "give the ids as the store holds them"
        raise DataError(f"{both}; ids of different kinds are not compared: {code}")
    try:
        return ids.cast(stored.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{both}; they cannot be compared exactly ({error}); convert them to {stored.type}") from error


def whole_texts(ids: pa.ChunkedArray, column: str, place: str = "the entity rows") -> pa.ChunkedArray:
    """Return the digits of whole numbers, whole floats and whole decimals as text, and ids of other kinds as they are.

    Raises:
        DataError: a fraction, or a float that stands for several whole numbers; names the `column` of `place`.
    """
    plain = ids.cast(plain_type(ids.type))
    kind, found = kind_of(plain.type), f"column {column!r} of {place} is {ids.type}"
    if kind not in _NUMBERS:
        return ids
    if kind == "floats":
        plain = whole_floats(pc.if_else(pc.is_nan(plain), None, plain), found, column)
    if kind == "decimals":
        try:
            plain = plain.cast(pa.decimal128(38, 0))
        except pa.ArrowInvalid as error:
            raise DataError(f"{found} and holds fractions ({error}); ids should be text or whole numbers") from error
    return plain.cast(pa.string())


def _numbers(ids: pa.ChunkedArray, stored: pa.DataType, both: str) -> pa.ChunkedArray:
    """Return whole numbers or decimals in the stored type, null where they are outside its range."""
    try:
        if pa.types.is_decimal(ids.type) and not pa.types.is_decimal(stored):
            ids = ids.cast(pa.uint64() if stored == pa.uint64() else pa.int64())
        if pa.types.is_integer(stored):
            return _fitting(ids, stored).cast(stored)
        if pa.types.is_floating(stored):
            limit = 1 << _EXACT_BITS[stored.bit_width]
            if not _is_below(ids, limit):
                raise DataError(f"{both}, which are exact below {limit} only; write the stored ids as int64")
            return ids.cast(stored)
        return ids.cast(pa.decimal128(38, stored.scale)).cast(stored)
    except pa.ArrowInvalid as error:
        raise DataError(f"{both}; an id is not exact in that type ({error}); give whole numbers that fit") from error


def whole_floats(ids: pa.ChunkedArray, found: str, column: str) -> pa.ChunkedArray:
    """Return floats as int64.

    Raises:
        DataError: a fraction, or a float that stands for several whole numbers. Its message begins with `found`.
    """
    limit = 1 << _EXACT_BITS[ids.type.bit_width]
    values = ids.cast(pa.float64())
    is_bad = pc.or_(pc.greater_equal(pc.abs(values), limit), pc.not_equal(pc.trunc(values), values))
    row = pc.index(is_bad, True).as_py()
    if row < 0:
        return values.cast(pa.int64())
    types = {column: "Int64"}
    raise DataError(
        f"{found}; row {row} holds {values[row].as_py()!r}, which is not a whole number below {limit}, so the id "
        f"that it was is not known: keep ids whole from the start, as in `pd.read_csv(..., dtype={types})`"
    )


def _fitting(ids: pa.ChunkedArray, stored: pa.DataType) -> pa.ChunkedArray:
    """Return whole numbers, null where they are outside the range of the `stored` type."""
    (low, high), (least, most) = _range(ids.type), _range(stored)
    if least <= low and high <= most:
        return ids
    fits = pc.and_(
        pc.greater_equal(ids, pa.scalar(max(low, least), ids.type)),
        pc.less_equal(ids, pa.scalar(min(high, most), ids.type)),
    )
    return pc.if_else(fits, ids, None)


def _range(integer: pa.DataType) -> tuple[int, int]:
    if pa.types.is_signed_integer(integer):
        return -(1 << (integer.bit_width - 1)), (1 << (integer.bit_width - 1)) - 1
    return 0, (1 << integer.bit_width) - 1


def _is_below(ids: pa.ChunkedArray, limit: int) -> bool:
    least, most = pc.min_max(ids).as_py().values()
    return least is None or (-limit < least and most < limit)
