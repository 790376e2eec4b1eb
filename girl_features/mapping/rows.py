"""Rows of one contract for CVs that only another has, their vectors taken over by a map: what `girl map` writes."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from girl_features.contract import FeatureContract
from girl_features.lookup.vector_map import VectorMap
from girl_features.schema import (
    CONTRACT,
    CREATED_TIMESTAMP,
    ENGINE,
    EVENT_TIMESTAMP,
    GENERATED_JD_VECTOR,
    GENERATED_SCHEMA,
    RUN,
)
from girl_features.sql import connected
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import GENERATED_JDS, vectors_of

ROWS_A_PART = 10_000
_KEYS = "job_seeker_id, updated_at, cv_hash, created_timestamp"


def write_mapped(
    store: PartsStore, source: FeatureContract, target: FeatureContract, mapping: VectorMap, now: datetime
) -> int:
    """Write rows of `target` for the CVs that only `source` has, and say how many; only under the store's lock.

    They are known from when both generators and the CV were, as the map has learned from either. So offline joins,
    which want a CV's own time, take them up for CVs written since; look-ups take all. Of a seeker's CVs that would be
    known at one time only the newest gets a row, and none does where `target` knows a newer one by then.
    """
    ours, theirs = (store.scan(GENERATED_JDS, contract.fingerprint) for contract in (source, target))
    if ours is None:
        return 0
    known_from = max(source.trained_until, target.trained_until)
    known_at = f"greatest(ours.updated_at, TIMESTAMPTZ '{known_from.isoformat()}')"
    replaced = {
        EVENT_TIMESTAMP: known_at,
        CREATED_TIMESTAMP: f"TIMESTAMPTZ '{now.isoformat()}'",
        CONTRACT: f"'{target.fingerprint}'",
        RUN: f"'map-{now:%Y%m%dT%H%M%S%f}'",
        ENGINE: f"'map:{source.fingerprint}'",
    }
    columns = ", ".join(f"{replaced.get(name, f'ours.{name}')} AS {name}" for name in GENERATED_SCHEMA.names)
    n_rows = 0
    with connected() as connection:
        connection.execute(f"CREATE TEMP TABLE chosen AS {_lacking(ours, theirs, known_at)}")
        rows = connection.execute(f"SELECT {columns} FROM {ours} AS ours JOIN chosen USING ({_KEYS})")
        for batch in rows.to_arrow_reader(ROWS_A_PART):
            table = pa.Table.from_batches([batch])
            if not table.num_rows:
                continue
            vectors = mapping(vectors_of(table[GENERATED_JD_VECTOR], source.encoder.dimension))
            place = table.column_names.index(GENERATED_JD_VECTOR)
            column = pa.array(list(vectors), GENERATED_SCHEMA.field(GENERATED_JD_VECTOR).type)
            store.write_part(GENERATED_JDS, target.fingerprint, table.set_column(place, GENERATED_JD_VECTOR, column))
            n_rows += table.num_rows
    return n_rows


def _lacking(ours: str, theirs: str | None, known_at: str) -> str:
    """SELECT of the keys of rows of `ours` to be mapped: they are chosen without their texts and vectors."""
    unknown = f"""
        WHERE NOT EXISTS (SELECT 1 FROM {theirs} AS theirs WHERE theirs.job_seeker_id = ours.job_seeker_id
            AND (theirs.updated_at = ours.updated_at AND theirs.cv_hash = ours.cv_hash
                OR theirs.updated_at > ours.updated_at AND theirs.event_timestamp <= {known_at}))"""
    return f"""SELECT {_KEYS} FROM {ours} AS ours {unknown if theirs else ""}
        QUALIFY row_number() OVER (PARTITION BY job_seeker_id, {known_at}
            ORDER BY updated_at DESC, created_timestamp DESC) = 1"""
