"""One CV as a text file. It is refused where the table job_seekers would reject a row with the same bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from girl_features.config import TableConfig
from girl_features.errors import DataError
from girl_features.input.checks import staging_sql
from girl_features.input.opening import open_sources
from girl_features.schema import CV, JOB_SEEKER_ID, UPDATED_AT
from girl_features.sql import connected

_BOM = b"\xef\xbb\xbf"
_ADVICE = "name a file of plain text, saved as UTF-8"


def read_cv_file(path: Path) -> str:
    """Return the text of a UTF-8 file without a byte order mark and without one line end at its end.

    Raises:
        DataError: the file cannot be read, or is no text in UTF-8; names its type where its bytes tell it.
    """
    try:
        data = path.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); {_ADVICE}") from error
    if problem := _problem(data):
        raise DataError(f"{path} is no CV ({problem}); {_ADVICE}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no CV (its byte {error.start + 1:,} is not UTF-8 text); {_ADVICE}") from error
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def _problem(data: bytes) -> str | None:
    """Return why the table job_seekers would reject a CV of these bytes; None if it would not."""
    query = f"SELECT 'file' AS {JOB_SEEKER_ID}, {CV}, TIMESTAMPTZ '2000-01-01' AS {UPDATED_AT} FROM girl_cv_file"
    config, latest = TableConfig(query=query), datetime.max.replace(tzinfo=UTC)
    with connected() as connection:
        connection.register("girl_cv_file", pa.table({CV: pa.array([data], pa.binary())}))
        with open_sources(connection, "job_seekers", config, home="memory") as [source]:
            row = connection.execute(f"SELECT problem.detail FROM ({staging_sql(source, config, latest)})").fetchone()
    return None if row is None or row[0] is None else str(row[0])
