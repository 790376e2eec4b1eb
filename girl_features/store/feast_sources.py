"""Column names and rows of the source of a Feast view. Importing this module does not import Feast."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

if TYPE_CHECKING:
    from feast.data_source import DataSource
    from feast.feature_view import FeatureView


class SourceColumns(NamedTuple):
    """Columns to read, by their names in the files."""

    keys: list[str]
    features: list[str]
    timestamp: str
    created: str | None

    @classmethod
    def of(cls, view: FeatureView, source: DataSource) -> SourceColumns:
        """Return the columns of all join keys and features of `view`."""
        return cls(
            [file_column(source, name) for name in view.join_keys],
            [file_column(source, feature.name) for feature in view.features],
            file_column(source, source.timestamp_field),
            created_column(source),
        )

    @property
    def names(self) -> list[str]:
        """All columns, in the order that Feast wants."""
        return [name for name in (*self.keys, *self.features, self.timestamp, self.created) if name]


def file_column(source: DataSource, name: str) -> str:
    """Return the name in the files of the column that the view calls `name`."""
    names_in_files = {in_view: in_file for in_file, in_view in source.field_mapping.items()}
    return names_in_files.get(name, name)


def created_column(source: DataSource) -> str | None:
    """Return the name in the files of the column with created times; None if there is none."""
    return file_column(source, source.created_timestamp_column) or None


def view_batches(job: Any, source: DataSource, batch_rows: int) -> Generator[pa.RecordBatch, None, None]:
    """Read the rows of a retrieval job under the view's column names, at most `batch_rows` at a time.

    Close the generator when reading stops early: it keeps the files in use.
    """
    stream = getattr(job, "stream", None)  # only our own jobs have it
    with stream(batch_rows) if stream else nullcontext(job.to_arrow().to_batches(max_chunksize=batch_rows)) as batches:
        for batch in batches:
            yield batch.rename_columns([source.field_mapping.get(name, name) for name in batch.schema.names])


def as_utc(time: datetime) -> datetime:
    """Return `time` with its zone; one without a zone is UTC, as in Feast."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
