"""The offline side of the store: point-in-time joins over Parquet parts, and Feast's plugin for them.

A `feature_store.yaml` names the plugin by this package: `girl_features.store.offline.PartsDuckDBOfflineStore`.
"""

from girl_features.store.offline.offline_store import PartsDuckDBOfflineStore, PartsDuckDBOfflineStoreConfig

__all__ = ["PartsDuckDBOfflineStore", "PartsDuckDBOfflineStoreConfig"]
