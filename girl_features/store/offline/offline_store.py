"""Feast's offline store on DuckDB over immutable Parquet parts.

    offline_store:
      type: girl_features.store.offline.PartsDuckDBOfflineStore

A drop-in for `type: duckdb`: both read the same files. Other sources (S3, Delta, Iceberg) are read by Feast's own
store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection
from feast.data_format import DeltaFormat, ParquetFormat
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.compute_engines.local.job import LocalRetrievalJob
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig, _write_data_source
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from pydantic import StrictStr

from girl_features.errors import StoreError
from girl_features.sql import MEMORY_LIMIT, connected
from girl_features.store.feast_sources import SourceColumns, created_column, file_column
from girl_features.store.offline.appending import append_rows
from girl_features.store.offline.entity_rows import check_names, entity_table, time_range
from girl_features.store.offline.history import BATCH_ROWS, ViewSource, join_view
from girl_features.store.parts.latest import RowSelection, read_rows, rows_between, rows_changed
from girl_features.store.parts.part_files import is_intact, reading
from girl_features.store.parts.tombstones import Tombstones


class PartsDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """`offline_store:` of feature_store.yaml."""

    type: StrictStr = "girl_features.store.offline.PartsDuckDBOfflineStore"
    memory_limit: StrictStr = MEMORY_LIMIT
    """ Memory of DuckDB, beyond which it spills to disk. Results are not counted. """
    threads: int | None = None
    """ Threads of DuckDB; one for each core if left out. """
    allow_delta: bool = False
    """ Read Delta sources as Feast does. DuckDB then downloads an extension when it reads. """


class PartsDuckDBOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store, with appends as new files, and joins on keys and times alone."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Return a job for the rows of `entity_df`, in its order, with the features known at each row's time.

        Raises:
            DataError: the entity rows cannot be used, or two columns of the result would have one name. The job
                raises it for ids that cannot be compared exactly with the stored ones.
            StoreError: the source is a Delta table. The job raises it for files that cannot be read.
        """
        odfvs = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        locations = [parquet_location(config, view.batch_source) for view in feature_views]
        if None in locations or any(odfv.mode == "substrait" for odfv in odfvs):
            request = (config, feature_views, feature_refs, entity_df, registry, project, full_feature_names)
            return DuckDBOfflineStore.get_historical_features(*request, filter_by_created_timestamp)
        views = [_view_source(config, view, feature_refs, full_feature_names) for view in feature_views]
        entities, event_timestamp = entity_table(entity_df, {key for view in views for key in view.join_keys.values()})
        feature_names = [name for view in views for name in view.features.values()]
        feature_names += _on_demand_names(odfvs, feature_refs, full_feature_names)
        check_names(entities.column_names, feature_names)

        def run() -> pa.Table:
            result = entities
            for view in views:
                with _files_at(view.location) as files, _connected(config) as connection:
                    columns = join_view(
                        connection, entities, event_timestamp, view, files, created_cutoff=filter_by_created_timestamp
                    )
                for name, column in columns.items():
                    result = result.append_column(name, column)
            return result

        keys = [name for name in entities.column_names if name != event_timestamp]
        first, last = time_range(entities[event_timestamp]) or (None, None)
        metadata = RetrievalMetadata(feature_refs, keys, first, last)
        return PartsRetrievalJob(run, str(config.repo_path), odfvs, full_feature_names, metadata)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return a job for the newest row of each key with an event time from `start_date` to `end_date`, inclusive."""
        columns = SourceColumns(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        location = parquet_location(config, data_source)
        if location is None:
            return DuckDBOfflineStore.pull_latest_from_table_or_query(
                config, data_source, *columns, start_date, end_date
            )
        return _selection_job(config, location, rows_between(columns, start_date, end_date, latest=True))

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return a job for every row with an event time from `start_date` to `end_date`, inclusive."""
        columns = SourceColumns(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        location = parquet_location(config, data_source)
        if location is None:
            return DuckDBOfflineStore.pull_all_from_table_or_query(config, data_source, *columns, start_date, end_date)
        return _selection_job(config, location, rows_between(columns, start_date, end_date, latest=False))

    @staticmethod
    def changed_rows(
        config: RepoConfig, data_source: DataSource, columns: SourceColumns, start: datetime, end: datetime
    ) -> RetrievalJob:
        """Return a job for the newest row up to `end` of each key with a row that is new since `start`.

        A row is new by its event time or by its created time. So, unlike `pull_latest_from_table_or_query`, this
        includes rows that arrived late; but not of a source that Feast's own store must read.
        """
        location = parquet_location(config, data_source)
        if location is None:
            return DuckDBOfflineStore.pull_latest_from_table_or_query(config, data_source, *columns, start, end)
        return _selection_job(config, location, rows_changed(columns, start, end))

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Append `table` as one new part, without reading older parts. Any number of writers may append at once.

        Raises:
            StoreError: columns are missing, unknown or of other types, or the rows cannot be written.
            InvalidVectorError: NaN, infinite, all-zero or wrong-dimension vectors; names the ids.
        """
        location = parquet_location(config, feature_view.batch_source)
        if location is None:
            DuckDBOfflineStore.offline_write_batch(config, feature_view, table, progress)
            return
        append_rows(location, feature_view, table)
        if progress is not None:
            progress(table.num_rows)


class PartsRetrievalJob(LocalRetrievalJob):
    """Rows that `run` reads each time they are asked for; `stream` reads so many of them at a time, if it is given."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        repo_path: str,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        full_feature_names: bool = False,
        metadata: RetrievalMetadata | None = None,
        *,
        stream: Callable[[int], AbstractContextManager[pa.RecordBatchReader]] | None = None,
    ) -> None:
        views = list(on_demand_feature_views)
        super().__init__(None, None, full_feature_names, views, metadata)  # type: ignore[arg-type]  # `run` is the plan
        self._run, self.stream, self._repo_path = run, stream, repo_path

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return _frame(self._run())

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """Return the rows for pandas; integers that a float would round have the type Int64 where one is missing."""
        return _frame(self.to_arrow(validation_reference=validation_reference, timeout=timeout))

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> Any:
        """Write the rows as a saved dataset, as Feast's own store does."""
        import ibis  # type: ignore[import-untyped]

        table = ibis.memtable(self.to_arrow())
        _write_data_source(table, storage.to_data_source(), self._repo_path, "overwrite", allow_overwrite)


def _frame(table: pa.Table) -> pd.DataFrame:
    frame = table.to_pandas()
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count and _is_beyond_floats(column):  # pandas would make floats of them
            frame[name] = column.to_pandas(types_mapper={column.type: pd.Int64Dtype()}.get)
    return frame


def _is_beyond_floats(column: pa.ChunkedArray) -> bool:
    """True for integers of which a float64 does not hold every one."""
    if column.type != pa.int64() or column.null_count == len(column):
        return False
    least, most = pc.min_max(column).as_py().values()
    return bool(least < -(2**53) or most > 2**53)


def _view_source(config: RepoConfig, view: FeatureView, refs: list[str], full_feature_names: bool) -> ViewSource:
    source, location = view.batch_source, parquet_location(config, view.batch_source)
    assert source is not None and location is not None, "get_historical_features has checked it"
    view_name = str(view.projection.name_to_use())  # type: ignore[no-untyped-call]
    names = [ref.split(":")[1] for ref in refs if ref.startswith(f"{view_name}:")]
    prefix = f"{view.projection.name_alias or view.name}__" if full_feature_names else ""
    keys = view.projection.join_key_map or {field.name: field.name for field in view.entity_columns}
    return ViewSource(
        location=location,
        join_keys={file_column(source, key): column for key, column in keys.items()},
        timestamp=file_column(source, source.timestamp_field),
        created=created_column(source),
        features={file_column(source, name): f"{prefix}{name}" for name in names},
        types={file_column(source, field.name): field.dtype for field in (*view.entity_columns, *view.features)},
        name=view.name,
        ttl=view.ttl or None,
    )


def _on_demand_names(views: list[OnDemandFeatureView], refs: list[str], full_feature_names: bool) -> list[str]:
    """Return the names of the requested on-demand features in the result."""
    names = []
    for view in views:
        view_name = str(view.projection.name_to_use())  # type: ignore[no-untyped-call]
        features = [ref.split(":")[1] for ref in refs if ref.split(":")[0] in (view.name, view_name)]
        names += [f"{view_name}__{name}" if full_feature_names else name for name in features]
    return names


def parquet_location(config: RepoConfig, source: DataSource | None) -> Path | None:
    """Return the Parquet file or folder of a local source; None for a source that Feast's own store must read.

    A relative path counts from the repo, in reading and in writing.

    Raises:
        StoreError: a Delta source, unless `allow_delta` is set.
    """
    if not isinstance(source, FileSource):
        return None
    settings = config.offline_store
    if isinstance(source.file_format, DeltaFormat) and not getattr(settings, "allow_delta", False):
        raise StoreError(
            f"the source {source.name!r} is a Delta table, for which DuckDB would download an extension at read "
            f"time; export it to Parquet, or set `allow_delta: true` under `offline_store:`"
        )
    is_parquet = source.file_format is None or isinstance(source.file_format, ParquetFormat)
    path = source.path.removeprefix("file://")
    if not is_parquet or "://" in path or any(character in path for character in "*?["):
        return None
    return Path(config.repo_path or ".", path).resolve()


@contextmanager
def _files_at(location: Path) -> Iterator[list[Path]]:
    """List the Parquet files of a folder of parts, or the one file, at `location`."""
    if location.is_dir():
        with reading(location) as files:
            yield files
        return
    if not location.is_file():
        raise StoreError(f"no Parquet file or folder at {location}; check the path of the Feast source")
    if not is_intact(location):
        raise StoreError(f"{location} is not a whole Parquet file; restore it, or write it again")
    yield [location]


def _connected(config: RepoConfig) -> AbstractContextManager[DuckDBPyConnection]:
    settings = config.offline_store
    return connected(getattr(settings, "memory_limit", MEMORY_LIMIT), getattr(settings, "threads", None))


def _selection_job(config: RepoConfig, location: Path, selection: RowSelection) -> PartsRetrievalJob:
    @contextmanager
    def stream(batch_rows: int) -> Iterator[pa.RecordBatchReader]:
        with _files_at(location) as files, _connected(config) as connection:
            yield read_rows(connection, files, selection, Tombstones.of(location), batch_rows)

    def run() -> pa.Table:
        with stream(BATCH_ROWS) as reader:
            return reader.read_all()

    return PartsRetrievalJob(run, str(config.repo_path), stream=stream)
