"""Rankers that learn from vectors, and the files they are kept in."""
