"""Write mapped rows: rows of one contract for CVs that only another contract has, with mapped vectors."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from girl_features.contract import FeatureContract
from girl_features.lookup.vector_map import VectorMap
from girl_features.schema import (
    CONTRACT,
    CREATED_TIMESTAMP,
    CV_HASH,
    ENGINE,
    EVENT_TIMESTAMP,
    GENERATED_JD_VECTOR,
    GENERATED_SCHEMA,
    JOB_SEEKER_ID,
    RUN,
    UPDATED_AT,
)
from girl_features.sql import connected
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import GENERATED_JDS, vectors_of

ROWS_PER_PART = 10_000
_KEYS = f"{JOB_SEEKER_ID}, {UPDATED_AT}, {CV_HASH}, {CREATED_TIMESTAMP}"


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
    event_time = f"greatest(s.{UPDATED_AT}, TIMESTAMPTZ '{trained_until.isoformat()}')"
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
        WHERE NOT EXISTS (SELECT 1 FROM {target_rows} AS t WHERE t.{JOB_SEEKER_ID} = s.{JOB_SEEKER_ID}
            AND (t.{UPDATED_AT} = s.{UPDATED_AT} AND t.{CV_HASH} = s.{CV_HASH}
                OR t.{UPDATED_AT} > s.{UPDATED_AT} AND t.{EVENT_TIMESTAMP} <= {event_time}))"""
    return f"""SELECT {_KEYS} FROM {source_rows} AS s {is_missing}
        QUALIFY row_number() OVER (PARTITION BY {JOB_SEEKER_ID}, {event_time}
            ORDER BY {UPDATED_AT} DESC, {CREATED_TIMESTAMP} DESC) = 1"""


def _mapped(table: pa.Table, mapping: VectorMap, dimension: int) -> pa.Table:
    """The table with mapped generated vectors."""
    vectors = mapping(vectors_of(table[GENERATED_JD_VECTOR], dimension))
    column = pa.array(list(vectors), GENERATED_SCHEMA.field(GENERATED_JD_VECTOR).type)
    return table.set_column(table.column_names.index(GENERATED_JD_VECTOR), GENERATED_JD_VECTOR, column)
