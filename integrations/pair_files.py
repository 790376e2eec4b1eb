"""A user's own table as a file: Parquet, or CSV and TSV, whose columns are all text. The ending says which."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.errors import ConfigError, DataError
from girl_features.input.sources import open_file
from girl_features.schema import SOURCE_FILE
from girl_features.sql import connected

_PARQUET = (".parquet", ".pq")
_TSV = (".tsv", ".tsv.gz")
_TEXT = (".csv", ".csv.gz", *_TSV)


def check_ending(path: Path) -> None:
    """Raise ConfigError if the ending of `path` is not one that can be read and written."""
    if not path.name.lower().endswith(_PARQUET + _TEXT):
        raise ConfigError(f"{path} should end in {', '.join(_PARQUET + _TEXT)}; the ending says what the file is")


def read_pairs(path: Path) -> pa.Table:
    """Return all rows and columns of a file.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; give the table to join features to")
    if path.name.lower().endswith(_PARQUET):
        try:
            return pq.ParquetFile(path).read()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as Parquet ({error}); write it again") from error
    with connected() as connection, open_file("pairs", str(path)) as relation:
        connection.execute("SET preserve_insertion_order = true")
        return connection.execute(f"SELECT * EXCLUDE ({SOURCE_FILE}) FROM {relation}").to_arrow_table()


def write_pairs(table: pa.Table, path: Path) -> None:
    """Write a table to a file whose ending `check_ending` accepts.

    Raises:
        DataError: a column that CSV cannot hold.
        ConfigError: the file cannot be written.
    """
    name = path.name.lower()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(_PARQUET):
            pq.write_table(table, path)
            return
        with cast("IO[bytes]", gzip.open(path, "wb") if name.endswith(".gz") else path.open("wb")) as file:
            pl.DataFrame(table).write_csv(file, separator="\t" if name.endswith(_TSV) else ",")
    except pl.exceptions.PolarsError as error:
        path.unlink(missing_ok=True)
        raise DataError(f"{path.name} cannot hold all columns ({error}); write to a .parquet file") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}); give another file") from error
