"""The bytes of one online row: float vectors as they are in memory, other values in few bytes.

    u8      format, 1
    u64 >   event time, microseconds since 1970 plus 2**63, so that the bytes sort as the times do
    u64 >   created time in the same form; 0 for none
    u16 <   number of features
    9 bytes each: u32 < CRC of the feature's name, u8 kind, u32 < length
    the values, one after the other

Most rows of one view differ in their times and values only; such rows are read as one array. The key of a row is that
of Feast's own online stores, made without a protobuf for each id.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import FloatList, Int64List
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.protos.feast.types.Value_pb2 import ValueType as ProtoType
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from girl_features.errors import StoreError
from girl_features.store.entity_ids import INTEGER_BITS, exact_ids

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FORMAT = 1
NULL, VECTOR, INT64, INT32, DOUBLE, FLOAT, BOOL, SECONDS, STRING, PROTO, MICROSECONDS, TIMES = range(12)
TIMES_END = 17  # bytes of the format and the two times
_ENTRY = struct.Struct("<IBI")
_KIND_AND_LENGTH = struct.Struct("<II")  # of an id in a key
_HEAD_END = TIMES_END + 2
_OFFSET = 1 << 63
_MOST_SECONDS = (1 << 63) // 1_000_000
_SIGN = np.int64(-(1 << 63))

_SCALARS: dict[int, tuple[str, np.dtype[Any]]] = {  # kind -> field of Feast's Value, type in the bytes
    INT64: ("int64_val", np.dtype("<i8")),
    INT32: ("int32_val", np.dtype("<i4")),
    DOUBLE: ("double_val", np.dtype("<f8")),
    FLOAT: ("float_val", np.dtype("<f4")),
    BOOL: ("bool_val", np.dtype("?")),
    SECONDS: ("unix_timestamp_val", np.dtype("<i8")),
}
_DTYPES = {
    **{kind: dtype for kind, (_, dtype) in _SCALARS.items()},
    VECTOR: np.dtype("<f4"),
    MICROSECONDS: np.dtype("<i8"),
    TIMES: np.dtype("<i8"),
}
PLAIN_KINDS = (VECTOR, INT64, INT32, DOUBLE, FLOAT, BOOL)  # whose values Feast gives out as numbers and lists
# code of a feature's name -> kind, first byte, byte after the last
_Layout = dict[int, tuple[int, int, int]]
_ABSENT = (NULL, 0, 0)
_KIND_OF = {field: kind for kind, (field, _) in _SCALARS.items()}


class PackedValue(NamedTuple):
    """One value of one feature in bytes."""

    kind: int
    data: bytes


NO_VALUE = PackedValue(NULL, b"")


class ValueGroup(NamedTuple):
    """Values of one feature in some of the rows, all of one kind."""

    rows: np.ndarray  # (m,) int64
    kind: int
    # (m, d) float32 for VECTOR and int64 for TIMES, (m,) for scalars, (m,) object of bytes for STRING and PROTO
    values: np.ndarray


class UnpackedRows(NamedTuple):
    """Features of n keys, as they were read."""

    n: int
    event_times: np.ndarray  # (n,) int64, microseconds since 1970; 0 for a key without a row
    is_found: np.ndarray  # (n,) bool: the key has a row
    groups: dict[str, list[ValueGroup]]  # by feature
    expired: np.ndarray | None = None  # (n,) bool: the row is past the view's time to live; None if no row can be


def name_code(name: str) -> int:
    """Return the number that identifies a feature's name in a row."""
    return zlib.crc32(name.encode())


def check_codes(names: Sequence[str]) -> None:
    """Raise StoreError if two features of a view have the same code."""
    by_code: dict[int, str] = {}
    for name in names:
        other = by_code.setdefault(name_code(name), name)
        if other != name:
            raise StoreError(f"the features {other!r} and {name!r} have one code in the online store; rename one")


def pack_value(value: ValueProto | None) -> PackedValue:
    """Return a Feast value in bytes."""
    which = None if value is None else value.WhichOneof("val")
    if value is None or which is None or which == "null_val":
        return NO_VALUE
    if which == "float_list_val":
        return PackedValue(VECTOR, np.array(value.float_list_val.val, "<f4").tobytes())
    if which == "string_val":
        return PackedValue(STRING, value.string_val.encode())
    if which == "unix_timestamp_val" and abs(value.unix_timestamp_val) < _MOST_SECONDS:
        return PackedValue(MICROSECONDS, struct.pack("<q", value.unix_timestamp_val * 1_000_000))
    if which in _KIND_OF:
        kind = _KIND_OF[which]
        return PackedValue(kind, np.array(getattr(value, which), _SCALARS[kind][1]).tobytes())
    return PackedValue(PROTO, value.SerializeToString())


def pack(event: int, created: int | None, values: dict[str, PackedValue]) -> bytes:
    """Return the bytes of one row, with times in microseconds since 1970 and the values by feature."""
    entries = [_ENTRY.pack(name_code(name), value.kind, len(value.data)) for name, value in values.items()]
    times = struct.pack(">QQ", event + _OFFSET, 0 if created is None else created + _OFFSET)
    data = [value.data for value in values.values()]
    return b"".join([bytes([FORMAT]), times, struct.pack("<H", len(values)), *entries, *data])


def pack_rows(event: np.ndarray, created: np.ndarray | None, columns: dict[str, tuple[int, np.ndarray]]) -> list[bytes]:
    """Return the bytes of n rows in which each feature has values of one kind and width.

    Args:
        event: (n,) int64 event times, microseconds since 1970.
        created: (n,) int64 created times, or None.
        columns: kind and (n, width) uint8 bytes of the values, by feature.
    """
    n = len(event)
    entries = [_ENTRY.pack(name_code(name), kind, values.shape[1]) for name, (kind, values) in columns.items()]
    directory = np.frombuffer(struct.pack("<H", len(columns)) + b"".join(entries), np.uint8)
    times = np.zeros((n, 2), ">u8")
    times[:, 0] = event.astype(np.uint64) + np.uint64(_OFFSET)  # wraps around for times before 1970, as in `pack`
    if created is not None:
        times[:, 1] = created.astype(np.uint64) + np.uint64(_OFFSET)
    parts = [
        np.full((n, 1), FORMAT, np.uint8),
        times.view(np.uint8),
        np.broadcast_to(directory, (n, len(directory))),
        *(values for _, values in columns.values()),
    ]
    rows = np.concatenate(parts, axis=1)
    data, width = rows.tobytes(), rows.shape[1]
    return [data[start : start + width] for start in range(0, n * width, width)]


def values_in_row(row: bytes) -> dict[int, PackedValue]:
    """Return the values of one row by the code of their feature's name."""
    layout = _layout(_head(row))
    return {code: PackedValue(kind, row[start:stop]) for code, (kind, start, stop) in layout.items()}


def unpack_rows(rows: Sequence[bytes | None], names: Sequence[str]) -> UnpackedRows:
    """Return the features `names` of n packed rows; None stands for a key without a row."""
    n = len(rows)
    event_times = np.zeros(n, np.int64)
    is_found = np.zeros(n, bool)
    groups: dict[str, list[ValueGroup]] = {name: [] for name in names}
    for positions, table, layout in _rows_by_layout(rows):
        event_times[positions] = np.ascontiguousarray(table[:, 1:9]).view(">i8")[:, 0] ^ _SIGN
        is_found[positions] = True
        for name in names:
            kind, start, stop = layout.get(name_code(name), _ABSENT)
            if kind != NULL:
                groups[name].append(ValueGroup(positions, kind, _values(kind, table[:, start:stop])))
    return UnpackedRows(n, event_times, is_found, groups)


def to_value(kind: int, value: Any) -> ValueProto:
    """Return one element of a ValueGroup's values as Feast's protobuf, which has whole seconds for times."""
    if kind == MICROSECONDS:
        return ValueProto(unix_timestamp_val=value.item() // 1_000_000)
    if kind == TIMES:
        return ValueProto(unix_timestamp_list_val=Int64List(val=(value // 1_000_000).tolist()))
    if kind == VECTOR:
        return ValueProto(float_list_val=FloatList(val=value))
    if kind == STRING:
        return ValueProto(string_val=value.decode())
    if kind == PROTO:
        proto = ValueProto()
        proto.ParseFromString(value)
        return proto
    return ValueProto(**{_SCALARS[kind][0]: value.item()})


def _rows_by_layout(rows: Sequence[bytes | None]) -> Iterator[tuple[np.ndarray, np.ndarray, _Layout]]:
    """Yield groups of m rows whose values are at the same bytes: positions, (m, width) uint8 bytes, and layout."""
    positions = np.arange(len(rows))
    if None in rows:
        positions = np.array([i for i, row in enumerate(rows) if row is not None])
    present = [row for row in rows if row is not None]
    if not present:
        return
    head, width = _head(present[0]), len(present[0])
    if len(present) == 1 or {*map(len, present)} == {width}:
        table = np.frombuffer(b"".join(present), np.uint8).reshape(len(present), width)
        same = table[1:, TIMES_END : TIMES_END + len(head)] == table[0, TIMES_END : TIMES_END + len(head)]
        if len(present) == 1 or same.all():
            yield positions, table, _layout(head)
            return
    by_head: dict[bytes, list[int]] = {}
    for i, row in enumerate(present):
        by_head.setdefault(_head(row), []).append(i)
    for head, members in by_head.items():
        table = np.frombuffer(b"".join([present[i] for i in members]), np.uint8).reshape(len(members), -1)
        yield positions[members], table, _layout(head)


def _head(row: bytes) -> bytes:
    """Return the bytes of a row that say which values it has, of which kinds and lengths."""
    return row[TIMES_END : _HEAD_END + _ENTRY.size * _n_values(row)]


@lru_cache(1_000)
def _layout(head: bytes) -> _Layout:
    layout, position = {}, TIMES_END + len(head)
    for code, kind, length in _ENTRY.iter_unpack(head[2:]):
        layout[code] = (kind, position, position + length)
        position += length
    return layout


def _n_values(row: bytes) -> int:
    if len(row) < _HEAD_END or row[0] != FORMAT:
        raise StoreError(
            f"an online row of {len(row)} bytes is not of format {FORMAT}; it was written by another program: "
            f"empty the online store and publish again with `girl materialize`"
        )
    return row[TIMES_END] | row[TIMES_END + 1] << 8


def _values(kind: int, data: np.ndarray) -> np.ndarray:
    """Turn (m, width) uint8 bytes into the values of a ValueGroup."""
    if kind in (STRING, PROTO):
        values = np.empty(len(data), object)
        values[:] = [row.tobytes() for row in data]
        return values
    values = np.ascontiguousarray(data).view(_DTYPES[kind])
    return values if kind in (VECTOR, TIMES) else values[:, 0]


def single_keys(join_key: str, values: Sequence[Any], value_type: ValueType, key_version: int) -> list[bytes] | None:
    """Return the keys of entities with one string or integer id each; None if a value has another type or range."""
    prefix = _join_key_prefix(join_key, key_version)
    types = {*map(type, values)}
    try:
        if value_type == ValueType.STRING and types <= {str}:
            encoded = [value.encode() for value in values]
            kind = int(ProtoType.STRING)
            heads = {length: prefix + _KIND_AND_LENGTH.pack(kind, length) for length in {*map(len, encoded)}}
            return [heads[len(data)] + data for data in encoded]
        if value_type in INTEGER_BITS and types <= {int}:
            n_bytes = INTEGER_BITS[value_type] // 8
            head = prefix + _KIND_AND_LENGTH.pack(int(value_type.value), n_bytes)
            return [head + value.to_bytes(n_bytes, "little", signed=True) for value in values]
    except (OverflowError, UnicodeEncodeError):  # `exact_ids` names the value
        return None
    return None


def id_keys(view: FeatureView, table: pa.Table, key_version: int) -> list[bytes]:
    """Return the keys of the entities in an Arrow table, whose columns include the view's join keys.

    Raises:
        DataError: an id is missing, or cannot be of the type that the entity declares.
    """
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    values = {name: table[name].to_pylist() for name in view.join_keys}
    if len(view.join_keys) == 1:
        [name] = view.join_keys
        keys = single_keys(name, values[name], types[name], key_version)
        if keys is not None:
            return keys
    labels = {name: f"{name!r} of the view {view.name!r}" for name in view.join_keys}
    exact = {name: exact_ids(labels[name], values[name], types[name]) for name in view.join_keys}
    protos = [python_values_to_proto_values(exact[name], types[name]) for name in view.join_keys]
    return [
        serialize_entity_key(
            EntityKeyProto(join_keys=view.join_keys, entity_values=entity_values),
            entity_key_serialization_version=key_version,
        )
        for entity_values in zip(*protos, strict=True)
    ]


@lru_cache(1_000)
def _join_key_prefix(join_key: str, key_version: int) -> bytes:
    return bytes(serialize_entity_key_prefix([join_key], entity_key_serialization_version=key_version))
