"""What the packed online stores answer: arrays at once, Feast's own forms when somebody asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

from girl_features.store.online.packed import BOOL, DOUBLE, FLOAT, INT32, INT64, VECTOR, Chunk, Rows, to_value

PRESENT, NOT_FOUND = FieldStatus.PRESENT, FieldStatus.NOT_FOUND
NULL_VALUE, EXPIRED = FieldStatus.NULL_VALUE, FieldStatus.OUTSIDE_MAX_AGE


class Column(NamedTuple):
    """One feature of n rows as it was read; expired rows count as not there."""

    n: int
    chunks: list[Chunk]
    event_times: np.ndarray  # (n,) int64 microseconds since 1970, 0 where nothing was found
    found: np.ndarray  # (n,) bool
    expired: np.ndarray | None  # (n,) bool; None if no row can be

    @classmethod
    def of(cls, rows: Rows, name: str, expired: np.ndarray | None) -> Column:
        """The feature `name` of rows of which some are past their time to live."""
        chunks = rows.chunks[name]
        if expired is not None and expired.any():
            chunks = [_without(chunk, expired) for chunk in chunks]
        return cls(rows.n, chunks, rows.event_times, rows.found, expired)

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) float32, zeros where there is no vector, and (n,) bool: where there is one.

        Raises:
            ValueError: the feature is no vector, or has vectors of several dimensions.
        """
        if len(self.chunks) == 1 and self.chunks[0].kind == VECTOR and len(self.chunks[0].rows) == self.n:
            return self.chunks[0].values, self.found
        dimensions = {chunk.values.shape[1] if chunk.kind == VECTOR else -1 for chunk in self.chunks if len(chunk.rows)}
        if len(dimensions) > 1 or -1 in dimensions:
            raise ValueError(f"not vectors of one dimension: {sorted(dimensions)}, where -1 is another type")
        vectors = np.zeros((self.n, dimensions.pop() if dimensions else 0), np.float32)
        present = np.zeros(self.n, bool)
        for chunk in self.chunks:
            vectors[chunk.rows] = chunk.values
            present[chunk.rows] = True
        return vectors, present

    def values(self) -> list[ValueProto]:
        """Feast's protobuf values, empty for a miss."""
        values = [ValueProto()] * self.n
        for chunk in self.chunks:
            for row, value in zip(chunk.rows.tolist(), chunk.values, strict=True):
                values[row] = to_value(chunk.kind, value)
        return values

    def python(self) -> list[Any]:
        """Plain Python values as Feast gives them, None for a miss."""
        values: list[Any] = [None] * self.n
        for chunk in self.chunks:
            for row, value in zip(chunk.rows.tolist(), _python(chunk), strict=True):
                values[row] = value
        return values

    def statuses(self) -> list[Any]:
        """PRESENT, NULL_VALUE, NOT_FOUND or OUTSIDE_MAX_AGE for each row."""
        here = NULL_VALUE if self.expired is None else np.where(self.expired, EXPIRED, NULL_VALUE)
        statuses = np.where(self.found, here, NOT_FOUND)
        for chunk in self.chunks:
            statuses[chunk.rows] = PRESENT
        return [int(status) for status in statuses]

    def at(self, places: np.ndarray, n: int) -> Column:
        """The column of n rows whose row i is our row `places[i]`."""
        position = [np.flatnonzero(np.isin(places, chunk.rows)) for chunk in self.chunks]
        chunks = []
        for chunk, rows in zip(self.chunks, position, strict=True):
            where = np.searchsorted(chunk.rows, places[rows])
            chunks.append(Chunk(rows, chunk.kind, chunk.values[where]))
        expired = None if self.expired is None else self.expired[places]
        return Column(n, chunks, self.event_times[places], self.found[places], expired)

    def feature_vector(self) -> GetOnlineFeaturesResponse.FeatureVector:
        """In Feast's protobuf."""
        return GetOnlineFeaturesResponse.FeatureVector(
            values=self.values(), statuses=self.statuses(), event_timestamps=_timestamps(self.event_times)
        )


class Keys(NamedTuple):
    """The ids that were asked for, under the name they were asked by."""

    name: str
    values: Sequence[Any]
    value_type: ValueType


class PackedResponse(OnlineResponse):
    """An OnlineResponse that makes protobufs and lists only when they are asked for."""

    def __init__(self, keys: list[Keys], columns: dict[str, Column], feature_types: dict[str, ValueType]) -> None:
        self._keys = keys
        self._columns = columns
        self._feature_types = feature_types
        self._proto: GetOnlineFeaturesResponse | None = None

    def vectors(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) float32 of a feature, zeros for a miss, and (n,) bool: where there is a vector.

        Raises:
            KeyError: no such feature in this response.
            ValueError: it is no vector, or has vectors of several dimensions.
        """
        return self._columns[feature].vectors()

    def event_times(self, feature: str) -> np.ndarray:
        """(n,) datetime64[us] UTC of the rows a feature came from; NaT where none was found."""
        column = self._columns[feature]
        times = column.event_times.astype("datetime64[us]")
        times[~column.found] = np.datetime64("NaT")
        return times

    def statuses(self, feature: str) -> list[int]:
        """Feast's FieldStatus of each row; OUTSIDE_MAX_AGE for one past the view's time to live."""
        return self._columns[feature].statuses()

    @property
    def proto(self) -> GetOnlineFeaturesResponse:  # type: ignore[override]
        """The whole response in protobuf, as Feast's servers send it."""
        if self._proto is None:
            self._proto = GetOnlineFeaturesResponse(results=[])
            for key in self._keys:
                self._proto.metadata.feature_names.val.append(key.name)
                self._proto.results.append(_key_vector(key))
            for name, column in self._columns.items():
                self._proto.metadata.feature_names.val.append(name)
                self._proto.results.append(column.feature_vector())
        return self._proto

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """Lists of Python values by name, the ids first."""
        result: dict[str, Any] = {}
        for key in self._keys:
            result[key.name] = _plain_ids(key)
            if include_event_timestamps:
                result[key.name + TIMESTAMP_POSTFIX] = [0] * len(key.values)
        for name, column in self._columns.items():
            result[name] = column.python()
            if include_event_timestamps:
                result[name + TIMESTAMP_POSTFIX] = (column.event_times // 1_000_000).tolist()
        return result


def _without(chunk: Chunk, expired: np.ndarray) -> Chunk:
    keep = ~expired[chunk.rows]
    return Chunk(chunk.rows[keep], chunk.kind, chunk.values[keep])


def _python(chunk: Chunk) -> list[Any]:
    if chunk.kind in (VECTOR, INT64, INT32, DOUBLE, FLOAT, BOOL):
        return list(chunk.values.tolist())
    return [feast_value_type_to_python_type(to_value(chunk.kind, value)) for value in chunk.values]


def _timestamps(event_times: np.ndarray) -> list[Timestamp]:
    seconds, micros = np.divmod(event_times, 1_000_000)
    return [Timestamp(seconds=s, nanos=m * 1000) for s, m in zip(seconds.tolist(), micros.tolist(), strict=True)]


def _protos(key: Keys) -> list[ValueProto]:
    if key.values and isinstance(key.values[0], ValueProto):
        return list(key.values)
    return list(python_values_to_proto_values(list(key.values), key.value_type))


def _plain_ids(key: Keys) -> list[Any]:
    return [feast_value_type_to_python_type(v) if isinstance(v, ValueProto) else v for v in key.values]


def _key_vector(key: Keys) -> GetOnlineFeaturesResponse.FeatureVector:
    values = _protos(key)
    return GetOnlineFeaturesResponse.FeatureVector(
        values=values, statuses=[PRESENT] * len(values), event_timestamps=[Timestamp()] * len(values)
    )
