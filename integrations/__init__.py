"""Thin adapters between PairFeatures and rankers: torch two-towers, LightGBM, plain columns for any other."""
