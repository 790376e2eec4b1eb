"""Recommenders of the literature, and the controls that learn from texts."""
