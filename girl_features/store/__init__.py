"""The feature store: Parquet parts, their Feast views, Feast plugins that read and write them, and publishing online.

The names below are imported when they are first used, so that listing contracts or writing a part does not wait for
Feast. A `feature_store.yaml` may name the plugins by this package too.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {  # a plugin's `...Config` class is in the plugin's module
    "girl_feature_views": "feast_views",
    "PartsDuckDBOfflineStore": "offline",
    "PackedSqliteOnlineStore": "online_sqlite",
    "PackedRedisOnlineStore": "online_redis",
    "ArrowComputeEngine": "engine",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name.removesuffix("Config"))
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
