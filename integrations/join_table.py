"""A ranker's own training table, with generated-JD columns beside it, point in time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl

from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError, DataError
from girl_features.integrations.plain_columns import PlainReduction, fit_reduction, plain_columns
from girl_features.pairs import join_pairs
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID

N_COMPONENTS = 16
_KEYS = (JOB_SEEKER_ID, JOB_ID, DECIDED_AT)


class JoinSummary(NamedTuple):
    """What `join_table` wrote."""

    n_rows: int
    n_with_generated_jd: int
    contract: str
    columns: list[str]
    reduction: str  # folder of the fitted projection: give it again for validation, test and serving rows


def join_table(
    pairs: Path, out: Path, *, repo: Path, contract: FeatureContract, reduction: Path, as_served: bool = False
) -> JoinSummary:
    """Write the rows of `pairs` (Parquet), in their order, with the `girl_*` columns, to `out`.

    The projection of the generated-JD vectors is fitted on these rows and saved to the folder `reduction`,
    unless that folder is there already: then it is used as it is. So join the training rows first.

    Raises:
        DataError: `pairs` cannot be read or lacks a key column, or already has a `girl_*` one.
        ConfigError: `out` is `pairs`.
        LeakageError: rows decided before the generator's training ended.
    """
    if out.resolve() == pairs.resolve():
        raise ConfigError(f"{out} would overwrite the table it is joined to; give another --out")
    table = _read(pairs)
    features = join_pairs(repo, contract, table.select(_KEYS), as_served=as_served)
    if reduction.is_dir():
        fitted = PlainReduction.load(reduction)
    else:
        fitted = fit_reduction(features, N_COMPONENTS)
        fitted.save(reduction)
    columns = plain_columns(features, fitted)
    if clash := sorted(set(columns.columns) & set(table.columns)):
        raise DataError(f"{pairs} already has {', '.join(clash)}; drop them, then join again")
    out.parent.mkdir(parents=True, exist_ok=True)
    pl.concat([table, columns], how="horizontal").write_parquet(out)
    n_with = int(features.has_generated_jd.sum())
    return JoinSummary(table.height, n_with, contract.fingerprint, columns.columns, str(reduction))


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
