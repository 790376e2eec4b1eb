"""The bytes of one online row: float vectors as they are in memory, the rest as small as they go.

    u8      format, 1
    u64 >   event time, microseconds since 1970, offset so that bytes compare as times do
    u64 >   created time likewise; 0 for none
    u16 <   number of features
    9 bytes each: u32 < CRC of the feature's name, u8 kind, u32 < length
    the values, one after the other

Rows of one view mostly agree in everything but the values; such rows are read as one array, not one by one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from feast.protos.feast.types.Value_pb2 import FloatList
from feast.protos.feast.types.Value_pb2 import Value as ValueProto

from girl_features.errors import StoreError

FORMAT = 1
NULL, VECTOR, INT64, INT32, DOUBLE, FLOAT, BOOL, SECONDS, STRING, PROTO = range(10)
TIMES_END = 17  # bytes of the format and the two times
_ENTRY = struct.Struct("<IBI")
_HEAD_END = TIMES_END + 2
_OFFSET = 1 << 63
_SIGN = np.int64(-(1 << 63))

_SCALARS: dict[int, tuple[str, np.dtype[Any]]] = {  # kind -> field of Feast's Value, type in the bytes
    INT64: ("int64_val", np.dtype("<i8")),
    INT32: ("int32_val", np.dtype("<i4")),
    DOUBLE: ("double_val", np.dtype("<f8")),
    FLOAT: ("float_val", np.dtype("<f4")),
    BOOL: ("bool_val", np.dtype("?")),
    SECONDS: ("unix_timestamp_val", np.dtype("<i8")),
}
_Layout = dict[int, tuple[int, int, int]]  # code of a feature's name -> kind, first byte, byte after the last
_ABSENT = (NULL, 0, 0)
_KIND_OF = {field: kind for kind, (field, _) in _SCALARS.items()}


class Item(NamedTuple):
    """One feature's value in bytes."""

    kind: int
    data: bytes


class Chunk(NamedTuple):
    """Values of one feature in some of the rows, all of one kind."""

    rows: np.ndarray  # (m,) int64
    kind: int
    values: np.ndarray  # (m, d) float32 for VECTOR, (m,) for scalars, (m,) object of bytes for STRING and PROTO


class Rows(NamedTuple):
    """What was found for n keys."""

    n: int
    event_times: np.ndarray  # (n,) int64, microseconds since 1970; 0 where nothing was found
    found: np.ndarray  # (n,) bool
    chunks: dict[str, list[Chunk]]


def name_code(name: str) -> int:
    """What stands for a feature's name in the bytes."""
    return zlib.crc32(name.encode())


def check_codes(names: Sequence[str]) -> None:
    """Raise StoreError where two features of a view could not be told apart."""
    by_code: dict[int, str] = {}
    for name in names:
        other = by_code.setdefault(name_code(name), name)
        if other != name:
            raise StoreError(f"the features {other!r} and {name!r} have one code in the online store; rename one")


def item_of(value: ValueProto | None) -> Item:
    """A Feast value in bytes."""
    which = None if value is None else value.WhichOneof("val")
    if value is None or which is None or which == "null_val":
        return Item(NULL, b"")
    if which == "float_list_val":
        return Item(VECTOR, np.array(value.float_list_val.val, "<f4").tobytes())
    if which == "string_val":
        return Item(STRING, value.string_val.encode())
    if which in _KIND_OF:
        kind = _KIND_OF[which]
        return Item(kind, np.array(getattr(value, which), _SCALARS[kind][1]).tobytes())
    return Item(PROTO, value.SerializeToString())


def pack(event: int, created: int | None, items: dict[str, Item]) -> bytes:
    """One row; times in microseconds since 1970."""
    entries = [_ENTRY.pack(name_code(name), item.kind, len(item.data)) for name, item in items.items()]
    times = struct.pack(">QQ", event + _OFFSET, 0 if created is None else created + _OFFSET)
    values = [item.data for item in items.values()]
    return b"".join([bytes([FORMAT]), times, struct.pack("<H", len(items)), *entries, *values])


def pack_rows(event: np.ndarray, created: np.ndarray | None, columns: dict[str, tuple[int, np.ndarray]]) -> list[bytes]:
    """n rows of which every feature has one kind and width.

    Args:
        event: (n,) int64 microseconds since 1970.
        created: the same, or None.
        columns: kind and (n, width) uint8 bytes of the values, by feature.
    """
    n = len(event)
    entries = [_ENTRY.pack(name_code(name), kind, values.shape[1]) for name, (kind, values) in columns.items()]
    directory = np.frombuffer(struct.pack("<H", len(columns)) + b"".join(entries), np.uint8)
    times = np.zeros((n, 2), ">u8")
    times[:, 0] = event.astype(np.uint64) + np.uint64(_OFFSET)  # wraps around as it should for times before 1970
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


def items_of(row: bytes) -> dict[int, Item]:
    """The values of one row by their name's code."""
    at = _HEAD_END + _ENTRY.size * _n_items(row)
    items = {}
    for code, kind, length in _ENTRY.iter_unpack(row[_HEAD_END:at]):
        items[code] = Item(kind, row[at : at + length])
        at += length
    return items


def unpack_rows(rows: Sequence[bytes | None], names: Sequence[str]) -> Rows:
    """The features `names` of n packed rows, None standing for a row that was not found."""
    n = len(rows)
    event_times = np.zeros(n, np.int64)
    found = np.zeros(n, bool)
    chunks: dict[str, list[Chunk]] = {name: [] for name in names}
    for places, table, layout in _alike(rows):
        event_times[places] = np.ascontiguousarray(table[:, 1:9]).view(">i8")[:, 0] ^ _SIGN
        found[places] = True
        for name in names:
            kind, start, stop = layout.get(name_code(name), _ABSENT)
            if kind != NULL:
                chunks[name].append(Chunk(places, kind, _values(kind, table[:, start:stop])))
    return Rows(n, event_times, found, chunks)


def to_value(kind: int, value: Any) -> ValueProto:
    """One element of a Chunk's values as Feast's protobuf."""
    if kind == VECTOR:
        return ValueProto(float_list_val=FloatList(val=value))
    if kind == STRING:
        return ValueProto(string_val=value.decode())
    if kind == PROTO:
        proto = ValueProto()
        proto.ParseFromString(value)
        return proto
    return ValueProto(**{_SCALARS[kind][0]: value.item()})


def _alike(rows: Sequence[bytes | None]) -> Iterator[tuple[np.ndarray, np.ndarray, _Layout]]:
    """Rows that differ in values only, together: their places, their bytes as (m, width) and where values are."""
    present = np.arange(len(rows)) if None not in rows else np.array([i for i, r in enumerate(rows) if r is not None])
    held = [row for row in rows if row is not None]
    if not held:
        return
    head, width = _head(held[0]), len(held[0])
    if len(held) == 1 or {*map(len, held)} == {width}:
        table = np.frombuffer(b"".join(held), np.uint8).reshape(len(held), width)
        same = table[1:, TIMES_END : TIMES_END + len(head)] == table[0, TIMES_END : TIMES_END + len(head)]
        if len(held) == 1 or same.all():
            yield present, table, _layout(head)
            return
    groups: dict[bytes, list[int]] = {}
    for i, row in enumerate(held):
        groups.setdefault(_head(row), []).append(i)
    for head, members in groups.items():
        table = np.frombuffer(b"".join([held[i] for i in members]), np.uint8).reshape(len(members), -1)
        yield present[members], table, _layout(head)


def _head(row: bytes) -> bytes:
    """Number of features and the directory."""
    return row[TIMES_END : _HEAD_END + _ENTRY.size * _n_items(row)]


@lru_cache(1_000)
def _layout(head: bytes) -> _Layout:
    layout, at = {}, TIMES_END + len(head)
    for code, kind, length in _ENTRY.iter_unpack(head[2:]):
        layout[code] = (kind, at, at + length)
        at += length
    return layout


def _n_items(row: bytes) -> int:
    if len(row) < _HEAD_END or row[0] != FORMAT:
        raise StoreError(
            f"an online row of {len(row)} bytes is not of format {FORMAT}; it was written by another program: "
            f"empty the online store and publish again with `girl materialize`"
        )
    return row[TIMES_END] | row[TIMES_END + 1] << 8


def _values(kind: int, data: np.ndarray) -> np.ndarray:
    """(m, width) uint8 -> what a Chunk holds."""
    if kind in (STRING, PROTO):
        values = np.empty(len(data), object)
        values[:] = [row.tobytes() for row in data]
        return values
    dtype = np.dtype("<f4") if kind == VECTOR else _SCALARS[kind][1]
    values = np.ascontiguousarray(data).view(dtype)
    return values if kind == VECTOR else values[:, 0]
