"""Generated job descriptions as job-seeker features, in a Feast store backed by DuckDB."""

__version__ = "0.1.0"
