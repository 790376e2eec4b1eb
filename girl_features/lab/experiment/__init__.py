"""One experiment: its YAML, its arms, the fits that are kept, the claims and the page."""
