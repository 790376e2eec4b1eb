"""Feast's RetrievalJob over a function that makes the rows, or a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
        repo_path: str,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        full_feature_names: bool = False,
        metadata: RetrievalMetadata | None = None,
        *,
        stream: Stream | None = None,  # reads the same rows, at most so many at a time
    ) -> None:
        self._run, self._stream, self._repo_path = run, stream, repo_path
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._full_feature_names = full_feature_names
        self._metadata = metadata

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
