"""Response of the packed online stores: arrays, turned into Feast's own forms only when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

from girl_features.store.online.packed import (
    EPOCH,
    MICROSECONDS,
    PLAIN_KINDS,
    TIMES,
    VECTOR,
    UnpackedRows,
    ValueGroup,
    to_value,
)

PRESENT, NOT_FOUND = FieldStatus.PRESENT, FieldStatus.NOT_FOUND
NULL_VALUE, EXPIRED = FieldStatus.NULL_VALUE, FieldStatus.OUTSIDE_MAX_AGE


class FeatureColumn(NamedTuple):
    """One feature of n rows. Expired rows have no values."""

    rows: UnpackedRows
    groups: list[ValueGroup]

    @classmethod
    def of(cls, rows: UnpackedRows, name: str) -> FeatureColumn:
        """Return the feature `name` of the rows."""
        groups = rows.groups[name]
        if rows.expired is not None and rows.expired.any():
            kept = [~rows.expired[group.rows] for group in groups]
            groups = [ValueGroup(g.rows[keep], g.kind, g.values[keep]) for g, keep in zip(groups, kept, strict=True)]
        return cls(rows, groups)

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, d) float32 vectors, zeros where there is none, and (n,) bool: True where there is one.

        Raises:
            ValueError: the feature is not a vector, or has vectors of several dimensions.
        """
        if len(self.groups) == 1 and self.groups[0].kind == VECTOR and len(self.groups[0].rows) == self.rows.n:
            return self.groups[0].values, self.rows.is_found
        dimensions = {group.values.shape[1] if group.kind == VECTOR else -1 for group in self.groups if len(group.rows)}
        if len(dimensions) > 1 or -1 in dimensions:
            raise ValueError(f"not vectors of one dimension: {sorted(dimensions)}, where -1 is another type")
        vectors = np.zeros((self.rows.n, dimensions.pop() if dimensions else 0), np.float32)
        present = np.zeros(self.rows.n, bool)
        for group in self.groups:
            vectors[group.rows] = group.values
            present[group.rows] = True
        return vectors, present

    def values(self) -> list[ValueProto]:
        """Return Feast's protobuf values, empty for a miss."""
        values = [ValueProto()] * self.rows.n
        for group in self.groups:
            for row, value in zip(group.rows.tolist(), group.values, strict=True):
                values[row] = to_value(group.kind, value)
        return values

    def python(self) -> list[Any]:
        """Return plain Python values as Feast does, None for a miss; times have their microseconds."""
        values: list[Any] = [None] * self.rows.n
        for group in self.groups:
            for row, value in zip(group.rows.tolist(), _python_values(group), strict=True):
                values[row] = value
        return values

    def statuses(self) -> list[Any]:
        """Return PRESENT, NULL_VALUE, NOT_FOUND or OUTSIDE_MAX_AGE for each row."""
        without_value = NULL_VALUE if self.rows.expired is None else np.where(self.rows.expired, EXPIRED, NULL_VALUE)
        statuses = np.where(self.rows.is_found, without_value, NOT_FOUND)
        for group in self.groups:
            statuses[group.rows] = PRESENT
        return [int(status) for status in statuses]

    def feature_vector(self) -> GetOnlineFeaturesResponse.FeatureVector:
        """Return the column in Feast's protobuf."""
        times = [divmod(microseconds, 1_000_000) for microseconds in self.rows.event_times.tolist()]
        timestamps = [Timestamp(seconds=seconds, nanos=rest * 1000) for seconds, rest in times]
        return GetOnlineFeaturesResponse.FeatureVector(
            values=self.values(), statuses=self.statuses(), event_timestamps=timestamps
        )


class IdColumn(NamedTuple):
    """The ids of a request under one join key."""

    name: str
    values: Sequence[Any]  # strings or ints
    value_type: ValueType
    keys: dict[ValueType, list[bytes]]  # under which the store has the rows of views with ids of this type


class PackedResponse(OnlineResponse):
    """An OnlineResponse that builds protobufs and lists only when they are asked for."""

    def __init__(
        self, ids: list[IdColumn], columns: dict[str, FeatureColumn], feature_types: dict[str, ValueType]
    ) -> None:
        self._ids, self._columns, self._feature_types = ids, columns, feature_types
        self._proto: GetOnlineFeaturesResponse | None = None

    def vectors(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, d) float32 vectors of a feature, zeros for a miss, and (n,) bool: True where there is a vector.

        Raises:
            KeyError: no such feature in this response.
            ValueError: the feature is not a vector, or has vectors of several dimensions.
        """
        return self._columns[feature].vectors()

    def event_times(self, feature: str) -> np.ndarray:
        """Return (n,) datetime64[us] event times in UTC of the rows with a feature; NaT for a key without a row."""
        column = self._columns[feature]
        times = column.rows.event_times.astype("datetime64[us]")
        times[~column.rows.is_found] = np.datetime64("NaT")
        return times

    def statuses(self, feature: str) -> list[int]:
        """Return Feast's FieldStatus of each row; OUTSIDE_MAX_AGE for a row past the view's time to live."""
        return self._columns[feature].statuses()

    @property
    def proto(self) -> GetOnlineFeaturesResponse:  # type: ignore[override]
        """The response in protobuf, as Feast's servers send it."""
        if self._proto is None:
            self._proto = GetOnlineFeaturesResponse(results=[])
            for ids in self._ids:
                values = python_values_to_proto_values(list(ids.values), ids.value_type)
                statuses, times = [PRESENT] * len(values), [Timestamp()] * len(values)
                self._proto.metadata.feature_names.val.append(ids.name)
                self._proto.results.add(values=values, statuses=statuses, event_timestamps=times)
            for name, column in self._columns.items():
                self._proto.metadata.feature_names.val.append(name)
                self._proto.results.append(column.feature_vector())
        return self._proto

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """Return lists of Python values by name, the ids first."""
        result: dict[str, Any] = {}
        for id_column in self._ids:
            result[id_column.name] = list(id_column.values)
            if include_event_timestamps:
                result[id_column.name + TIMESTAMP_POSTFIX] = [0] * len(id_column.values)
        for name, column in self._columns.items():
            result[name] = column.python()
            if include_event_timestamps:
                result[name + TIMESTAMP_POSTFIX] = (column.rows.event_times // 1_000_000).tolist()
        return result


def _python_values(group: ValueGroup) -> list[Any]:
    if group.kind in PLAIN_KINDS:
        return list(group.values.tolist())
    if group.kind == MICROSECONDS:
        return [EPOCH + timedelta(microseconds=value) for value in group.values.tolist()]
    if group.kind == TIMES:
        return [[EPOCH + timedelta(microseconds=value) for value in values] for values in group.values.tolist()]
    return [feast_value_type_to_python_type(to_value(group.kind, value)) for value in group.values]
