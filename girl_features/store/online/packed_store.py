"""What the packed online stores share: Feast's interface over four small functions of a backend.

A row is one value under one key. The newest event wins, then the newest created, whatever the order of writes; a row
past its view's time to live is answered as missing, with the status OUTSIDE_MAX_AGE.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast import utils
from feast.entity import Entity
from feast.feature_service import FeatureService
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from girl_features.store.online.keys import single_keys
from girl_features.store.online.packed import Rows, unpack_rows
from girl_features.store.online.packed_rows import FeastRow, PackedRow, from_arrow, from_feast
from girl_features.store.online.plans import Plans, view_id
from girl_features.store.online.response import Column, PackedResponse

WRITE_BATCH = 5_000  # rows a transaction or a call
PATIENCE_MS = 60_000.0  # for reads that belong to a write or a check


class PackedOnlineStore(OnlineStore):
    """An online store of packed rows; a backend reads, writes, lists and removes them by view and key."""

    def __init__(self) -> None:
        self._plans = Plans()

    @abstractmethod
    def _read_places(
        self, config: RepoConfig, wanted: Sequence[tuple[str, Sequence[bytes]]], within_ms: float
    ) -> list[list[bytes | None]]:
        """Packed rows for the keys in each place (a `view_id`), all together in so many milliseconds.

        Raises:
            DeadlineError: it took longer.
        """

    @abstractmethod
    def _write(self, config: RepoConfig, view: FeatureView, rows: Sequence[PackedRow]) -> None:
        """Store each row unless a newer one is there; on disk or with the server when it returns."""

    @abstractmethod
    def _remove(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> int:
        """Delete rows and say how many there were."""

    @abstractmethod
    def keys(self, config: RepoConfig, view: FeatureView) -> Iterator[bytes]:
        """Keys of all rows of a view, for verifying."""

    # writing

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[FeastRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows as Feast makes them; a row may have only some of the features.

        Raises:
            InvalidVectorError: a vector is NaN, infinite, all zero or of the wrong dimension; nothing was written.
        """
        whole, partial = from_feast(table, data, config.entity_key_serialization_version)
        if partial:
            names = [feature.name for feature in table.features]
            before = dict(
                zip([r.key for r in partial], self._stored(config, table, [r.key for r in partial]), strict=True)
            )
            for row in partial:
                whole.append(row.whole(before[row.key], names))
                before[row.key] = whole[-1].data
        self._write_all(config, table, whole, progress)

    def write_arrow(
        self, config: RepoConfig, view: FeatureView, batch: pa.RecordBatch, timestamp: str, created: str | None
    ) -> int:
        """Write an Arrow batch that has the view's join keys and features as columns, and say how many rows.

        Raises:
            InvalidVectorError: a vector is NaN, infinite, all zero or of the wrong dimension; nothing was written.
        """
        rows = from_arrow(view, batch, timestamp, created, config.entity_key_serialization_version)
        self._write_all(config, view, rows, None)
        return len(rows)

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[FeastRow], progress: Callable[[int], Any] | None
    ) -> None:
        """`online_write_batch` in another thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def delete_entities(self, config: RepoConfig, view: FeatureView, entity_keys: Sequence[EntityKeyProto]) -> int:
        """Remove entities from a view and say how many were there."""
        return self._remove(config, view, _serialized(config, entity_keys))

    def _write_all(
        self, config: RepoConfig, view: FeatureView, rows: Sequence[PackedRow], progress: Callable[[int], Any] | None
    ) -> None:
        for start in range(0, len(rows), WRITE_BATCH):
            batch = rows[start : start + WRITE_BATCH]
            self._write(config, view, batch)
            if progress is not None:
                progress(len(batch))

    # reading

    def read_views(
        self,
        config: RepoConfig,
        wanted: Sequence[tuple[FeatureView, Sequence[str]]],
        ids: Sequence[str],
        within_ms: float,
    ) -> list[tuple[Rows, np.ndarray | None]]:
        """Rows of string `ids` in each view with the features named, and which are expired (None: none can be).

        Raises:
            DeadlineError: the backend did not answer within so many milliseconds.
        """
        version = config.entity_key_serialization_version
        names_of_keys = [view.entity_columns[0].name for view, _ in wanted]  # Feast's join_keys is slow
        keys = {name: single_keys(name, ids, ValueType.STRING, version) or [] for name in dict.fromkeys(names_of_keys)}
        places = [(view_id(config, view), keys[name]) for (view, _), name in zip(wanted, names_of_keys, strict=True)]
        read = self._read_places(config, places, within_ms)
        rows = [unpack_rows(own, names) for own, (_, names) in zip(read, wanted, strict=True)]
        return [(own, _expired(view, own)) for own, (view, _) in zip(rows, wanted, strict=True)]

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """Event time and features of each entity; (None, None) for one that is unknown or expired."""
        names = requested_features or [feature.name for feature in table.features]
        rows, expired = self._rows(config, table, _serialized(config, entity_keys), names)
        return _feast_rows(rows, expired, names)

    def read_rows(
        self, config: RepoConfig, view: FeatureView, entity_keys: list[EntityKeyProto]
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """`online_read` of every feature, rows past their time to live too: for verifying."""
        names = [feature.name for feature in view.features]
        rows = unpack_rows(self._stored(config, view, _serialized(config, entity_keys)), names)
        return _feast_rows(rows, None, names)

    def key_bytes(self, config: RepoConfig, entity_keys: list[EntityKeyProto]) -> list[bytes]:
        """What `keys` gives for these entities."""
        return _serialized(config, entity_keys)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """`online_read` in another thread."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

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
        """Features of n entities; a PackedResponse, unless on-demand features or the like need Feast's own path."""
        plan = None
        if not include_feature_view_version_metadata and not getattr(features, "precompute_online", False):
            plan = self._plans.of(config, registry, project, features, full_feature_names)
        asked = plan.asked(entity_rows) if plan is not None else None
        if plan is None or asked is None:
            return super().get_online_features(
                config,
                features,
                entity_rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )
        places = [(part.place, asked.key_bytes[part.join_key]) for part in plan.parts]
        found = self._read_places(config, places, config.online_store.read_deadline_ms)
        columns: dict[str, Column] = {}
        for part, packed_rows in zip(plan.parts, found, strict=True):
            rows = unpack_rows(packed_rows, part.features)
            expired = _expired(part.view, rows)
            for feature, name in zip(part.features, part.names, strict=True):
                columns[name] = Column.of(rows, feature, expired)
        return PackedResponse(asked.ids, columns, plan.feature_types)

    async def get_online_features_async(self, *arguments: Any, **named: Any) -> OnlineResponse:
        """`get_online_features` in another thread."""
        return await asyncio.to_thread(self.get_online_features, *arguments, **named)

    def _stored(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        """Packed rows in the order of `keys`, for work that nobody waits for in milliseconds."""
        return self._read_places(config, [(view_id(config, view), keys)], PATIENCE_MS)[0]

    def _rows(
        self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes], names: Sequence[str]
    ) -> tuple[Rows, np.ndarray | None]:
        [found] = self._read_places(config, [(view_id(config, view), keys)], config.online_store.read_deadline_ms)
        rows = unpack_rows(found, names)
        return rows, _expired(view, rows)

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
        """Feast's own path, which on-demand features take: the same rows and statuses, in protobuf."""
        for view, features in grouped_refs:
            entities, places, n = utils._get_unique_entities(view, join_key_values, entity_name_to_join_key_map)
            keys = _serialized(config, utils._get_entity_key_protos(entities))
            rows, expired = self._rows(config, view, keys, features)
            position = np.zeros(n, np.int64)
            for i, own in enumerate(places):
                position[list(own)] = i
            prefix = view.projection.name_to_use()
            names = [f"{prefix}__{name}" if full_feature_names else name for name in features]
            online_features_response.metadata.feature_names.val.extend(names)
            for name in features:
                column = Column.of(rows, name, expired).at(position, n)
                online_features_response.results.append(column.feature_vector())
            if include_feature_view_version_metadata:
                metadata = online_features_response.metadata.feature_view_metadata.add()
                metadata.name = view.projection.name_alias or view.projection.name
                metadata.version = getattr(view, "current_version_number", 0) or 0

    async def _read_features_per_fv_async(self, *arguments: Any) -> None:
        await asyncio.to_thread(self._read_features_per_fv, *arguments)

    def _is_versioned_read_supported(self) -> bool:
        return True

    # upkeep

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Make room for the views that stay, and drop the rows of those that go."""
        for view in tables_to_keep:
            self._create(config, view)
        for view in tables_to_delete:
            self._drop(config, view)

    def _create(self, config: RepoConfig, view: FeatureView) -> None:
        """Make room for a view, where the backend needs to."""

    @abstractmethod
    def _drop(self, config: RepoConfig, view: FeatureView) -> None:
        """Remove every row of a view."""


def _feast_rows(
    rows: Rows, expired: np.ndarray | None, names: Sequence[str]
) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
    columns = {name: Column.of(rows, name, expired).values() for name in names}
    times = rows.event_times.tolist()
    here = (rows.found if expired is None else rows.found & ~expired).tolist()
    return [
        (_utc(times[i]), {name: values[i] for name, values in columns.items()}) if here[i] else (None, None)
        for i in range(rows.n)
    ]


def _serialized(config: RepoConfig, entity_keys: Sequence[EntityKeyProto]) -> list[bytes]:
    version = config.entity_key_serialization_version
    return [bytes(serialize_entity_key(key, entity_key_serialization_version=version)) for key in entity_keys]


def _expired(view: FeatureView, rows: Rows) -> np.ndarray | None:
    """(n,) bool: found, but older than the view's time to live; None for a view without one."""
    if not view.ttl:
        return None
    oldest = int((time.time() - view.ttl.total_seconds()) * 1_000_000)
    return rows.found & (rows.event_times < oldest)


def _utc(microseconds: int) -> datetime:
    seconds, rest = divmod(microseconds, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
