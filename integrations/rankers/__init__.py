"""Rankers on PairFeatures: torch two-towers and LightGBM, made, saved and loaded by name."""
