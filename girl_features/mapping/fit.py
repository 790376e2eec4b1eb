"""The map between two contracts: fit it on CVs with a generated JD under both, and write mapped rows to the store.

Mapped rows are rows of one contract for CVs that only the other contract has, with mapped vectors.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from girl_features.contract import FeatureContract
from girl_features.errors import EmptyWindowError
from girl_features.lookup.vector_map import VectorMap, fit_ridge
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
from girl_features.vectors.similarity import mean_cosine

MIN_SEEKERS = 50
HELD_OUT = 5  # one seeker in this many, chosen by a hash of the id, is held out to measure the map
ROWS_PER_PART = 10_000
_KEYS = f"{JOB_SEEKER_ID}, {UPDATED_AT}, {CV_HASH}, {CREATED_TIMESTAMP}"


class SharedCVs(NamedTuple):
    """n CVs with a generated JD under both contracts."""

    seeker_ids: np.ndarray  # (n,) str
    source_vectors: np.ndarray  # (n, d_source) float32
    target_vectors: np.ndarray  # (n, d_target) float32

    def take(self, is_taken: np.ndarray) -> SharedCVs:
        """Return the CVs where the (n,) bool `is_taken` is True."""
        return SharedCVs(*(column[is_taken] for column in self))


class FittedMap(NamedTuple):
    """A map, and its accuracy on held-out seekers."""

    map: VectorMap
    kind: str  # "ridge" or "orthogonal"
    n_seekers: int
    cosine: float  # mean, between mapped and target vectors
    cosine_unmapped: float | None  # mean, between source and target vectors; None if their dimensions differ


def read_shared_cvs(store: PartsStore, source: FeatureContract, target: FeatureContract) -> SharedCVs:
    """Read the CVs with a generated JD under both contracts. Rows that were written by a map are left out.

    Raises:
        EmptyWindowError: fewer than MIN_SEEKERS seekers have such CVs.
    """
    source_rows, target_rows = (store.scan(GENERATED_JDS, contract.fingerprint) for contract in (source, target))
    table = None
    if source_rows and target_rows:
        with connected() as connection:
            table = connection.execute(
                f"""SELECT s.{JOB_SEEKER_ID} AS id, s.{GENERATED_JD_VECTOR} AS source_vector,
                    t.{GENERATED_JD_VECTOR} AS target_vector
                FROM {source_rows} AS s JOIN {target_rows} AS t USING ({JOB_SEEKER_ID}, {CV_HASH})
                WHERE NOT starts_with(s.{ENGINE}, 'map:') AND NOT starts_with(t.{ENGINE}, 'map:')
                QUALIFY row_number() OVER (PARTITION BY id, {CV_HASH}
                    ORDER BY s.{UPDATED_AT}, t.{UPDATED_AT}) = 1
                ORDER BY id, s.{UPDATED_AT}"""
            ).to_arrow_table()
    n_seekers = 0 if table is None else len(table["id"].unique())
    if table is None or n_seekers < MIN_SEEKERS:
        raise EmptyWindowError(
            f"{n_seekers} seekers have vectors of both {source.fingerprint!r} and {target.fingerprint!r}, but a map "
            f"needs {MIN_SEEKERS} to learn from; materialize some CVs under both"
        )
    return SharedCVs(
        np.array(table["id"].to_pylist(), np.str_),
        vectors_of(table["source_vector"], source.encoder.dimension),
        vectors_of(table["target_vector"], target.encoder.dimension),
    )


def fit_map(shared: SharedCVs) -> FittedMap:
    """Fit a ridge regression and a rotation, and return the one with the higher cosine on held-out seekers."""
    digests = [hashlib.sha256(name.encode()).digest() for name in shared.seeker_ids.tolist()]
    is_held_out = np.array([digest[0] % HELD_OUT == 0 for digest in digests], bool)
    train, test = shared.take(~is_held_out), shared.take(is_held_out)
    test_pair = (test.source_vectors, test.target_vectors)
    ridge = fit_ridge(train.source_vectors, train.target_vectors, test_pair)
    kind, best, cosine = "ridge", ridge.map, ridge.cosine
    cosine_unmapped = None
    if shared.source_vectors.shape[1] == shared.target_vectors.shape[1]:
        cosine_unmapped = mean_cosine(*test_pair)
        rotation = fit_rotation(train.source_vectors, train.target_vectors)
        rotation_cosine = mean_cosine(rotation(test.source_vectors), test.target_vectors)
        if rotation_cosine > cosine:
            kind, best, cosine = "orthogonal", rotation, rotation_cosine
    return FittedMap(best, kind, len(set(shared.seeker_ids.tolist())), cosine, cosine_unmapped)


def fit_rotation(inputs: np.ndarray, targets: np.ndarray) -> VectorMap:
    """Fit the rotation or reflection of the centred (n, d) `inputs` that is nearest to `targets` (Procrustes)."""
    centre, mean = inputs.mean(axis=0, dtype=np.float64), targets.mean(axis=0, dtype=np.float64)
    left, _, right = np.linalg.svd((inputs - centre).T @ (targets - mean))
    skip = left @ right
    return VectorMap.linear(skip, mean - centre @ skip, float(np.linalg.norm(targets, axis=1).mean()))


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
