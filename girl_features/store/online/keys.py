"""The bytes under which Feast's online stores keep an entity, made without a protobuf for each id."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import ValueType as ProtoType
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

_KIND_AND_LENGTH = struct.Struct("<II")


def single_keys(join_key: str, values: Sequence[Any], value_type: ValueType, key_version: int) -> list[bytes] | None:
    """Return the keys of entities with one string or int64 id each; None if a value has another type."""
    prefix = _join_key_prefix(join_key, key_version)
    types = {*map(type, values)}
    if value_type == ValueType.STRING and types <= {str}:
        encoded = [value.encode() for value in values]
        kind = int(ProtoType.STRING)
        heads = {length: prefix + _KIND_AND_LENGTH.pack(kind, length) for length in {*map(len, encoded)}}
        return [heads[len(data)] + data for data in encoded]
    if value_type == ValueType.INT64 and types <= {int}:
        head = prefix + _KIND_AND_LENGTH.pack(int(ProtoType.INT64), 8)
        return [head + value.to_bytes(8, "little", signed=True) for value in values]
    return None


def id_keys(view: FeatureView, table: pa.Table, key_version: int) -> list[bytes]:
    """Return the keys of the entities in an Arrow table, whose columns include the view's join keys."""
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
            EntityKeyProto(join_keys=view.join_keys, entity_values=entity_values),
            entity_key_serialization_version=key_version,
        )
        for entity_values in zip(*protos, strict=True)
    ]


@lru_cache(1_000)
def _join_key_prefix(join_key: str, key_version: int) -> bytes:
    return bytes(serialize_entity_key_prefix([join_key], entity_key_serialization_version=key_version))
