"""The SELECT that stages one source of an input table, after its types were checked."""

from __future__ import annotations

from datetime import datetime

import duckdb

from girl_features.config import TableConfig
from girl_features.input.checks import staging_sql
from girl_features.input.column_types import check_types
from girl_features.input.html_text import create_strip_html
from girl_features.input.sources import Source


def checked_staging_sql(
    connection: duckdb.DuckDBPyConnection, source: Source, config: TableConfig, latest: datetime
) -> str:
    """Return `checks.staging_sql`, to be run on `connection`.

    Raises:
        DataError: a column has a type that cannot be read.
    """
    check_types(connection, source, config)
    if config.strip_html:
        create_strip_html(connection)
    return staging_sql(source, config, latest)
