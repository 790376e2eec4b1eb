"""Join generated-JD columns to a ranker's own training table, point in time: a file, or a data frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError, DataError, MissingVectorsError, ShapeError
from girl_features.integrations.pair_files import check_ending, read_pairs, write_pairs
from girl_features.integrations.pair_keys import PairFormat, PairKeys, key_names, pair_keys
from girl_features.integrations.pair_warnings import warnings_of_no_match
from girl_features.integrations.pair_words import PairWords, words_of_command, words_of_function
from girl_features.integrations.plain_columns import PlainReduction, fit_reduction, plain_columns, spread_columns
from girl_features.pairs import join_pairs
from girl_features.ranker import PairFeatures
from girl_features.schema import DECIDED_AT
from girl_features.store.offline.entity_rows import arrow_column

N_COMPONENTS = 16
MIN_ROWS_TO_FIT = 4 * N_COMPONENTS
_NO_NAMES: Mapping[str, str] = {}
_NO_SETTINGS = PairFormat()
_PANDAS_TYPES = {pl.Boolean: "boolean", pl.Int8: "Int8", pl.Float64: "float64"}  # that hold nulls

Frame = TypeVar("Frame", pl.DataFrame, pd.DataFrame)


class JoinSummary(NamedTuple):
    """Counts of a joined table."""

    n_rows: int
    n_with_generated_jd: int
    n_before_training_ended: int  # rows decided before `trained_until`; their columns are null
    n_without_vectors: int  # rows whose CV or job was not in the store yet; their columns are null
    n_without_key: int  # rows without an id or a time; their columns are null
    contract: str
    columns: list[str]
    reduction: str  # folder of the projection
    keys: dict[str, str]  # our name of each key -> its column in the table
    notes: list[str]  # about how times were read
    warnings: list[str]  # reasons why no row got its features


class JoinRequest(NamedTuple):
    """Features to join, and the projection of their vectors; `join_table` says what each is."""

    repo: Path
    contract: FeatureContract
    reduction: Path
    fit: bool
    as_served: bool


def join_table(
    pairs: Path,
    out: Path,
    *,
    repo: Path,
    contract: FeatureContract,
    reduction: Path,
    fit: bool = False,
    as_served: bool = False,
    columns: Mapping[str, str] = _NO_NAMES,
    usual_columns: Mapping[str, str] = _NO_NAMES,
    pair_format: PairFormat = _NO_SETTINGS,
) -> JoinSummary:
    """Write the rows of the file `pairs`, in their order and with the `girl_*` columns, to `out`.

    Both are Parquet, or CSV or TSV, which may be gzipped; a CSV's own columns are text. All columns are kept as they
    are. Ids are text or whole numbers. Times are datetimes, dates or ISO 8601 texts; those without a zone are in UTC.

    Args:
        pairs: the table.
        out: file to write.
        repo: the Feast repo.
        contract: contract of the vectors.
        reduction: folder of the projection of the generated-JD vectors.
        fit: fit the projection on these rows: do this once, with the training rows.
        as_served: use only vectors that were already written at decision time.
        columns: names in the table of job_seeker_id, job_id and decided_at, by these names, where they differ.
        usual_columns: names for keys that `columns` leaves out, used where the table has such a column.
        pair_format: how text files and times are read, by default as an input table without settings is.

    Raises:
        DataError: `pairs` cannot be read, lacks a key, has ids or times that cannot be used, or has a `girl_*` column
            that is to be added.
        ConfigError: `out` is `pairs`; an ending is unknown; or `reduction` exists although `fit` is set, or is absent
            although it is not.
        ShapeError: too few rows with a generated JD to fit on.
    """
    if out.resolve() == pairs.resolve():
        raise ConfigError(f"{out} would overwrite the table it is joined to; give another file")
    for path in (pairs, out):
        check_ending(path)
    request = JoinRequest(repo, contract, reduction, fit, as_served)
    _check_reduction(request)
    table = read_pairs(pairs, pair_format.quoting)
    words = words_of_command(str(pairs))
    names = key_names(table.column_names, columns, usual_columns, words)
    keys = pair_keys({key: table[name] for key, name in names.items()}, names, words, pair_format)
    added, summary = _features(keys, names, request, table.column_names, words)
    for name in added.columns:
        table = table.append_column(name, added[name].to_arrow())
    write_pairs(table, out, pair_format.quoting)
    return summary


def join_frame(
    frame: Frame,
    *,
    repo: Path,
    contract: FeatureContract,
    reduction: Path,
    fit: bool = False,
    as_served: bool = False,
    columns: Mapping[str, str] = _NO_NAMES,
    pair_format: PairFormat = _NO_SETTINGS,
) -> tuple[Frame, JoinSummary]:
    """Return a pandas or polars DataFrame with the `girl_*` columns beside its own, and the counts.

    Rows, their order, the index and all other columns stay as they are. For the arguments, see `join_table`.

    Raises:
        DataError: no DataFrame, or as `join_table` does.
        ConfigError: the folder of the projection exists although `fit` is set, or is absent although it is not.
        ShapeError: too few rows with a generated JD to fit on.
    """
    if not isinstance(frame, (pl.DataFrame, pd.DataFrame)):
        raise DataError(f"a pandas or polars DataFrame is wanted, found {type(frame).__name__}; collect or convert it")
    request = JoinRequest(repo, contract, reduction, fit, as_served)
    _check_reduction(request)
    found, place = [str(name) for name in frame.columns], "the table"
    words = words_of_function(place)
    names = key_names(found, columns, _NO_NAMES, words)
    by_key: dict[str, pa.ChunkedArray] = {}
    for key, name in names.items():
        column = frame.iloc[:, found.index(name)] if isinstance(frame, pd.DataFrame) else frame[name]
        is_pandas = isinstance(column, pd.Series)
        arrow = arrow_column(column, name, is_key=True, place=place) if is_pandas else _polars_column(column, place)
        by_key[key] = arrow if isinstance(arrow, pa.ChunkedArray) else pa.chunked_array([arrow])
    added, summary = _features(pair_keys(by_key, names, words, pair_format), names, request, found, words)
    if isinstance(frame, pl.DataFrame):
        return frame.hstack(added), summary
    beside = {
        series.name: pd.Series(series.to_list(), frame.index, _PANDAS_TYPES[type(series.dtype)]) for series in added
    }
    return pd.concat([frame, pd.DataFrame(beside, frame.index)], axis=1), summary


def _polars_column(column: pl.Series, place: str) -> pa.Array:
    try:
        return column.to_arrow()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException) as error:
        raise DataError(f"column {column.name!r} of {place} is {column.dtype}; ids and times need a type") from error


def _check_reduction(request: JoinRequest) -> None:
    folder = request.reduction
    if request.fit and folder.is_dir():
        raise ConfigError(f"{folder} has a fitted projection already; leave --fit out, or name another --reduction")
    if not request.fit and not folder.is_dir():
        raise ConfigError(f"no fitted projection in {folder}; join your training rows first, with --fit")


def _features(
    keys: PairKeys, names: dict[str, str], request: JoinRequest, taken: list[str], words: PairWords
) -> tuple[pl.DataFrame, JoinSummary]:
    """Return the columns to add, one row for each row of the table, and the counts."""
    decisions, contract = keys.decisions, request.contract
    is_whole = decisions.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
    is_late = (decisions[DECIDED_AT] >= contract.trained_until).fill_null(False)
    rows, features = _rows_with_features(decisions, np.flatnonzero(is_whole & is_late), request)
    warnings = _warnings(keys, is_whole & is_late, len(rows), names, request, words)
    projection = _fit(features, warnings) if request.fit else PlainReduction.load(request.reduction)
    columns = plain_columns(features, projection)
    if clash := sorted(set(columns.columns) & set(taken)):
        raise DataError(f"{words.place} already has {', '.join(clash)}; drop them, then join again")
    if request.fit:
        projection.save(request.reduction)
    n_late = int((is_whole & is_late).sum())
    summary = JoinSummary(
        n_rows=decisions.height,
        n_with_generated_jd=int(features.has_generated_jd.sum()),
        n_before_training_ended=int((is_whole & ~is_late).sum()),
        n_without_vectors=n_late - len(rows),
        n_without_key=int((~is_whole).sum()),
        contract=contract.fingerprint,
        columns=columns.columns,
        reduction=str(request.reduction),
        keys=names,
        notes=keys.notes,
        warnings=warnings,
    )
    return spread_columns(columns, rows, decisions.height), summary


def _rows_with_features(
    decisions: pl.DataFrame, rows: np.ndarray, request: JoinRequest
) -> tuple[np.ndarray, PairFeatures]:
    """Return those of the `rows` that have features, and their features."""
    try:
        return rows, join_pairs(request.repo, request.contract, decisions[rows], as_served=request.as_served)
    except MissingVectorsError as error:
        rows = np.delete(rows, error.rows)
    return rows, join_pairs(request.repo, request.contract, decisions[rows], as_served=request.as_served)


def _warnings(
    keys: PairKeys,
    is_usable: pl.Series,
    n_with_features: int,
    names: Mapping[str, str],
    request: JoinRequest,
    words: PairWords,
) -> list[str]:
    """Return the reasons why no row of a table with rows got its features."""
    warnings = [] if keys.warning is None else [keys.warning]
    n_whole = keys.decisions.drop_nulls().height
    if n_with_features or not keys.decisions.height or warnings:
        return warnings
    if not n_whole:
        return [f"no row of {words.place} has both ids and a time"]
    if not is_usable.any():
        until = f"{request.contract.trained_until:%Y-%m-%d %H:%M}"
        return [f"all {n_whole} decisions are of before {until}, when the generator's training data ended"]
    return warnings_of_no_match(request.repo, request.contract, keys.decisions.filter(is_usable), names, words)


def _fit(features: PairFeatures, warnings: list[str]) -> PlainReduction:
    n = int(features.has_generated_jd.sum())
    if n < MIN_ROWS_TO_FIT:
        reasons = "".join(f"; {warning}" for warning in warnings)
        raise ShapeError(
            f"{n} rows with a generated JD are too few to fit {N_COMPONENTS} columns; give at least {MIN_ROWS_TO_FIT}"
            f"{reasons}"
        )
    return fit_reduction(features, N_COMPONENTS)
