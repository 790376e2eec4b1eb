"""Base class of the packed online stores: Feast's interface over a few small methods of a backend.

A row is one value under one key. The row with the newest event time wins, then the one with the newest created time,
in whatever order they were written. A row past its view's time to live counts as missing, with the status
OUTSIDE_MAX_AGE.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

import pyarrow as pa
from feast import utils
from feast.entity import Entity
from feast.feature_service import FeatureService
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from girl_features.store.entity_ids import possible_ids
from girl_features.store.entity_types import check_entities
from girl_features.store.online.packed import EPOCH, UnpackedRows, single_keys, unpack_rows
from girl_features.store.online.packed_rows import FeastRow, PackedRow, from_arrow, from_feast
from girl_features.store.online.plans import RequestPlanCache, view_id, with_exact_ids
from girl_features.store.online.response import FeatureColumn, PackedResponse

WRITE_BATCH = 5_000  # rows of one transaction or call
_NO_KEY = b"no entity"  # no key of Feast has this form
SLOW_READ_MS = 60_000.0  # deadline of reads for a write or a check, which no request waits for

Connection = TypeVar("Connection")
FeastRead = list[tuple[datetime | None, dict[str, ValueProto] | None]]  # event time and features of each entity


class ThreadConnections(threading.local):
    """The open connections of one thread."""

    def __init__(self) -> None:
        self.opened: dict[str, tuple[Any, Any]] = {}

    def get(self, name: str, target: Any, connect: Callable[[], Connection]) -> Connection:
        """Return the connection `name` to `target`. Calls `connect` for a new one after a fork or for a new target."""
        identity = (os.getpid(), target)
        known, connection = self.opened.get(name, (None, None))
        if connection is None or known != identity:
            connection = connect()
            self.opened[name] = (identity, connection)
        return cast(Connection, connection)


class PackedOnlineStore(OnlineStore):
    """An online store of packed rows. A backend reads, writes, lists and removes them by view and key."""

    _versioned_read_supported = True

    def __init__(self) -> None:
        self._plans = RequestPlanCache()
        self._connections = ThreadConnections()

    @abstractmethod
    def read_packed(
        self, config: RepoConfig, wanted: Sequence[tuple[str, Sequence[bytes]]], deadline_ms: float
    ) -> list[list[bytes | None]]:
        """Read packed rows, None for a miss. `wanted` has a `view_id` and keys for each list of rows to return.

        Raises:
            DeadlineError: it took longer than `deadline_ms` milliseconds for all rows together.
        """

    @abstractmethod
    def write_packed(self, config: RepoConfig, view: FeatureView, rows: Sequence[PackedRow]) -> None:
        """Store each row unless a newer one is there. On return the rows are on disk or with the server."""

    @abstractmethod
    def remove_packed(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> int:
        """Delete rows, and return how many there were."""

    @abstractmethod
    def keys(self, config: RepoConfig, view: FeatureView) -> Iterator[bytes]:
        """List the keys of all rows of a view."""

    # writing

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[FeastRow], progress: Callable[[int], Any] | None
    ) -> None:
        """Write rows in Feast's form; a row may have only some of the features.

        Raises:
            InvalidVectorError: a vector is NaN, infinite, all zero or of the wrong dimension; nothing was written.
        """
        rows, partial = from_feast(table, data, config.entity_key_serialization_version)
        if partial:
            names = [feature.name for feature in table.features]
            keys = [row.key for row in partial]
            before = dict(zip(keys, self.stored_rows(config, table, keys), strict=True))
            for row in partial:
                completed = row.completed(before[row.key], names)
                before[row.key] = completed.data
                rows.append(completed)
        self._write_in_batches(config, table, rows, progress)

    def write_arrow(
        self, config: RepoConfig, view: FeatureView, batch: pa.RecordBatch, timestamp: str, created: str | None
    ) -> None:
        """Write an Arrow batch that has the view's join keys and features as columns.

        Raises:
            InvalidVectorError: a vector is NaN, infinite, all zero or of the wrong dimension; nothing was written.
            StoreError: a value has no equal in the type that its view declares; nothing was written.
            DataError: an id is missing, or is not of the entity's type; nothing was written.
        """
        rows = from_arrow(view, batch, timestamp, created, config.entity_key_serialization_version)
        self._write_in_batches(config, view, rows, None)

    async def online_write_batch_async(self, *arguments: Any, **named: Any) -> None:
        """Run `online_write_batch` in another thread."""
        await asyncio.to_thread(self.online_write_batch, *arguments, **named)

    def delete_entities(self, config: RepoConfig, view: FeatureView, entity_keys: Sequence[EntityKeyProto]) -> int:
        """Remove entities from a view, and return how many were there."""
        return self.remove_packed(config, view, serialized_keys(config, entity_keys))

    def _write_in_batches(
        self, config: RepoConfig, view: FeatureView, rows: Sequence[PackedRow], progress: Callable[[int], Any] | None
    ) -> None:
        for start in range(0, len(rows), WRITE_BATCH):
            batch = rows[start : start + WRITE_BATCH]
            self.write_packed(config, view, batch)
            if progress is not None:
                progress(len(batch))

    # reading

    def read_views(
        self,
        config: RepoConfig,
        wanted: Sequence[tuple[FeatureView, Sequence[str]]],
        ids: Sequence[str],
        deadline_ms: float,
    ) -> list[UnpackedRows]:
        """Read the rows of n string `ids` in several views; `wanted` are views with the names of features to read.

        In a view with integer ids, an id that is not the text of an integer has no row.

        Raises:
            DeadlineError: the backend did not answer within `deadline_ms` milliseconds for all views together.
        """
        version = config.entity_key_serialization_version
        fields = [view.entity_columns[0] for view, _ in wanted]  # Feast's join_keys is slow
        join_keys = [(field.name, field.dtype.to_value_type()) for field in fields]
        keys = {join_key: _keys_of_text(*join_key, ids, version) for join_key in dict.fromkeys(join_keys)}
        views_and_keys = [
            (view_id(config, view), keys[join_key]) for (view, _), join_key in zip(wanted, join_keys, strict=True)
        ]
        packed_views = self.read_packed(config, views_and_keys, deadline_ms)
        return [_unpacked(view, rows, names) for rows, (view, names) in zip(packed_views, wanted, strict=True)]

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> FeastRead:
        """Return event time and features of each entity; (None, None) for one that is unknown or expired."""
        names = requested_features or [feature.name for feature in table.features]
        return _feast_rows(self._rows(config, table, serialized_keys(config, entity_keys), names), names)

    def read_rows(self, config: RepoConfig, view: FeatureView, entity_keys: list[EntityKeyProto]) -> FeastRead:
        """Read every feature as `online_read` does, of expired rows too; for verifying."""
        names = [feature.name for feature in view.features]
        rows = unpack_rows(self.stored_rows(config, view, serialized_keys(config, entity_keys)), names)
        return _feast_rows(rows, names)

    async def online_read_async(self, *arguments: Any, **named: Any) -> FeastRead:
        """Run `online_read` in another thread."""
        return await asyncio.to_thread(self.online_read, *arguments, **named)

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: list[dict[str, Any]] | Mapping[str, Any],
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Return features of n entities: a PackedResponse where this store can answer, else Feast's own response.

        Feast's own code answers requests with on-demand features, renamed join keys and the like.
        """
        plan = None
        if not include_feature_view_version_metadata and not getattr(features, "precompute_online", False):
            plan = self._plans.plan_for(config, registry, project, features, full_feature_names)
        ids = plan.ids_in(entity_rows) if plan is not None else None
        if plan is None or ids is None:
            entity_rows = with_exact_ids(registry, project, features, full_feature_names, entity_rows)
            request = (config, features, entity_rows, registry, project, full_feature_names)
            return super().get_online_features(*request, include_feature_view_version_metadata)
        keys = {column.name: column.keys for column in ids}
        wanted = [(view.stored_view, keys[view.join_key][view.key_type]) for view in plan.views]
        packed_views = self.read_packed(config, wanted, config.online_store.read_deadline_ms)
        columns: dict[str, FeatureColumn] = {}
        for requested, packed_rows in zip(plan.views, packed_views, strict=True):
            rows = _unpacked(requested.view, packed_rows, requested.features)
            for feature, name in zip(requested.features, requested.names, strict=True):
                columns[name] = FeatureColumn.of(rows, feature)
        return PackedResponse(ids, columns, plan.feature_types)

    async def get_online_features_async(self, *arguments: Any, **named: Any) -> OnlineResponse:
        """Run `get_online_features` in another thread."""
        return await asyncio.to_thread(self.get_online_features, *arguments, **named)

    def stored_rows(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read packed rows in the order of `keys`, None for a miss, without the deadline of a request."""
        return self.read_packed(config, [(view_id(config, view), keys)], SLOW_READ_MS)[0]

    def _rows(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes], names: Sequence[str]) -> UnpackedRows:
        [packed_rows] = self.read_packed(config, [(view_id(config, view), keys)], config.online_store.read_deadline_ms)
        return _unpacked(view, packed_rows, names)

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[Any],
        join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Give Feast's own code, which answers requests with on-demand features, the same rows and statuses."""
        for view, features in grouped_refs:
            entities, rows_of_entities, n = utils._get_unique_entities(
                view, join_key_values, entity_name_to_join_key_map
            )
            keys = serialized_keys(config, utils._get_entity_key_protos(entities))
            key_of_row = {i: key for key, positions in zip(keys, rows_of_entities, strict=True) for i in positions}
            rows = self._rows(config, view, [key_of_row[i] for i in range(n)], features)
            prefix = view.projection.name_to_use()
            names = [f"{prefix}__{name}" if full_feature_names else name for name in features]
            online_features_response.metadata.feature_names.val.extend(names)
            for name in features:
                online_features_response.results.append(FeatureColumn.of(rows, name).feature_vector())
            if include_feature_view_version_metadata:
                metadata = online_features_response.metadata.feature_view_metadata.add()
                metadata.name = view.projection.name_alias or view.projection.name
                metadata.version = getattr(view, "current_version_number", 0) or 0

    # tables

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Prepare the backend for the views that stay, and drop the rows of the views that go.

        Raises:
            StoreError: two entities of one name have other ids or join keys. Feast would keep one of them for both.
        """
        check_entities(entities_to_keep, [view for view in tables_to_keep if isinstance(view, FeatureView)])
        for view in tables_to_keep:
            self.create_view(config, view)
        for view in tables_to_delete:
            self.drop_view(config, view)

    def create_view(self, config: RepoConfig, view: FeatureView) -> None:
        """Prepare the backend for rows of a view, if it needs to be."""

    @abstractmethod
    def drop_view(self, config: RepoConfig, view: FeatureView) -> None:
        """Remove every row of a view."""


def feast_rows(view: FeatureView, batch: pa.RecordBatch, timestamp: str, created: str | None) -> list[FeastRow]:
    """Turn an Arrow batch into rows in Feast's form. Feast's own conversion rounds large integers beside nulls.

    Raises:
        InvalidVectorError, StoreError, DataError: as in `PackedOnlineStore.write_arrow`.
    """
    version, names = 3, [feature.name for feature in view.features]
    rows = from_arrow(view, batch, timestamp, created, version)
    read = _feast_rows(unpack_rows([row.data for row in rows], names), names)
    result: list[FeastRow] = []
    for row, (event_time, values) in zip(rows, read, strict=True):
        assert event_time is not None and values is not None, "every row was packed"
        created_time = None if row.created is None else EPOCH + timedelta(microseconds=row.created)
        result.append((deserialize_entity_key(row.key, version), values, event_time, created_time))
    return result


def _feast_rows(rows: UnpackedRows, names: Sequence[str]) -> FeastRead:
    columns = {name: FeatureColumn.of(rows, name).values() for name in names}
    is_present = rows.is_found if rows.expired is None else rows.is_found & ~rows.expired
    result: FeastRead = []
    for i, (microseconds, present) in enumerate(zip(rows.event_times.tolist(), is_present.tolist(), strict=True)):
        if present:
            event_time = EPOCH + timedelta(microseconds=microseconds)
            result.append((event_time, {name: values[i] for name, values in columns.items()}))
        else:
            result.append((None, None))
    return result


def serialized_keys(config: RepoConfig, entity_keys: Sequence[EntityKeyProto]) -> list[bytes]:
    """Return the keys of these entities, in the form that `PackedOnlineStore.keys` lists."""
    version = config.entity_key_serialization_version
    return [bytes(serialize_entity_key(key, entity_key_serialization_version=version)) for key in entity_keys]


def _keys_of_text(join_key: str, value_type: ValueType, ids: Sequence[str], key_version: int) -> list[bytes]:
    """Return the keys of text `ids`; `_NO_KEY` for one that cannot be of `value_type`."""
    keys = single_keys(join_key, ids, value_type, key_version)
    if keys is not None:
        return keys
    possible = possible_ids(ids, value_type)
    found = single_keys(join_key, [value for value in possible if value is not None], value_type, key_version)
    remaining = iter(found or [])
    return [_NO_KEY if value is None else next(remaining, _NO_KEY) for value in possible]


def _unpacked(view: FeatureView, packed_rows: Sequence[bytes | None], names: Sequence[str]) -> UnpackedRows:
    rows = unpack_rows(packed_rows, names)
    if not view.ttl:
        return rows
    oldest = int((time.time() - view.ttl.total_seconds()) * 1_000_000)
    return rows._replace(expired=rows.is_found & (rows.event_times < oldest))
