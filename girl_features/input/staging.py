"""Staging of one input table: its rows in a DuckDB table, each with the first check that it fails."""

from __future__ import annotations

from datetime import datetime

import duckdb

from girl_features.config import TableConfig
from girl_features.input.checks import staging_sql
from girl_features.input.html_text import create_strip_html
from girl_features.input.sources import Source
from girl_features.input.types import check_types


def stage_rows(
    connection: duckdb.DuckDBPyConnection, target: str, source: Source, config: TableConfig, latest: datetime
) -> None:
    """Create the table `target` of the checked rows of `source`, in their order: see `checks.staging_sql`.

    Raises:
        DataError: a column has a type that cannot be read.
    """
    check_types(connection, source, config)
    if config.strip_html:
        create_strip_html(connection)
    connection.execute(f"CREATE TABLE {target} AS {staging_sql(source, config, latest)}")
