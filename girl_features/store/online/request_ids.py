"""Ids of an online request in the type of the stored ids. Feast would turn 5.7 into 5, and 5.0 into the text '5.0'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
from feast.value_type import ValueType

from girl_features.errors import DataError

_EXACT = 1 << 53  # below it, every whole number has its own float
_RANGES = {ValueType.INT32: 1 << 31, ValueType.INT64: 1 << 63}


def request_ids(join_key: str, values: Sequence[Any], value_type: ValueType) -> list[Any]:
    """Return the ids of a request as strings or ints, as the entity wants them; ids of other entities as they are.

    A whole number is written as text without leading zeros, and read from such a text. A UUID becomes its usual text.

    Raises:
        DataError: an id that is missing, that is not exactly one stored id, or of a type that no id has.
    """
    if value_type == ValueType.STRING:
        return [_text(join_key, value) for value in values]
    if value_type in _RANGES:
        return [_whole_number(join_key, value, value_type) for value in values]
    return list(values)


def _text(join_key: str, value: Any) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _refused(join_key, value, "valid Unicode, as all text in the store is") from error
        return str(value)
    if isinstance(value, (int, np.integer, UUID)) and not isinstance(value, bool):
        return str(value)
    raise _refused(join_key, value, "strings; convert them, and take care that 5.0 becomes '5'")


def _whole_number(join_key: str, value: Any, value_type: ValueType) -> int:
    number = None
    is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if is_int or (isinstance(value, (float, np.floating)) and abs(float(value)) < _EXACT and value == int(value)):
        number = int(value)
    elif isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) < 30:
        number = int(value) if str(int(value)) == value else None
    if number is None or not -_RANGES[value_type] <= number < _RANGES[value_type]:
        raise _refused(join_key, value, f"whole numbers ({value_type.name}); convert them with int()")
    return number


def _refused(join_key: str, value: Any, wanted: str) -> DataError:
    return DataError(f"an id in {join_key!r} is {str(value)[:80]!r} of type {type(value).__name__}; wanted {wanted}")
