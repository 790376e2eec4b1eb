"""Data of the store benchmark: Parquet parts of random vectors, and Feast stores over them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
from measuring import quiet

from girl_features.sql import parquet_relation
from girl_features.store.parts.part_files import parquet_bytes

if TYPE_CHECKING:
    from feast import FeatureStore

ROWS_PER_PART = 100_000  # what one nightly job leaves
StoreKind = Literal["ours", "stock"]  # "stock": Feast's own store


def vectors_table(n_seekers: int, versions: int, dimension: int, first: int = 0, seed: int = 0) -> pa.Table:
    """Return `versions` rows of each seeker, a day apart, in random order; seekers are numbered from `first`."""
    rng = np.random.default_rng(seed)
    n = n_seekers * versions
    seeker = np.tile(np.arange(first, first + n_seekers), versions)
    day = np.repeat(np.arange(versions), n_seekers)
    order = rng.permutation(n)
    times = (np.datetime64("2024-01-01", "us") + day[order].astype("timedelta64[D]")).astype("datetime64[us]")
    values = rng.standard_normal(n * dimension, np.float32)
    offsets = np.arange(n + 1, dtype=np.int32) * dimension
    return pa.table(
        {
            "seeker": pa.array([f"seeker-{i}" for i in seeker[order]]),
            "event_timestamp": pa.array(times).cast(pa.timestamp("us", "UTC")),
            "created_timestamp": pa.array(times).cast(pa.timestamp("us", "UTC")),
            "vector": pa.ListArray.from_arrays(offsets, values),
        }
    )


def write_folder(folder: Path, n_seekers: int, versions: int, dimension: int) -> Path:
    """Write the rows of all seekers as parts of ROWS_PER_PART rows and return the folder."""
    folder.mkdir(parents=True)
    step = max(1, ROWS_PER_PART // versions)
    for number, first in enumerate(range(0, n_seekers, step)):
        table = vectors_table(min(step, n_seekers - first), versions, dimension, first, seed=number)
        (folder / f"{number:04d}.parquet").write_bytes(parquet_bytes(table))
    return folder


def rows_as_bytes(folder: Path) -> Iterator[list[tuple[str, bytes]]]:
    """Yield batches of id and vector bytes from all parts of a folder."""
    with duckdb.connect() as connection:
        files = parquet_relation(sorted(folder.glob("*.parquet")))
        query = connection.execute(f"SELECT seeker, vector FROM {files}")
        for batch in query.to_arrow_reader(10_000):
            vectors = batch.column(1).flatten().to_numpy().reshape(batch.num_rows, -1)
            data, width = vectors.tobytes(), vectors.shape[1] * 4
            rows = [data[start : start + width] for start in range(0, len(data), width)]
            yield list(zip(batch.column(0).to_pylist(), rows, strict=True))


def open_store(root: Path, source: Path, dimension: int, kind: StoreKind, redis: str | None = None) -> FeatureStore:
    """Return a Feast store in the new folder `root`, with one view over `source`, a folder of parts or a Parquet file.

    The online store is the Redis server at the address `redis`, or SQLite if that is None.
    """
    # Imported here, so that a process that joins by DuckDB alone is measured without Feast.
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.data_format import ParquetFormat
    from feast.types import Array, Float32, String

    root.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "project": "bench",
        "provider": "local",
        "registry": {"registry_type": "file", "path": str(root / "registry.db"), "cache_ttl_seconds": 3600},
        "offline_store": {"type": "duckdb"},
        "online_store": online_settings(kind, redis, str(root / "online.db"), deadline_ms=1000),
        "materialization": {"online_write_batch_size": 10_000},
        "entity_key_serialization_version": 3,
    }
    if kind == "ours":
        settings["offline_store"] = {"type": "girl_features.store.offline.PartsDuckDBOfflineStore"}
        settings["batch_engine"] = {"type": "girl_features.store.engine.ArrowComputeEngine"}
    entity = Entity(name="seeker", join_keys=["seeker"], value_type=ValueType.STRING)
    view = FeatureView(
        name="facts",
        entities=[entity],
        schema=[
            Field(name="seeker", dtype=String),
            Field(name="vector", dtype=Array(Float32), vector_index=True, vector_length=dimension),
        ],
        source=FileSource(
            name="facts_source",
            path=str(source),
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
        ttl=timedelta(0),
    )
    store = FeatureStore(config=RepoConfig(**settings, repo_path=str(root)))
    with quiet():
        store.apply([entity, view])
    return store


def online_settings(kind: StoreKind, redis: str | None, path: str, deadline_ms: int) -> dict[str, Any]:
    """Return the `online_store` section of a Feast repo: SQLite at `path`, or a Redis database for each kind."""
    database = "redis" if redis else "sqlite"
    settings: dict[str, Any] = {"type": database}
    if kind == "ours":
        plugin = f"girl_features.store.online_{database}.Packed{database.capitalize()}OnlineStore"
        settings = {"type": plugin, "read_deadline_ms": deadline_ms}
    if redis:
        return {**settings, "connection_string": f"{redis},db={0 if kind == 'ours' else 1}"}
    return {**settings, "path": path}
