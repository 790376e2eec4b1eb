"""Feast's RetrievalJob over a function that makes the rows, or a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pandas as pd
import pyarrow as pa
from feast.infra.offline_stores.duckdb import _write_data_source
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage

Stream = Callable[[int], AbstractContextManager[pa.RecordBatchReader]]


class PartsRetrievalJob(RetrievalJob):
    """Rows that are read each time they are asked for."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        *,
        on_demand_feature_views: list[OnDemandFeatureView],
        full_feature_names: bool,
        metadata: RetrievalMetadata | None,
        repo_path: str,
        stream: Stream | None = None,
    ) -> None:
        self._run = run
        self._stream = stream
        self._on_demand_feature_views = on_demand_feature_views
        self._full_feature_names = full_feature_names
        self._metadata = metadata
        self._repo_path = repo_path

    @classmethod
    def of_stream(cls, stream: Stream, *, repo_path: str) -> PartsRetrievalJob:
        """Make a job that can be read a batch at a time."""

        def run() -> pa.Table:
            with stream(16_384) as reader:
                return reader.read_all()

        return cls(
            run, on_demand_feature_views=[], full_feature_names=False, metadata=None, repo_path=repo_path, stream=stream
        )

    @contextmanager
    def batches(self, batch_rows: int) -> Iterator[Iterator[pa.RecordBatch]]:
        """Read the rows without on-demand features, at most `batch_rows` in memory at a time if the job can stream."""
        if self._stream is None:
            yield iter(self._run().to_batches(max_chunksize=batch_rows))
            return
        with self._stream(batch_rows) as reader:
            yield iter(reader)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._run().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        """True if features are named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The views that Feast computes on the result."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features, keys and times of a history request; None for other jobs."""
        return self._metadata

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> Any:
        """Write the rows as a saved dataset, as Feast's own store does."""
        import ibis  # type: ignore[import-untyped]

        table = ibis.memtable(self.to_arrow())
        _write_data_source(table, storage.to_data_source(), self._repo_path, "overwrite", allow_overwrite)
