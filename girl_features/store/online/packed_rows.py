"""Turn Feast rows and Arrow batches into packed rows, and check every vector."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.types import Array, Float32, Float64

from girl_features.errors import InvalidVectorError
from girl_features.store.feast_sources import as_utc
from girl_features.store.feature_types import ColumnPlace, event_times, in_view_types
from girl_features.store.online import packed
from girl_features.store.online.packed import (
    EPOCH,
    NO_VALUE,
    PackedValue,
    check_codes,
    id_keys,
    pack,
    pack_rows,
    pack_value,
)
from girl_features.store.online.packed_columns import FixedColumn, column_values, fixed_column
from girl_features.store.parts.rows import N_IDS_NAMED, check_vectors

FeastRow = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]


class PackedRow(NamedTuple):
    """One row to be written to an online store."""

    key: bytes
    event: int  # microseconds since 1970
    created: int | None  # microseconds since 1970
    data: bytes


class PartialRow(NamedTuple):
    """A row that has only some of its view's features."""

    key: bytes
    event: int  # microseconds since 1970
    created: int | None  # microseconds since 1970
    values: dict[str, PackedValue]

    def completed(self, before: bytes | None, names: Sequence[str]) -> PackedRow:
        """Return a row of the features `names`, with the missing ones taken from the row that it replaces."""
        old_values = packed.values_in_row(before) if before is not None else {}
        values = {name: self.values.get(name) or old_values.get(packed.name_code(name), NO_VALUE) for name in names}
        return PackedRow(self.key, self.event, self.created, pack(self.event, self.created, values))


def from_feast(
    view: FeatureView, rows: Sequence[FeastRow], key_version: int
) -> tuple[list[PackedRow], list[PartialRow]]:
    """Turn rows in Feast's form into rows with all features of the view, and rows with some of them; check vectors."""
    names = [feature.name for feature in view.features]
    check_codes(names)
    complete, partial = [], []
    bad: list[str] = []
    lengths = {feature.name: feature.vector_length for feature in view.features if _is_vector(feature)}
    for key, feast_values, event_time, created_time in rows:
        values = {name: pack_value(value) for name, value in feast_values.items() if name in names}
        for name, length in lengths.items():
            if name in feast_values and (fault := _vector_fault(feast_values[name], length)):
                bad.append(f"{_named_key(key)} ({name!r}: {fault})")
        key_bytes = serialize_entity_key(key, entity_key_serialization_version=key_version)
        event = microseconds(event_time)
        created = None if created_time is None else microseconds(created_time)
        if len(values) < len(names):
            partial.append(PartialRow(key_bytes, event, created, values))
        else:
            data = pack(event, created, {name: values[name] for name in names})
            complete.append(PackedRow(key_bytes, event, created, data))
    if bad:
        more = f" and {len(bad) - N_IDS_NAMED} more" if len(bad) > N_IDS_NAMED else ""
        raise InvalidVectorError(
            f"{len(bad)} vectors for the online view {view.name!r} are refused: {', '.join(bad[:N_IDS_NAMED])}{more}; "
            f"nothing of this batch was written"
        )
    return complete, partial


def from_arrow(
    view: FeatureView, batch: pa.RecordBatch, timestamp: str, created: str | None, key_version: int
) -> list[PackedRow]:
    """Turn an Arrow batch under the view's own column names into packed rows; check vectors."""
    check_codes([feature.name for feature in view.features])
    table = in_view_types(view, pa.table(batch))
    keys = id_keys(view, table, key_version)
    _check_vectors(view, table)
    event = event_times(table, view.name, timestamp).to_numpy()
    created_column = None if created is None else event_times(table, view.name, created, may_miss=True)
    created_list = [None] * table.num_rows if created_column is None else created_column.to_pylist()
    columns = {feature.name: fixed_column(feature, table[feature.name]) for feature in view.features}
    fixed = {name: column for name, column in columns.items() if column is not None}
    has_created = created_column is None or not created_column.null_count  # in every row or in none
    if table.num_rows and has_created and len(fixed) == len(columns):
        data = pack_rows(event, None if created_column is None else created_column.to_numpy(), fixed)
    else:
        data = _pack_one_by_one(view, table, fixed, event, created_list)
    return [PackedRow(*row) for row in zip(keys, event.tolist(), created_list, data, strict=True)]


def microseconds(time: datetime) -> int:
    """Return microseconds since 1970; a time without a zone is UTC, as in Feast."""
    since = as_utc(time) - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _pack_one_by_one(
    view: FeatureView,
    table: pa.Table,
    fixed: dict[str, FixedColumn],
    event: np.ndarray,
    created: Sequence[int | None],
) -> list[bytes]:
    """Pack rows that `pack_rows` cannot; `fixed` are the columns that `fixed_column` could turn into bytes."""
    columns: dict[str, list[PackedValue]] = {}
    for feature in view.features:
        if feature.name in fixed:
            kind, data = fixed[feature.name]
            columns[feature.name] = [PackedValue(kind, row.tobytes()) for row in data]
        else:
            place = ColumnPlace(view.name, feature.name, table[view.join_keys[0]])
            columns[feature.name] = column_values(feature, table[feature.name], place)
    return [
        pack(event_time, created[i], {name: column[i] for name, column in columns.items()})
        for i, event_time in enumerate(event.tolist())
    ]


def _check_vectors(view: FeatureView, table: pa.Table) -> None:
    for feature in view.features:
        if _is_vector(feature):
            column, ids = table[feature.name], table[view.join_keys[0]]
            if column.null_count:
                column, ids = column.drop_null(), ids.filter(column.is_valid())
            check_vectors(column, feature.vector_length, ids, feature.name)


def _is_vector(feature: Any) -> bool:
    """True for lists of floats with a `vector_length`; other lists may have any values."""
    return bool(feature.vector_length) and feature.dtype in (Array(Float32), Array(Float64))


def _vector_fault(value: ValueProto, length: int) -> str | None:
    """Describe the fault of a vector that should have `length` floats; None if it has none, or is no value."""
    which = value.WhichOneof("val")
    if which in (None, "null_val"):
        return None
    if which not in ("float_list_val", "double_list_val"):
        return "not a list of floats"
    vector = np.array(getattr(value, which).val, "<f4")
    if len(vector) != length:
        return f"dimension {len(vector)}, wanted {length}"
    if not np.isfinite(vector).all():
        return "NaN or infinite"
    return None if vector.any() else "all zero"


def _named_key(key: EntityKeyProto) -> str:
    values = [getattr(value, value.WhichOneof("val") or "string_val") for value in key.entity_values]
    return repr(values[0]) if len(values) == 1 else repr(tuple(values))
