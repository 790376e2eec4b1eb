"""Small Feast repos for the store tests, with any offline and online store over a folder of Parquet parts."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Int64, String, UnixTimestamp

DIMENSION = 4
OUR_OFFLINE = "girl_features.store.offline.PartsDuckDBOfflineStore"
OUR_SQLITE = "girl_features.store.online_sqlite.PackedSqliteOnlineStore"
OUR_REDIS = "girl_features.store.online_redis.PackedRedisOnlineStore"
OUR_ENGINE = "girl_features.store.engine.ArrowComputeEngine"

SCHEMA = pa.schema(
    [
        ("seeker", pa.string()),
        ("event_timestamp", pa.timestamp("us", "UTC")),
        ("created_timestamp", pa.timestamp("us", "UTC")),
        ("vector", pa.list_(pa.float32())),
        ("count", pa.int64()),
        ("title", pa.string()),
        ("words", pa.list_(pa.string())),
        ("seen_at", pa.timestamp("us", "UTC")),
    ]
)
FEATURES = ["vector", "count", "title", "words", "seen_at"]
DAY = datetime(2024, 5, 1, tzinfo=UTC)


def row(seeker: str, day: float, created: float, value: float) -> dict[str, Any]:
    """Return one row of the test table. All its features are made from `value`."""
    at = DAY + timedelta(days=day)
    return {
        "seeker": seeker,
        "event_timestamp": at,
        "created_timestamp": DAY + timedelta(days=created),
        "vector": [value, 1.0, -value, 0.5],
        "count": int(value),
        "title": f"title {value:g}",
        "words": [f"w{i}" for i in range(int(value) % 3)],
        "seen_at": DAY + timedelta(seconds=int(value)),
    }


def rows_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def write_parts(folder: Path, *parts: Sequence[dict[str, Any]]) -> None:
    """Replace the parts in `folder` by Parquet files that no store of ours wrote, one for each list of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.parquet"):
        old.unlink()
    for i, rows in enumerate(parts):
        pq.write_table(rows_table(rows), folder / f"{i:03d}.parquet")


def feature_view(
    folder: Path, ttl: timedelta = timedelta(0), name: str = "facts", offline: bool = False, **source: Any
) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[Entity(name="seeker", join_keys=["seeker"], value_type=ValueType.STRING)],
        schema=[
            Field(name="seeker", dtype=String),
            Field(name="vector", dtype=Array(Float32), vector_index=True, vector_length=DIMENSION),
            Field(name="count", dtype=Int64),
            Field(name="title", dtype=String),
            Field(name="words", dtype=Array(String)),
            Field(name="seen_at", dtype=UnixTimestamp),
        ],
        source=FileSource(
            name=f"{name}_source",
            path=str(folder),
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
            **source,
        ),
        ttl=ttl,
        online=True,
        offline=offline,
    )


def open_store(
    folder: Path,
    views: Sequence[Any],
    *,
    offline: str = "duckdb",
    online: dict[str, Any] | str = "sqlite",
    engine: str | None = None,
) -> FeatureStore:
    """Return a Feast store in `folder` with `views` applied."""
    folder.mkdir(parents=True, exist_ok=True)
    online_config = dict(online) if isinstance(online, dict) else {"type": online}
    if online_config["type"] in ("sqlite", OUR_SQLITE):
        online_config.setdefault("path", str(folder / "online.db"))
    settings: dict[str, Any] = {
        "project": "shop",
        "provider": "local",
        "registry": {"registry_type": "file", "path": str(folder / "registry.db"), "cache_ttl_seconds": 600},
        "offline_store": {"type": offline},
        "online_store": online_config,
        "materialization": {"online_write_batch_size": 10_000},
        "entity_key_serialization_version": 3,
    }
    if engine is not None:
        settings["batch_engine"] = {"type": engine}
    store = FeatureStore(config=RepoConfig(**settings, repo_path=str(folder)))
    entity = Entity(name="seeker", join_keys=["seeker"], value_type=ValueType.STRING)
    store.apply([entity, *views])
    return store


def needs_redis() -> str | None:
    """Return the reason why Redis cannot be tested here, or None if it can."""
    return None if shutil.which("redis-server") else "the program redis-server is not installed"


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """Run a Redis server on a free port, without persistence, and give the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL) as server:
        try:
            for _ in range(200):
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.02)
            else:
                raise RuntimeError("redis-server did not start within four seconds")
            yield port
        finally:
            server.terminate()
            server.wait()
