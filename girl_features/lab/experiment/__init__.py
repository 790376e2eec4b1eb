"""Experiments: the YAML, the generators, the kept fits, the claims and the page."""
