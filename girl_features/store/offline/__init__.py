"""The offline side of the store: point-in-time joins over Parquet parts, and Feast's plugin for them.

A `feature_store.yaml` names the plugin by this package: `girl_features.store.offline.PartsDuckDBOfflineStore`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from girl_features.store.offline.offline_store import PartsDuckDBOfflineStore, PartsDuckDBOfflineStoreConfig

__all__ = ["PartsDuckDBOfflineStore", "PartsDuckDBOfflineStoreConfig"]


def __getattr__(name: str) -> Any:
    """Import the plugin, and Feast with it, only when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from girl_features.store.offline import offline_store

    return getattr(offline_store, name)
