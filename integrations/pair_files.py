"""A user's own table as a file: Parquet, or CSV and TSV, whose columns are all text. The ending says which."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.errors import ConfigError, DataError
from girl_features.input.opening import read_text_file
from girl_features.input.sources import CSV, MAX_PRINTED, PARQUET, TSV
from girl_features.input.text_files import NONE
from girl_features.integrations.pair_keys import KEYS
from girl_features.schema import (
    GIRL_COS_CV_GENERATED_JD,
    GIRL_COS_CV_JD,
    GIRL_COS_GENERATED_JD_JD,
    GIRL_HAS_GENERATED_JD,
    GIRL_TIER,
)
from girl_features.sql import connected
from girl_features.store.user_files import make_way

_MAX_HEADER = 1 << 20  # bytes
_MARKER = b"girl_features.join"  # in the metadata of a Parquet file that a join wrote
_ADDED = {GIRL_COS_CV_JD, GIRL_COS_GENERATED_JD_JD, GIRL_COS_CV_GENERATED_JD, GIRL_HAS_GENERATED_JD, GIRL_TIER}
_TEXT = (*CSV, *TSV)


def check_ending(path: Path) -> None:
    """Raise ConfigError if the ending of `path` is not one that can be read and written."""
    if not path.name.lower().endswith(PARQUET + _TEXT):
        raise ConfigError(f"{path} should end in {', '.join(PARQUET + _TEXT)}; the ending says what the file is")


def read_pairs(path: Path, quoting: str | None = None) -> pa.Table:
    """Return all rows and columns of a file. `quoting` is that of CSV and TSV, as in `tables.interactions`.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; give the table to join features to")
    if path.name.lower().endswith(PARQUET):
        try:
            return pq.ParquetFile(path).read()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as Parquet ({error}); write it again") from error
    with connected() as connection:
        connection.execute("SET preserve_insertion_order = true")
        return read_text_file(connection, "of pairs", str(path), quoting, option="--quoting ", n_columns=len(KEYS))


def write_pairs(table: pa.Table, path: Path, quoting: str | None = None) -> None:
    """Write a joined table to a file whose ending `check_ending` accepts. A file there that is no output is set aside.

    CSV and TSV are written so that `read_pairs` with the same `quoting` reads the same texts. What is at `path` is
    replaced only when the new file is whole.

    Raises:
        DataError: a column that CSV cannot hold.
        ConfigError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=".girl-") as folder:
            whole = Path(folder) / path.name
            if path.name.lower().endswith(PARQUET):
                marked = {**(table.schema.metadata or {}), _MARKER: b"1"}
                pq.write_table(table.replace_schema_metadata(marked), whole)
            else:
                _write_text(table, whole, quoting)
            make_way(path, _is_joined)
            whole.replace(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{path.name} cannot hold all columns ({error}); write to a .parquet file") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}); give another file") from error


def _write_text(table: pa.Table, path: Path, quoting: str | None) -> None:
    name = path.name.lower()
    frame, separator = pl.DataFrame(table), "\t" if name.endswith(TSV) else ","
    with cast("IO[bytes]", gzip.open(path, "wb") if name.endswith(".gz") else path.open("wb")) as file:
        if quoting == NONE:
            _check_header(frame.columns, separator, path.name)
            frame = frame.with_columns(_escaped(pl.col(pl.String, pl.Categorical, pl.Enum).cast(pl.String), separator))
            frame.write_csv(file, separator=separator, quote_style="never", null_value=r"\N")
        elif quoting is None and separator == "\t" and not _has_marks(frame):
            frame.write_csv(file, separator=separator, quote_style="never")
        else:
            frame.write_csv(file, separator=separator)


def _check_header(names: list[str], separator: str, place: str) -> None:
    if bad := [name for name in names if separator in name or "\n" in name or "\r" in name]:
        raise DataError(
            f"{place} cannot hold the column {bad[0][:MAX_PRINTED]!r} with `quoting: none`; rename it, or write to a "
            f".parquet file"
        )


def _escaped(texts: pl.Expr, separator: str) -> pl.Expr:
    """Return texts as databases write them, so that no character of theirs ends a field or begins an escape."""
    escapes = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"} | ({",": r"\,"} if separator == "," else {})
    for character, escape in escapes.items():
        texts = texts.str.replace_all(character, escape, literal=True)
    return texts.replace("NULL", r"NUL\L")  # the plain word is a missing value


def _has_marks(frame: pl.DataFrame) -> bool:
    """True if a name or a text holds what programs and databases write in different ways."""
    marks = r'^"|[\\\t\r\n]|^NULL$'
    texts = frame.select(pl.col(pl.String, pl.Categorical, pl.Enum).cast(pl.String).str.contains(marks).any())
    return any(re.search(marks, name) for name in frame.columns) or any(texts.row(0) if texts.width else ())


def _is_joined(path: Path) -> bool:
    """True if a file is the output of an earlier join."""
    name = path.name.lower()
    if name.endswith(PARQUET):
        return _MARKER in (pq.read_schema(path).metadata or {})
    with cast("IO[bytes]", gzip.open(path) if name.endswith(".gz") else path.open("rb")) as file:
        header = file.readline(_MAX_HEADER).decode()
    names = header.rstrip("\r\n").replace('"', "").split("\t" if name.endswith(TSV) else ",")
    return set(names) >= _ADDED
