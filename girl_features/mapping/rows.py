"""Write mapped rows: rows of one contract for CVs that only another contract has, with mapped vectors."""

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

ROWS_PER_PART = 10_000
_KEYS = "job_seeker_id, updated_at, cv_hash, created_timestamp"


def write_mapped(
    store: PartsStore, source: FeatureContract, target: FeatureContract, mapping: VectorMap, now: datetime
) -> int:
    """Write rows of `target` for the CVs that only `source` has, and return their number. Hold the store's lock.

    The event time of a mapped row is the time of its CV, but not before both generators were trained, because the map
    has learned from both. Offline joins need a row from the time of the CV itself, so they use mapped rows only for
    CVs that are newer than both generators; look-ups use all of them.

    If several CVs of a seeker get the same event time, only the newest gets a row. None gets one if `target` already
    has a row of a newer CV at that time.
    """
    source_rows, target_rows = (store.scan(GENERATED_JDS, contract.fingerprint) for contract in (source, target))
    if source_rows is None:
        return 0
    trained_until = max(source.trained_until, target.trained_until)
    event_time = f"greatest(s.updated_at, TIMESTAMPTZ '{trained_until.isoformat()}')"
    replaced = {
        EVENT_TIMESTAMP: event_time,
        CREATED_TIMESTAMP: f"TIMESTAMPTZ '{now.isoformat()}'",
        CONTRACT: f"'{target.fingerprint}'",
        RUN: f"'map-{now:%Y%m%dT%H%M%S%f}'",
        ENGINE: f"'map:{source.fingerprint}'",
    }
    columns = ", ".join(f"{replaced.get(name, f's.{name}')} AS {name}" for name in GENERATED_SCHEMA.names)
    n_rows = 0
    with connected() as connection:
        connection.execute(f"CREATE TEMP TABLE missing AS {_missing_keys(source_rows, target_rows, event_time)}")
        rows = connection.execute(f"SELECT {columns} FROM {source_rows} AS s JOIN missing USING ({_KEYS})")
        for batch in rows.to_arrow_reader(ROWS_PER_PART):
            if batch.num_rows:
                table = _mapped(pa.Table.from_batches([batch]), mapping, source.encoder.dimension)
                store.write_part(GENERATED_JDS, target.fingerprint, table)
                n_rows += table.num_rows
    return n_rows


def _missing_keys(source_rows: str, target_rows: str | None, event_time: str) -> str:
    """SELECT of the keys of the source rows to map. It reads no texts and no vectors, to save memory."""
    is_missing = ""
    if target_rows:
        is_missing = f"""
        WHERE NOT EXISTS (SELECT 1 FROM {target_rows} AS t WHERE t.job_seeker_id = s.job_seeker_id
            AND (t.updated_at = s.updated_at AND t.cv_hash = s.cv_hash
                OR t.updated_at > s.updated_at AND t.event_timestamp <= {event_time}))"""
    return f"""SELECT {_KEYS} FROM {source_rows} AS s {is_missing}
        QUALIFY row_number() OVER (PARTITION BY job_seeker_id, {event_time}
            ORDER BY updated_at DESC, created_timestamp DESC) = 1"""


def _mapped(table: pa.Table, mapping: VectorMap, dimension: int) -> pa.Table:
    """The table with mapped generated vectors."""
    vectors = mapping(vectors_of(table[GENERATED_JD_VECTOR], dimension))
    column = pa.array(list(vectors), GENERATED_SCHEMA.field(GENERATED_JD_VECTOR).type)
    return table.set_column(table.column_names.index(GENERATED_JD_VECTOR), GENERATED_JD_VECTOR, column)
