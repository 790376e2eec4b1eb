"""Vectors of a new contract for a ranker that was trained on an old one."""
