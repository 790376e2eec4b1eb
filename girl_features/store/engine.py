"""Feast's materialization in Arrow: batches go from DuckDB to packed rows without per-value Python objects.

    batch_engine:
      type: girl_features.store.engine.ArrowComputeEngine

A window includes every row that is new in it by event time or by created time, so rows that arrive late are not
missed. After a failure the rows written so far stay, the job has the status ERROR, and Feast does not advance its
record of what is materialized, so the same window can be run again.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from feast.batch_feature_view import BatchFeatureView
from feast.data_source import DataSource
from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.stream_feature_view import StreamFeatureView
from pydantic import StrictStr

from girl_features.errors import StoreError
from girl_features.store.failpoints import failpoint
from girl_features.store.feast_sources import SourceColumns, as_utc, view_batches
from girl_features.store.offline.offline_store import PartsDuckDBOfflineStore
from girl_features.store.online.packed_store import PackedOnlineStore, feast_rows

BATCH_ROWS = 10_000


class ArrowComputeEngineConfig(FeastConfigBaseModel):
    """`batch_engine:` of feature_store.yaml."""

    type: StrictStr = "girl_features.store.engine.ArrowComputeEngine"


class ArrowComputeEngine(ComputeEngine):
    """Materializes views with stored rows; refuses views that compute their rows."""

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Do nothing: the engine has no infrastructure."""

    def teardown_infra(self, project: str, fvs: Sequence[Any], entities: Sequence[Entity]) -> None:
        """Do nothing: the engine has no infrastructure."""

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any) -> MaterializationJob:
        view = task.feature_view
        name = f"{view.name}-{task.start_time}-{task.end_time}"
        try:
            source = _stored_source(view)
            with closing(self._batches(view, source, task)) as batches:
                for batch in batches:
                    if batch.num_rows:
                        self._write(view, source, batch)
                    failpoint("engine.batch_written")
        except Exception as error:  # Feast raises the error of the job
            return LocalMaterializationJob(name, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(name, MaterializationJobStatus.SUCCEEDED)

    def _batches(
        self, view: FeatureView, source: DataSource, task: MaterializationTask
    ) -> Generator[pa.RecordBatch, None, None]:
        """Read the rows of the window under the view's own column names."""
        columns = SourceColumns.of(view, source)
        start, end = as_utc(task.start_time), as_utc(task.end_time)
        store: Any = self.offline_store
        if isinstance(store, PartsDuckDBOfflineStore):
            job = store.changed_rows(self.repo_config, source, columns, start, end)
        else:
            job = store.pull_latest_from_table_or_query(self.repo_config, source, *columns, start, end)
        now = datetime.now(UTC)
        with closing(view_batches(job, source, BATCH_ROWS)) as batches:
            for batch in batches:
                if task.disable_event_timestamp:
                    times = pa.array([now] * batch.num_rows, pa.timestamp("us", "UTC"))
                    column = batch.schema.names.index(source.timestamp_field)
                    yield batch.set_column(column, source.timestamp_field, times)
                else:
                    yield batch

    def _write(self, view: FeatureView, source: DataSource, batch: pa.RecordBatch) -> None:
        store: Any = self.online_store
        timestamp, created = source.timestamp_field, source.created_timestamp_column or None
        if isinstance(store, PackedOnlineStore):
            store.write_arrow(self.repo_config, view, batch, timestamp, created)
            return
        rows = feast_rows(view, batch, timestamp, created)
        store.online_write_batch(self.repo_config, view, rows, lambda n: None)


def _stored_source(view: Any) -> DataSource:
    """Return the source of the view's rows; raise StoreError for a view that computes them."""
    source: DataSource | None = getattr(view, "batch_source", None)
    computes = isinstance(view, (BatchFeatureView, StreamFeatureView)) and getattr(view, "feature_transformation", None)
    if computes or source is None:
        raise StoreError(
            f"{view.name!r} computes its rows, which this engine does not do; compute them outside Feast and let a "
            f"plain FeatureView read them, or remove `batch_engine:` from feature_store.yaml"
        )
    return source
