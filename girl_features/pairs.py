"""Offline join of decisions with the stored vectors, point in time: only what was known before each decision."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from girl_features.contract import FeatureContract
from girl_features.errors import DataError, InvalidVectorError, LeakageError, MissingVectorsError
from girl_features.ranker import PairFeatures
from girl_features.schema import (
    CV_KNOWN_AT,
    CV_VECTOR,
    DECIDED_AT,
    EVENT_TIMESTAMP,
    GENERATED_JD_KNOWN_AT,
    GENERATED_JD_VECTOR,
    GIRL_ROW,
    JD_KNOWN_AT,
    JD_VECTOR,
    JOB_ID,
    JOB_SEEKER_ID,
    Tier,
)
from girl_features.store.parts.rows import check_vectors, vectors_of
from girl_features.store.repo import ViewNames, contract_service, join_key, open_repo

if TYPE_CHECKING:
    from feast import FeatureStore

STRICTLY_BEFORE = timedelta(microseconds=1)  # Feast also joins what was known exactly at the given time
N_IDS_NAMED = 5  # in an error message


def join_pairs(
    repo: Path, contract: FeatureContract, decisions: pl.DataFrame, *, as_served: bool = False
) -> PairFeatures:
    """Return the features of n (job seeker, job) pairs as known strictly before each decision, in the given order.

    Args:
        repo: the Feast repo, in which `contract` has been applied.
        contract: contract of the vectors.
        decisions: columns job_seeker_id, job_id (strings) and decided_at (UTC); others are ignored.
        as_served: use only rows that had been *created* before the decision, too. This is what an online store could
            have answered, for audits; it leaves out every backfilled vector.

    Returns:
        (n, d) vectors; zeros and Tier.PRIOR for a pair whose CV version has no generated JD.
    Raises:
        LeakageError: a decision is earlier than the end of the generator's training data.
        MissingVectorsError: CV or JD vectors are missing; the message names ids, and `rows` the rows.
        StoreError: the repo cannot be read.
        UnknownContractError: the repo has not been applied with this contract.
        InvalidVectorError: a stored vector is NaN, infinite, all zero or of the wrong dimension.
        DataError: `decisions` lacks a column, or one has nulls or a wrong type.
    """
    decisions = _checked_decisions(decisions)
    _check_trained_before(contract, decisions[DECIDED_AT])
    store = open_repo(repo)
    service = contract_service(store, contract.fingerprint)
    dimension = contract.encoder.dimension
    if decisions.is_empty():
        empty = np.zeros((0, dimension), np.float32)
        return PairFeatures(empty, empty, empty, np.zeros(0, np.int8), contract.fingerprint)
    rows = _entity_rows(store, contract, decisions).to_pandas()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)  # ibis on DuckDB 1.5
        job = store.get_historical_features(rows, service, filter_by_created_timestamp=as_served)
        joined = job.to_arrow().sort_by(GIRL_ROW)  # Feast returns the rows in any order
    assert joined.num_rows == decisions.height, "Feast lost or multiplied entity rows"
    _check_known_before(joined, decisions[DECIDED_AT])
    _check_present(joined, decisions, as_served)
    has_generated = _has_jd_of_joined_cv(joined, contract)
    generated = _vectors(joined[GENERATED_JD_VECTOR], dimension, decisions[JOB_SEEKER_ID], GENERATED_JD_VECTOR)
    return PairFeatures(
        cv=_vectors(joined[CV_VECTOR], dimension, decisions[JOB_SEEKER_ID], CV_VECTOR),
        jd=_vectors(joined[JD_VECTOR], dimension, decisions[JOB_ID], JD_VECTOR),
        generated_jd=np.where(has_generated[:, None], generated, np.float32(0)),
        tier=np.where(has_generated, Tier.GENERATED, Tier.PRIOR).astype(np.int8),
        contract=contract.fingerprint,
    )


def _checked_decisions(decisions: pl.DataFrame) -> pl.DataFrame:
    """Return the three columns, with times in UTC and rounded down to microseconds, so that no later row is joined."""
    wanted = (JOB_SEEKER_ID, JOB_ID, DECIDED_AT)
    if missing := [name for name in wanted if name not in decisions.columns]:
        raise DataError(f"decisions lack the columns {missing}; they have {decisions.columns}")
    decisions = decisions.select(wanted)
    for name, column_type in zip(wanted, (pl.String(), pl.String(), pl.Datetime("us", "UTC")), strict=True):
        if decisions.schema[name] == pl.Null:
            decisions = decisions.with_columns(pl.col(name).cast(column_type))
    for name in (JOB_SEEKER_ID, JOB_ID):
        found = decisions.schema[name]
        if isinstance(found, (pl.Categorical, pl.Enum)):
            decisions = decisions.with_columns(pl.col(name).cast(pl.String))
        elif found != pl.String:
            whole = ".cast(pl.Int64, strict=True)" if found.is_float() or found.is_decimal() else ""
            raise DataError(f"{name} should be strings, found {found}; use `pl.col({name!r}){whole}.cast(pl.String)`")
    time_type = decisions.schema[DECIDED_AT]
    if not isinstance(time_type, pl.Datetime) or time_type.time_zone is None:
        dates = ".cast(pl.Datetime)" if time_type == pl.Date else ""
        convert = ".str.to_datetime" if time_type == pl.String else f"{dates}.dt.replace_time_zone"
        raise DataError(
            f"{DECIDED_AT} should be a time with a zone (UTC), found {time_type}; use "
            f"`pl.col({DECIDED_AT!r}){convert}({'time_zone=' if time_type == pl.String else ''}'UTC')`"
        )
    for column in decisions:
        if n_null := column.null_count():
            raise DataError(f"{column.name} has {n_null} nulls; leave those decisions out")
    return decisions.with_columns(pl.col(DECIDED_AT).dt.convert_time_zone("UTC").dt.cast_time_unit("us"))


def _check_trained_before(contract: FeatureContract, decided_at: pl.Series) -> None:
    early = decided_at.filter(decided_at < contract.trained_until)
    if early.len():
        raise LeakageError(
            f"{early.len()} of {decided_at.len()} decisions, the first of {_day(early.min())}, were made before "
            f"{_day(contract.trained_until)}, when the training data of generator {contract.fingerprint!r} ended: "
            f"it may have learned from them. Leave them out, or train a generator on earlier windows "
            f"(`windows:` in girl.yaml) and materialize it"
        )


def _entity_rows(store: FeatureStore, contract: FeatureContract, decisions: pl.DataFrame) -> pl.DataFrame:
    names = ViewNames.of(contract)
    return decisions.select(
        pl.col(JOB_SEEKER_ID).alias(join_key(store, names.cv)),
        pl.col(JOB_ID).alias(join_key(store, names.jd)),
        (pl.col(DECIDED_AT) - STRICTLY_BEFORE).alias(EVENT_TIMESTAMP),
        pl.int_range(pl.len(), dtype=pl.Int64).alias(GIRL_ROW),
    )


def _has_jd_of_joined_cv(joined: pa.Table, contract: FeatureContract) -> np.ndarray:
    """Return (n,) bool: there is a generated JD, and it was generated from the joined CV version.

    A newer CV that is blank, or whose generation failed, has no JD; then Feast joins the JD of an earlier CV.
    """
    cv_known_at, jd_known_at = pl.Series(joined[CV_KNOWN_AT]), pl.Series(joined[GENERATED_JD_KNOWN_AT])
    # materialize gives the JD of a CV version the version's time, or the end of the generator's training if later
    expected = cv_known_at.clip(lower_bound=contract.trained_until)
    return (jd_known_at == expected).fill_null(False).to_numpy()


def _check_known_before(joined: pa.Table, decided_at: pl.Series) -> None:
    """Check the times that the offline store returned, because a repo may name any class as its offline store."""
    for column in (CV_KNOWN_AT, JD_KNOWN_AT, GENERATED_JD_KNOWN_AT):
        known_at = pl.Series(joined[column]).dt.cast_time_unit("us")
        late_rows = (known_at >= decided_at).fill_null(False).arg_true()
        if late_rows.len():
            row = late_rows[0]
            raise LeakageError(
                f"{late_rows.len()} joined rows have a {column} at or after their decision, the first "
                f"{known_at[row]} for a decision of {decided_at[row]}; this is a fault of the offline store: "
                f"check `offline_store` in feature_store.yaml and report it"
            )


def _check_present(joined: pa.Table, decisions: pl.DataFrame, as_served: bool) -> None:
    problems: list[str] = []
    missing_rows: set[int] = set()
    for column, key in ((CV_VECTOR, JOB_SEEKER_ID), (JD_VECTOR, JOB_ID)):
        rows = np.flatnonzero(joined[column].is_null())
        if len(rows):
            missing_rows.update(rows.tolist())
            ids = decisions[key][rows].unique(maintain_order=True)
            more = f" and {ids.len() - N_IDS_NAMED} more ids" if ids.len() > N_IDS_NAMED else ""
            problems.append(
                f"{len(rows)} of {decisions.height} decisions have no {column} known before them: "
                f"{', '.join(map(repr, ids.head(N_IDS_NAMED)))}{more}"
            )
    if problems:
        note = " (as_served counts only what had been created by then)" if as_served else ""
        raise MissingVectorsError(
            f"{'; '.join(problems)}{note}; run `girl materialize`, and `girl check` for decisions without CV or job",
            sorted(missing_rows),
        )


def _vectors(column: pa.ChunkedArray, dimension: int, ids: pl.Series, name: str) -> np.ndarray:
    """Return a list column as (n, d) float32, with zeros where it is null."""
    present = np.asarray(column.is_valid())
    vectors = np.zeros((len(column), dimension), np.float32)
    values = column.drop_null()
    if len(values):
        try:
            check_vectors(values, dimension, pa.chunked_array([ids.filter(pl.Series(present)).to_arrow()]), name)
        except InvalidVectorError as error:
            raise InvalidVectorError(f"in the feature store: {error}") from error
        vectors[present] = vectors_of(values, dimension)
    return vectors


def _day(time: object) -> str:
    assert isinstance(time, datetime)
    return time.astimezone(UTC).isoformat(sep=" ", timespec="minutes")
