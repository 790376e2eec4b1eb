"""Exact conversion of ids to the type that a Feast entity declares: text '5' and integer 5 name one entity or none."""

from __future__ import annotations

import numbers
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.value_type import ValueType

from girl_features.errors import DataError

INTEGER_BITS = {ValueType.INT64: 64, ValueType.INT32: 32}
KEY_TYPES = (ValueType.STRING, *INTEGER_BITS, ValueType.BYTES, ValueType.UNIX_TIMESTAMP)  # that Feast can serialize


def exact_ids(label: str, ids: Sequence[Any], value_type: ValueType) -> list[Any]:
    """Return `ids` as the strings or integers that an entity of `value_type` has. Errors call the id column `label`.

    An integer becomes the text of its digits, and such a text the integer. A float is an integer if it is whole and
    below 2**53. An entity of type BYTES has bytes, and one of type UNIX_TIMESTAMP whole seconds.

    Raises:
        DataError: an id that is missing or that no id of this type equals, or a type that cannot be an id.
    """
    if value_type not in KEY_TYPES:
        raise DataError(
            f"the id column {label} is of type {value_type.name}, which cannot be the key of an online row; "
            f"declare the entity as STRING or INT64"
        )
    convert: Callable[[Any], Any] = _CONVERSIONS.get(value_type, _as_integer)
    result = []
    for row, value in enumerate(ids):
        found = value if isinstance(value, ValueProto) else convert(value)
        if found is None or not _fits(found, value_type):
            raise DataError(
                f"row {row}: the id {_shown(value)} of {label} cannot be one of the entity's {value_type.name} ids; "
                f"correct it or leave the row out"
            )
        result.append(found)
    return result


def possible_ids(ids: Sequence[str], value_type: ValueType) -> list[Any]:
    """Return text `ids` as ids of `value_type`, None for one that cannot be of this type and so names no entity."""
    found = map(_as_integer if value_type in INTEGER_BITS else _as_text, ids)
    return [value if value is not None and _fits(value, value_type) else None for value in found]


def _as_integer(value: Any) -> int | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, str):
        is_plain = value.isascii() and value.removeprefix("-").isdecimal() and len(value) <= 20
        return int(value) if is_plain and str(int(value)) == value else None  # '05' and '5' are two ids
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else None
    if isinstance(value, numbers.Real):
        number = float(value)
        return int(number) if abs(number) < 2**53 and number.is_integer() else None  # NaN is not below anything
    return None


def _as_text(value: Any) -> str | None:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, (numbers.Integral, uuid.UUID)):
        return str(value)
    return None


def _as_bytes(value: Any) -> bytes | None:
    return value if isinstance(value, bytes) else None


def _as_seconds(value: Any) -> Any:
    if isinstance(value, datetime):
        return None if value.microsecond else value
    return _as_integer(value)


_CONVERSIONS: dict[ValueType, Callable[[Any], Any]] = {
    ValueType.STRING: _as_text,
    ValueType.BYTES: _as_bytes,
    ValueType.UNIX_TIMESTAMP: _as_seconds,
}


def _fits(value: Any, value_type: ValueType) -> bool:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # a lone surrogate
            return False
    if isinstance(value, int) and value_type in INTEGER_BITS:
        limit = 1 << (INTEGER_BITS[value_type] - 1)
        return -limit <= value < limit
    return True


def _shown(value: Any) -> str:
    text = repr(value).encode("utf-8", "backslashreplace").decode()
    return f"{text[:100]} ({type(value).__name__})"
