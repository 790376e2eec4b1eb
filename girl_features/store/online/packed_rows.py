"""Turn Feast rows and Arrow batches into packed rows, and check every vector."""

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
from girl_features.store.feast_sources import as_utc
from girl_features.store.online import packed
from girl_features.store.online.packed import PackedValue, check_codes, id_keys, pack, pack_rows, pack_value
from girl_features.store.parts.rows import N_IDS_NAMED, check_vectors, vectors_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NULL = PackedValue(packed.NULL, b"")

FeastRow = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]

FixedColumn = tuple[int, np.ndarray]  # kind and (n, width) uint8 bytes of n values
# Feast type -> (check of the Arrow type, kind in the bytes, NumPy type)
_FIXED: dict[Any, tuple[Any, int, str]] = {
    Int64: (pa.types.is_int64, packed.INT64, "<i8"),
    Int32: (pa.types.is_int32, packed.INT32, "<i4"),
    Float64: (pa.types.is_float64, packed.DOUBLE, "<f8"),
    Float32: (pa.types.is_float32, packed.FLOAT, "<f4"),
    Bool: (pa.types.is_boolean, packed.BOOL, "?"),
}


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
        values = {name: self.values.get(name) or old_values.get(packed.name_code(name), _NULL) for name in names}
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
            vector = values.get(name, _NULL)
            if vector.kind != packed.NULL and (fault := _vector_fault(vector, length)):
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
    table = pa.table(batch)
    check_codes([feature.name for feature in view.features])
    keys = id_keys(view, table, key_version)
    event = _microsecond_column(table[timestamp]).to_numpy()
    created_column = _microsecond_column(table[created]) if created is not None else None
    created_list = [None] * table.num_rows if created_column is None else created_column.to_pylist()
    columns = {feature.name: _fixed_width(feature, table, view) for feature in view.features}
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
    view: FeatureView, table: pa.Table, fixed: dict[str, FixedColumn], event: np.ndarray, created: list[int | None]
) -> list[bytes]:
    """Pack rows that `pack_rows` cannot; `fixed` are the columns that `_fixed_width` could turn into bytes."""
    columns: dict[str, list[PackedValue]] = {}
    for feature in view.features:
        if feature.name in fixed:
            kind, data = fixed[feature.name]
            columns[feature.name] = [PackedValue(kind, row.tobytes()) for row in data]
        else:
            values = table[feature.name].to_pylist()
            protos = python_values_to_proto_values(values, feature.dtype.to_value_type())
            columns[feature.name] = [
                _NULL if value is None else pack_value(proto) for value, proto in zip(values, protos, strict=True)
            ]
    return [
        pack(event_time, created[i], {name: column[i] for name, column in columns.items()})
        for i, event_time in enumerate(event.tolist())
    ]


def _fixed_width(feature: Any, table: pa.Table, view: FeatureView) -> FixedColumn | None:
    """Return the bytes of a column with one width and no nulls, else None; check vectors."""
    column = table[feature.name]
    if _is_vector(feature):
        ids = table[view.join_keys[0]]
        check_vectors(column.drop_null(), feature.vector_length, ids.filter(column.is_valid()), feature.name)
    if column.null_count or not len(column):
        return None
    if feature.dtype == Array(Float32):
        return _vector_bytes(column)
    if feature.dtype == UnixTimestamp and pa.types.is_timestamp(column.type):
        seconds = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_numpy() // 1_000_000
        return packed.SECONDS, _as_bytes(seconds.astype("<i8"))
    if feature.dtype == String and pa.types.is_string(column.type):
        return _string_bytes(column)
    if feature.dtype in _FIXED:
        fits, kind, dtype = _FIXED[feature.dtype]
        if fits(column.type):
            return kind, _as_bytes(column.to_numpy().astype(dtype))
    return None


def _vector_bytes(column: pa.ChunkedArray) -> FixedColumn | None:
    array = column.combine_chunks()
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        return None
    lengths = array.value_lengths().to_numpy()
    if not lengths[0] or not (lengths == lengths[0]).all() or array.flatten().null_count:
        return None
    vectors = vectors_of(column, int(lengths[0]))
    return packed.VECTOR, np.ascontiguousarray(vectors, "<f4").view(np.uint8)


def _string_bytes(column: pa.ChunkedArray) -> FixedColumn | None:
    data = column.combine_chunks().cast(pa.binary())
    width = len(data[0].as_py())
    if not width or pc.min(pc.binary_length(data)).as_py() != width or pc.max(pc.binary_length(data)).as_py() != width:
        return None
    joined = b"".join(data.to_pylist())
    return packed.STRING, np.frombuffer(joined, np.uint8).reshape(len(data), width)


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1, 1).view(np.uint8)


def _microsecond_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return times as int64 microseconds since 1970."""
    return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())


def _is_vector(feature: Any) -> bool:
    """True for float32 lists with a `vector_length`; other lists may have any values."""
    return bool(feature.vector_length) and feature.dtype == Array(Float32)


def _vector_fault(value: PackedValue, length: int) -> str | None:
    """Describe the fault of a vector that should have `length` floats; None if it has none."""
    if value.kind != packed.VECTOR:
        return "not a list of floats"
    vector = np.frombuffer(value.data, "<f4")
    if len(vector) != length:
        return f"dimension {len(vector)}, wanted {length}"
    if not np.isfinite(vector).all():
        return "NaN or infinite"
    return None if vector.any() else "all zero"


def _named_key(key: EntityKeyProto) -> str:
    values = [getattr(value, value.WhichOneof("val") or "string_val") for value in key.entity_values]
    return repr(values[0]) if len(values) == 1 else repr(tuple(values))
