"""Immutable Parquet parts, and the rows that may enter them."""

from girl_features.store.parts.parts_store import PartsStore, contract_parts

__all__ = ["PartsStore", "contract_parts"]
