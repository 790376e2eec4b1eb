"""The bytes under which Feast's online stores file an entity, made without a protobuf for each id."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import ValueType as ProtoType
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

_LENGTHS = struct.Struct("<II")


def single_keys(join_key: str, values: Sequence[Any], value_type: ValueType, key_version: int) -> list[bytes] | None:
    """Keys of entities with one string or int64 id each; None if the values are not all plainly that."""
    prefix = _prefix(join_key, key_version)
    kinds = {*map(type, values)}
    if value_type == ValueType.STRING and kinds <= {str}:
        encoded = [value.encode() for value in values]
        kind = int(ProtoType.STRING)
        heads = {length: prefix + _LENGTHS.pack(kind, length) for length in {*map(len, encoded)}}
        return [heads[len(data)] + data for data in encoded]
    if value_type == ValueType.INT64 and kinds <= {int}:
        head = prefix + _LENGTHS.pack(int(ProtoType.INT64), 8)
        return [head + value.to_bytes(8, "little", signed=True) for value in values]
    return None


def id_keys(view: FeatureView, table: pa.Table, key_version: int) -> list[bytes]:
    """Keys of the entities in the rows of an Arrow table with the view's join keys as columns."""
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    values = {name: table[name].to_pylist() for name in view.join_keys}
    if len(view.join_keys) == 1:
        [name] = view.join_keys
        keys = single_keys(name, values[name], types[name], key_version)
        if keys is not None:
            return keys
    protos = [python_values_to_proto_values(values[name], types[name]) for name in view.join_keys]
    return [
        serialize_entity_key(
            EntityKeyProto(join_keys=view.join_keys, entity_values=own), entity_key_serialization_version=key_version
        )
        for own in zip(*protos, strict=True)
    ]


_prefixes: dict[tuple[str, int], bytes] = {}


def _prefix(join_key: str, key_version: int) -> bytes:
    found = _prefixes.get((join_key, key_version))
    if found is None:
        found = bytes(serialize_entity_key_prefix([join_key], entity_key_serialization_version=key_version))
        _prefixes[join_key, key_version] = found
    return found
