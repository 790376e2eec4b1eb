"""Ids that the feature store holds vectors of, and since when, for messages about joins that found nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from girl_features.contract import FeatureContract
from girl_features.schema import JOB_ID, JOB_SEEKER_ID
from girl_features.store.feast_sources import SourceColumns
from girl_features.store.repo import ViewNames, open_repo

FIRST_AT = "first_at"
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def stored_ids(repo: Path, contract: FeatureContract, key: str) -> pl.DataFrame:
    """Return each id of `key` (job_seeker_id or job_id) that has a CV or JD vector, as text, in order.

    The column FIRST_AT has the time of its earliest vector. All keys of the view are read, but no vectors.

    Raises:
        StoreError: the repo cannot be read.
    """
    names = ViewNames.of(contract)
    store = open_repo(repo)
    view = store.get_feature_view({JOB_SEEKER_ID: names.cv, JOB_ID: names.jd}[key])
    source = view.batch_source
    assert source is not None, "views with vectors have a source"
    columns = SourceColumns.of(view, source)._replace(features=[])
    provider = store._get_provider()
    job = provider.offline_store.pull_all_from_table_or_query(store.config, source, *columns, _FIRST, _LAST)
    rows = pl.DataFrame(job.to_arrow())
    ids, times = pl.col(columns.keys[0]).cast(pl.String), pl.col(columns.timestamp)
    return rows.group_by(ids.alias(key)).agg(times.min().alias(FIRST_AT)).sort(key)
