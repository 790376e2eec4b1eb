"""Immutable Parquet parts and the checks of their rows."""

from girl_features.store.parts.parts_store import PartsStore, contract_parts

__all__ = ["PartsStore", "contract_parts"]
