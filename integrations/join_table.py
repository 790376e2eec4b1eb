"""Join generated-JD columns to a ranker's own training table, point in time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError, DataError, MissingVectorsError, ShapeError
from girl_features.integrations.plain_columns import PlainReduction, fit_reduction, place_columns, plain_columns
from girl_features.pairs import join_pairs
from girl_features.ranker import PairFeatures
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID
from girl_features.store.user_files import make_way

N_COMPONENTS = 16
MIN_ROWS_TO_FIT = 4 * N_COMPONENTS
_KEYS = (JOB_SEEKER_ID, JOB_ID, DECIDED_AT)


class JoinSummary(NamedTuple):
    """Counts of a joined table."""

    n_rows: int
    n_with_generated_jd: int
    n_before_training_ended: int  # rows decided before `trained_until`; their columns are null
    n_without_vectors: int  # rows whose CV or job was not in the store yet; their columns are null
    contract: str
    columns: list[str]
    reduction: str  # folder of the projection


def join_table(
    pairs: Path,
    out: Path,
    *,
    repo: Path,
    contract: FeatureContract,
    reduction: Path,
    fit: bool = False,
    as_served: bool = False,
) -> JoinSummary:
    """Write the rows of the Parquet file `pairs`, in their order and with the `girl_*` columns, to `out`.

    `pairs` has job_seeker_id, job_id and decided_at; other columns are kept. The folder `reduction` holds the
    projection of the generated-JD vectors. `fit` fits it on these rows: do this once, with the training rows.
    `as_served` uses only vectors that were already written at decision time.

    Raises:
        DataError: `pairs` cannot be read, lacks a key column, or already has a `girl_*` column.
        ConfigError: `out` is `pairs`; or `reduction` exists although `fit` is set, or is absent although it is not.
        ShapeError: too few rows with a generated JD to fit on.
    """
    _check_paths(pairs, out, reduction, fit)
    table = _read(pairs)
    rows, features = _rows_with_features(table, repo, contract, as_served)
    projection = _fit(features) if fit else PlainReduction.load(reduction)
    columns = plain_columns(features, projection)
    if clash := sorted(set(columns.columns) & set(table.columns)):
        raise DataError(f"{pairs} already has {', '.join(clash)}; drop them, then join again")
    if fit:
        projection.save(reduction)
    write_joined(place_columns(table, columns, rows), out)
    n_early = int((table[DECIDED_AT] < contract.trained_until).sum())
    return JoinSummary(
        n_rows=table.height,
        n_with_generated_jd=int(features.has_generated_jd.sum()),
        n_before_training_ended=n_early,
        n_without_vectors=table.height - n_early - len(rows),
        contract=contract.fingerprint,
        columns=columns.columns,
        reduction=str(reduction),
    )


def write_joined(table: pl.DataFrame, out: Path) -> None:
    """Write a joined table. A file at `out` that is none is kept as NAME.bak-TIME."""
    out.parent.mkdir(parents=True, exist_ok=True)
    make_way(out, _is_joined)
    table.write_parquet(out)


def _is_joined(path: Path) -> bool:
    """True if a file is the output of an earlier join."""
    return any(name.startswith("girl_") for name in pq.read_schema(path).names)


def _check_paths(pairs: Path, out: Path, reduction: Path, fit: bool) -> None:
    if out.resolve() == pairs.resolve():
        raise ConfigError(f"{out} would overwrite the table it is joined to; give another file")
    if fit and reduction.is_dir():
        raise ConfigError(f"{reduction} has a fitted projection already; leave --fit out, or name another --reduction")
    if not fit and not reduction.is_dir():
        raise ConfigError(f"no fitted projection in {reduction}; join your training rows first, with --fit")


def _rows_with_features(
    table: pl.DataFrame, repo: Path, contract: FeatureContract, as_served: bool
) -> tuple[np.ndarray, PairFeatures]:
    """Return the numbers of the rows that can have features, and their features."""
    rows = np.flatnonzero(table[DECIDED_AT] >= contract.trained_until)
    keys = table.select(_KEYS)
    try:
        return rows, join_pairs(repo, contract, keys[rows], as_served=as_served)
    except MissingVectorsError as error:
        rows = np.delete(rows, error.rows)
    return rows, join_pairs(repo, contract, keys[rows], as_served=as_served)


def _fit(features: PairFeatures) -> PlainReduction:
    n = int(features.has_generated_jd.sum())
    if n < MIN_ROWS_TO_FIT:
        raise ShapeError(
            f"{n} rows with a generated JD are too few to fit {N_COMPONENTS} columns; give at least {MIN_ROWS_TO_FIT}"
        )
    return fit_reduction(features, N_COMPONENTS)


def _read(pairs: Path) -> pl.DataFrame:
    try:
        table = pl.read_parquet(pairs)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{pairs} cannot be read as Parquet: {error}") from error
    if missing := [key for key in _KEYS if key not in table.columns]:
        raise DataError(
            f"{pairs} has no {', '.join(missing)} (it has {', '.join(table.columns)}); "
            f"rename your columns to {', '.join(_KEYS)}"
        )
    return table
