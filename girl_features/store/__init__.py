"""The feature store: Parquet parts, their Feast views, Feast plugins over them, and what is published online.

Importing this package imports nothing else, so that listing contracts or writing a part does not wait for
`import feast`; the names below are looked up when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
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
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
