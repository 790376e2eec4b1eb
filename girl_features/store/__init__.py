"""The feature store: Parquet parts, their Feast views, Feast plugins that read and write them, and publishing online.

The names below are imported when they are first used, so that listing contracts or writing a part does not wait for
Feast. A `feature_store.yaml` may name the plugins by this package too.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "girl_feature_views": "feast_views",
    "PartsDuckDBOfflineStore": "offline",
    "PartsDuckDBOfflineStoreConfig": "offline",
    "PackedSqliteOnlineStore": "online_sqlite",
    "PackedSqliteOnlineStoreConfig": "online_sqlite",
    "PackedRedisOnlineStore": "online_redis",
    "PackedRedisOnlineStoreConfig": "online_redis",
    "ArrowComputeEngine": "engine",
    "ArrowComputeEngineConfig": "engine",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
