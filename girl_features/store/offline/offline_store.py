"""Feast's offline store on DuckDB over immutable Parquet parts.

    offline_store:
      type: girl_features.store.offline.PartsDuckDBOfflineStore

A drop-in for `type: duckdb`: the same files are read by both. What Feast's own does on other sources (S3,
Delta, Iceberg) is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import pyarrow as pa
from feast.data_format import DeltaFormat, ParquetFormat
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView
from pydantic import StrictStr

from girl_features.errors import DataError, StoreError
from girl_features.sql import MEMORY_LIMIT, connected
from girl_features.store.offline.appending import append_rows
from girl_features.store.offline.history import ViewSource, join_view
from girl_features.store.offline.jobs import PartsRetrievalJob
from girl_features.store.offline.latest import RowsQuery, rows_between
from girl_features.store.parts.part_files import is_intact, reading
from girl_features.store.parts.tombstones import Tombstones

if TYPE_CHECKING:
    from feast.data_source import DataSource
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.repo_config import RepoConfig


class PartsDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """`offline_store:` of feature_store.yaml."""

    type: StrictStr = "girl_features.store.offline.PartsDuckDBOfflineStore"
    memory_limit: StrictStr = MEMORY_LIMIT
    """ What DuckDB may hold in memory before it spills to disk; results come on top. """
    threads: int | None = None
    """ Of DuckDB; all cores if left out. """
    allow_delta: bool = False
    """ Read Delta sources as Feast does, which downloads a DuckDB extension at read time. """


class PartsDuckDBOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store, with appends that are new files and joins that carry no vectors."""

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
        """A job whose rows are those of `entity_df`, in its order, with the features known at each row's time."""
        odfvs = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        sources = [_readable(config, view.batch_source) for view in feature_views]
        if any(source is None for source in sources) or any(odfv.mode == "substrait" for odfv in odfvs):
            return DuckDBOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
            )
        entities, event_timestamp = _entity_rows(entity_df)
        views = [_View.of(config, view, feature_refs, full_feature_names) for view in feature_views]

        def run() -> pa.Table:
            result = entities
            limits = _limits(config)
            for view in views:
                with view.source() as source, connected(*limits) as connection:
                    columns = join_view(
                        connection, entities, event_timestamp, source, created_cutoff=filter_by_created_timestamp
                    )
                for name, column in columns.items():
                    result = result.append_column(name, column)
            return result

        times = entities[event_timestamp]
        return PartsRetrievalJob(
            run,
            on_demand_feature_views=odfvs,
            full_feature_names=full_feature_names,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.column_names if name != event_timestamp],
                min_event_timestamp=_extreme(times, "min"),
                max_event_timestamp=_extreme(times, "max"),
            ),
            repo_path=str(config.repo_path),
        )

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
        """The newest row of each key with an event time from `start_date` to `end_date`, both included."""
        location = _readable(config, data_source)
        if location is None:
            return DuckDBOfflineStore.pull_latest_from_table_or_query(
                config,
                data_source,
                join_key_columns,
                feature_name_columns,
                timestamp_field,
                created_timestamp_column,
                start_date,
                end_date,
            )
        query = RowsQuery(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return _rows_job(config, location, query.between(start_date, end_date, latest=True))

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
        """Every row with an event time from `start_date` to `end_date`, both included."""
        location = _readable(config, data_source)
        if location is None:
            return DuckDBOfflineStore.pull_all_from_table_or_query(
                config,
                data_source,
                join_key_columns,
                feature_name_columns,
                timestamp_field,
                created_timestamp_column,
                start_date,
                end_date,
            )
        query = RowsQuery(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return _rows_job(config, location, query.between(start_date, end_date, latest=False))

    @staticmethod
    def changed_rows(
        config: RepoConfig, data_source: DataSource, query: RowsQuery, start: datetime, end: datetime
    ) -> PartsRetrievalJob | None:
        """The newest row up to `end` of each key of which a row is new since `start`, by event or created time.

        Unlike `pull_latest_from_table_or_query` this has rows that arrived late. None for sources left to Feast.
        """
        location = _readable(config, data_source)
        if location is None:
            return None
        return _rows_job(config, location, query.changed(start, end))

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append `table` as one new part: any number may write at once, and nothing written is read again.

        Raises:
            StoreError: other columns than the source has, or a disk that does not take it.
            InvalidVectorError: NaN, infinite, all-zero or wrong-dimension vectors; names the ids.
        """
        location = _readable(config, feature_view.batch_source)
        if location is None:
            DuckDBOfflineStore.offline_write_batch(config, feature_view, table, progress)
            return
        append_rows(location, feature_view, table)
        if progress is not None:
            progress(table.num_rows)


class _View(NamedTuple):
    """One feature view of a history request."""

    location: Path
    join_keys: dict[str, str]
    timestamp: str
    created: str | None
    features: dict[str, str]
    ttl: Any

    @classmethod
    def of(cls, config: RepoConfig, view: FeatureView, refs: list[str], full_feature_names: bool) -> _View:
        source = view.batch_source
        assert source is not None, "_readable has seen it"
        column_of = {new: old for old, new in source.field_mapping.items()}
        prefix = str(view.projection.name_to_use())  # type: ignore[no-untyped-call]
        wanted = [ref.split(":")[1] for ref in refs if ref.startswith(f"{prefix}:")]
        out = f"{view.projection.name_alias or view.name}__" if full_feature_names else ""
        keys = view.projection.join_key_map or {field.name: field.name for field in view.entity_columns}
        location = _readable(config, source)
        assert location is not None
        return cls(
            location=location,
            join_keys={column_of.get(key, key): column for key, column in keys.items()},
            timestamp=column_of.get(source.timestamp_field, source.timestamp_field),
            created=column_of.get(source.created_timestamp_column, source.created_timestamp_column) or None,
            features={column_of.get(name, name): f"{out}{name}" for name in wanted},
            ttl=view.ttl or None,
        )

    @contextmanager
    def source(self) -> Iterator[ViewSource]:
        """The view with the files it has now, which stay until the block ends."""
        with _files(self.location) as files:
            yield ViewSource(
                files,
                self.join_keys,
                self.timestamp,
                self.created,
                self.features,
                self.ttl,
                Tombstones.of(self.location),
            )


def _readable(config: RepoConfig, source: DataSource | None) -> Path | None:
    """Where the Parquet of a local source is; None for a source that Feast's own store must read.

    A relative path counts from the repo, for reading as for writing.
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
def _files(location: Path) -> Iterator[list[Path]]:
    """The Parquet files at `location`, a folder of parts or one file."""
    if location.is_dir():
        with reading(location) as files:
            yield files
        return
    if not location.is_file():
        raise StoreError(f"no Parquet file or folder at {location}; check the path of the Feast source")
    if not is_intact(location):
        raise StoreError(f"{location} is not a whole Parquet file; restore it, or write it again")
    yield [location]


def _entity_rows(entity_df: pd.DataFrame | str) -> tuple[pa.Table, str]:
    """The entity rows as Arrow, their times in UTC, and the name of the time column."""
    if not isinstance(entity_df, pd.DataFrame):
        raise DataError(
            f"entity rows should be a pandas DataFrame, found {type(entity_df).__name__}; run the query first"
        )
    name = infer_event_timestamp_from_entity_df(dict(zip(entity_df.columns, entity_df.dtypes, strict=True)))
    times = entity_df[name].infer_objects()
    if not pd.api.types.is_datetime64_any_dtype(times):
        entity_df = entity_df.assign(**{name: pd.to_datetime(times, utc=True)})
    return pa.Table.from_pandas(entity_df, preserve_index=False).replace_schema_metadata(None), name


def _extreme(times: pa.ChunkedArray, which: str) -> datetime | None:
    import pyarrow.compute as pc

    value = pc.min_max(times)[which].cast(pa.timestamp("us", times.type.tz), safe=False).as_py()
    assert value is None or isinstance(value, datetime)
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def _limits(config: RepoConfig) -> tuple[str, int | None]:
    settings = config.offline_store
    return getattr(settings, "memory_limit", MEMORY_LIMIT), getattr(settings, "threads", None)


def _rows_job(config: RepoConfig, location: Path, query: Any) -> PartsRetrievalJob:
    limits = _limits(config)

    @contextmanager
    def stream(batch_rows: int) -> Iterator[pa.RecordBatchReader]:
        with _files(location) as files, connected(*limits) as connection:
            yield rows_between(connection, files, query, Tombstones.of(location), batch_rows)

    return PartsRetrievalJob.of_stream(stream, repo_path=str(config.repo_path))
