"""Feast rows and Arrow batches to packed rows, with a check of every vector on the way in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

from girl_features.errors import InvalidVectorError
from girl_features.store.online import packed
from girl_features.store.online.keys import id_keys
from girl_features.store.online.packed import Item, check_codes, item_of, pack, pack_rows
from girl_features.store.parts.rows import check_vectors, vectors_of

N_IDS_NAMED = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FeastRow = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]

# Feast type -> (Arrow type a column may have, kind in the bytes, type of the bytes)
_FIXED: dict[Any, tuple[Any, int, str]] = {
    Int64: (pa.types.is_int64, packed.INT64, "<i8"),
    Int32: (pa.types.is_int32, packed.INT32, "<i4"),
    Float64: (pa.types.is_float64, packed.DOUBLE, "<f8"),
    Float32: (pa.types.is_float32, packed.FLOAT, "<f4"),
    Bool: (pa.types.is_boolean, packed.BOOL, "?"),
}


class PackedRow(NamedTuple):
    """One row on its way into an online store."""

    key: bytes
    event: int  # microseconds since 1970
    created: int | None
    data: bytes


class PartialRow(NamedTuple):
    """A row that has only some of its view's features."""

    key: bytes
    event: int
    created: int | None
    items: dict[str, Item]

    def whole(self, before: bytes | None, names: Sequence[str]) -> PackedRow:
        """With what the row it replaces had for the other features."""
        old = packed.items_of(before) if before is not None else {}
        null = Item(packed.NULL, b"")
        items = {name: self.items.get(name) or old.get(packed.name_code(name), null) for name in names}
        return PackedRow(self.key, self.event, self.created, pack(self.event, self.created, items))


def from_feast(
    view: FeatureView, rows: Sequence[FeastRow], key_version: int
) -> tuple[list[PackedRow], list[PartialRow]]:
    """Rows as Feast hands them to an online store, whole ones and partial ones apart.

    Raises:
        InvalidVectorError: NaN, infinite, all-zero or wrong-dimension vectors; names the ids.
    """
    names = [feature.name for feature in view.features]
    check_codes(names)
    whole, partial = [], []
    bad: list[str] = []
    lengths = {feature.name: feature.vector_length for feature in view.features if _is_vector(feature)}
    for key, values, event_time, created_time in rows:
        items = {name: item_of(value) for name, value in values.items() if name in names}
        for name, length in lengths.items():
            item = items.get(name)
            if item is not None and item.kind != packed.NULL and (wrong := _fault(item, length)):
                bad.append(f"{_named_key(key)} ({name!r}: {wrong})")
        id_bytes = serialize_entity_key(key, entity_key_serialization_version=key_version)
        event = microseconds(event_time)
        created = None if created_time is None else microseconds(created_time)
        if len(items) < len(names):
            partial.append(PartialRow(id_bytes, event, created, items))
        else:
            data = pack(event, created, {name: items[name] for name in names})
            whole.append(PackedRow(id_bytes, event, created, data))
    if bad:
        more = f" and {len(bad) - N_IDS_NAMED} more" if len(bad) > N_IDS_NAMED else ""
        raise InvalidVectorError(
            f"{len(bad)} vectors for the online view {view.name!r} are refused: {', '.join(bad[:N_IDS_NAMED])}{more}; "
            f"nothing of this batch was written"
        )
    return whole, partial


def from_arrow(
    view: FeatureView, batch: pa.RecordBatch, timestamp: str, created: str | None, key_version: int
) -> list[PackedRow]:
    """An Arrow batch with the view's own column names as packed rows.

    Raises:
        InvalidVectorError: NaN, infinite, all-zero or wrong-dimension vectors; names the ids.
    """
    table = pa.table(batch)
    names = [feature.name for feature in view.features]
    check_codes(names)
    keys = id_keys(view, table, key_version)
    event = _microseconds_of(table[timestamp])
    created_times = None
    if created is not None and not table[created].null_count:
        created_times = _microseconds_of(table[created])
    columns = {feature.name: _fixed(feature, table[feature.name], table, view) for feature in view.features}
    if table.num_rows and (created is None or created_times is not None) and all(columns.values()):
        fixed = {name: column for name, column in columns.items() if column is not None}
        data = pack_rows(event, created_times, fixed)
    else:
        own = table[created].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist() if created else None
        data = _one_by_one(view, table, columns, event, own)
    moments = created_times.tolist() if created_times is not None else _created(table, created)
    return [PackedRow(*row) for row in zip(keys, event.tolist(), moments, data, strict=True)]


def microseconds(time: datetime) -> int:
    """Since 1970; a time without a zone is UTC, as Feast says."""
    since = (time.replace(tzinfo=UTC) if time.tzinfo is None else time) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _created(table: pa.Table, created: str | None) -> list[int | None]:
    if created is None:
        return [None] * table.num_rows
    return list(table[created].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist())


def _one_by_one(
    view: FeatureView,
    table: pa.Table,
    columns: dict[str, tuple[int, np.ndarray] | None],
    event: np.ndarray,
    created: list[int | None] | None,
) -> list[bytes]:
    items: dict[str, list[Item]] = {}
    for feature in view.features:
        column = columns[feature.name]
        if column is not None:
            kind, data = column
            items[feature.name] = [Item(kind, row.tobytes()) for row in data]
        else:
            values = table[feature.name].to_pylist()
            protos = python_values_to_proto_values(values, feature.dtype.to_value_type())
            nulls = [value is None for value in values]
            items[feature.name] = [
                Item(packed.NULL, b"") if null else item_of(proto) for null, proto in zip(nulls, protos, strict=True)
            ]
    return [
        pack(when, created[i] if created else None, {name: own[i] for name, own in items.items()})
        for i, when in enumerate(event.tolist())
    ]


def _fixed(feature: Any, column: pa.ChunkedArray, table: pa.Table, view: FeatureView) -> tuple[int, np.ndarray] | None:
    """Kind and (n, width) bytes of a column whose values all have one width; None for any other."""
    if _is_vector(feature):
        ids = table[view.join_keys[0]]
        present = column.is_valid()
        check_vectors(column.drop_null(), feature.vector_length, ids.filter(present), feature.name)
    if column.null_count or not len(column):
        return None
    if feature.dtype == Array(Float32):
        return _vector_bytes(column)
    if feature.dtype == UnixTimestamp and pa.types.is_timestamp(column.type):
        seconds = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_numpy() // 1_000_000
        return packed.SECONDS, _bytes_of(seconds.astype("<i8"))
    if feature.dtype == String and pa.types.is_string(column.type):
        return _string_bytes(column)
    if feature.dtype in _FIXED:
        fits, kind, dtype = _FIXED[feature.dtype]
        if fits(column.type):
            return kind, _bytes_of(column.to_numpy().astype(dtype))
    return None


def _vector_bytes(column: pa.ChunkedArray) -> tuple[int, np.ndarray] | None:
    array = column.combine_chunks()
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        return None
    lengths = array.value_lengths().to_numpy()
    if not lengths[0] or not (lengths == lengths[0]).all() or array.flatten().null_count:
        return None
    vectors = vectors_of(column, int(lengths[0]))
    return packed.VECTOR, np.ascontiguousarray(vectors, "<f4").view(np.uint8)


def _string_bytes(column: pa.ChunkedArray) -> tuple[int, np.ndarray] | None:
    data = column.combine_chunks().cast(pa.binary())
    width = len(data[0].as_py())
    if not width or pc.min(pc.binary_length(data)).as_py() != width or pc.max(pc.binary_length(data)).as_py() != width:
        return None
    joined = b"".join(data.to_pylist())
    return packed.STRING, np.frombuffer(joined, np.uint8).reshape(len(data), width)


def _bytes_of(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1, 1).view(np.uint8)


def _microseconds_of(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy())


def _is_vector(feature: Any) -> bool:
    """Fields that say their length are vectors; other lists of floats may be anything."""
    return bool(feature.vector_length) and feature.dtype == Array(Float32)


def _fault(item: Item, length: int) -> str | None:
    if item.kind != packed.VECTOR:
        return "not a list of floats"
    vector = np.frombuffer(item.data, "<f4")
    if len(vector) != length:
        return f"dimension {len(vector)}, wanted {length}"
    if not np.isfinite(vector).all():
        return "NaN or infinite"
    return None if vector.any() else "all zero"


def _named_key(key: EntityKeyProto) -> str:
    values = [getattr(value, value.WhichOneof("val") or "string_val") for value in key.entity_values]
    return repr(values[0]) if len(values) == 1 else repr(tuple(values))
