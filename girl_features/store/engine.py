"""Feast's materialization as Arrow all the way: DuckDB to packed rows, a batch at a time.

    batch_engine:
      type: girl_features.store.engine.ArrowComputeEngine

A window takes every row that is new in it, by event time or by the time it was created, so rows that arrive late are
not passed over. What was written when something fails stays written, the job says ERROR, and Feast does not move its
mark, so the same window can be run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from feast.batch_feature_view import BatchFeatureView
from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.infra.common.materialization_job import (
    MaterializationJob,
    MaterializationJobStatus,
    MaterializationTask,
)
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.stream_feature_view import StreamFeatureView
from feast.utils import _convert_arrow_to_proto
from pydantic import StrictStr

from girl_features.errors import StoreError
from girl_features.store.failpoints import failpoint
from girl_features.store.offline.latest import RowsQuery
from girl_features.store.offline.offline_store import PartsDuckDBOfflineStore
from girl_features.store.online.packed_store import PackedOnlineStore

BATCH_ROWS = 10_000


class ArrowComputeEngineConfig(FeastConfigBaseModel):
    """`batch_engine:` of feature_store.yaml."""

    type: StrictStr = "girl_features.store.engine.ArrowComputeEngine"


class ArrowMaterializationJob(MaterializationJob):
    """What became of one view: finished, one way or the other, when it is handed out."""

    def __init__(self, name: str, n_rows: int, error: BaseException | None) -> None:
        super().__init__()
        self._name = name
        self.n_rows = n_rows
        self._error = error

    def status(self) -> MaterializationJobStatus:
        """SUCCEEDED only if every row of the window is in the online store."""
        return MaterializationJobStatus.ERROR if self._error else MaterializationJobStatus.SUCCEEDED

    def error(self) -> BaseException | None:
        """Why it failed, if it did; Feast raises it."""
        return self._error

    def should_be_retried(self) -> bool:
        """False: Feast would try again at once, without a pause."""
        return False

    def job_id(self) -> str:
        """View and window."""
        return self._name

    def url(self) -> str | None:
        """None: there is no page for it."""
        return None


class ArrowComputeEngine(ComputeEngine):
    """Materializes views whose rows are already there; those that compute rows are refused."""

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Nothing to prepare."""

    def teardown_infra(self, project: str, fvs: Sequence[Any], entities: Sequence[Entity]) -> None:
        """Nothing to take down."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> ArrowMaterializationJob:
        view = task.feature_view
        name = f"{view.name}-{task.start_time}-{task.end_time}"
        n_rows = 0
        try:
            _check_plain(view)
            with self._batches(view, task) as batches:
                for batch in batches:
                    n_rows += self._write(view, batch)
                    failpoint("engine.batch_written")
        except Exception as error:  # reported, not swallowed: Feast raises what the job says
            return ArrowMaterializationJob(name, n_rows, error)
        return ArrowMaterializationJob(name, n_rows, None)

    @contextmanager
    def _batches(self, view: FeatureView, task: MaterializationTask) -> Iterator[Iterator[pa.RecordBatch]]:
        """The rows of the window under the view's own names."""
        source = view.batch_source
        assert source is not None, "_check_plain has seen it"
        column_of = {new: old for old, new in source.field_mapping.items()}
        query = RowsQuery(
            [column_of.get(key, key) for key in view.join_keys],
            [column_of.get(feature.name, feature.name) for feature in view.features],
            column_of.get(source.timestamp_field, source.timestamp_field),
            column_of.get(source.created_timestamp_column, source.created_timestamp_column) or None,
        )
        start, end = _utc(task.start_time), _utc(task.end_time)
        store: Any = self.offline_store
        job = None
        if isinstance(store, PartsDuckDBOfflineStore):
            job = store.changed_rows(self.repo_config, source, query, start, end)
        if job is None:
            job = store.pull_latest_from_table_or_query(self.repo_config, source, *query, start, end)
        now = datetime.now(UTC) if task.disable_event_timestamp else None
        if hasattr(job, "batches"):
            with job.batches(BATCH_ROWS) as batches:
                yield (_renamed(batch, source, now) for batch in batches)
        else:
            yield (_renamed(batch, source, now) for batch in job.to_arrow().to_batches(max_chunksize=BATCH_ROWS))

    def _write(self, view: FeatureView, batch: pa.RecordBatch) -> int:
        if not batch.num_rows:
            return 0
        source = view.batch_source
        assert source is not None, "_check_plain has seen it"
        store: Any = self.online_store
        if isinstance(store, PackedOnlineStore):
            timestamp, created = source.timestamp_field, source.created_timestamp_column or None
            return store.write_arrow(self.repo_config, view, batch, timestamp, created)
        types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
        rows = _convert_arrow_to_proto(batch, view, types)
        store.online_write_batch(self.repo_config, view, rows, lambda n: None)
        return int(batch.num_rows)


def _check_plain(view: Any) -> None:
    computes = isinstance(view, (BatchFeatureView, StreamFeatureView)) and getattr(view, "feature_transformation", None)
    if computes or getattr(view, "batch_source", None) is None:
        raise StoreError(
            f"{view.name!r} computes its rows, which this engine does not do; make them outside Feast and let a "
            f"plain FeatureView read them, or take `batch_engine:` out of feature_store.yaml"
        )


def _renamed(batch: pa.RecordBatch, source: Any, now: datetime | None) -> pa.RecordBatch:
    names = [source.field_mapping.get(name, name) for name in batch.schema.names]
    batch = batch.rename_columns(names)
    if now is None:
        return batch
    times = pa.array([now] * batch.num_rows, pa.timestamp("us", "UTC"))
    return batch.set_column(names.index(source.timestamp_field), source.timestamp_field, times)


def _utc(time: datetime) -> datetime:
    """Feast's windows are UTC where they say nothing else."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
