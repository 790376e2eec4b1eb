"""Tables of the parts store, made from a few values per row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa

from girl_features import schema
from girl_features.contract import FeatureContract
from girl_features.store.parts import PartsStore


class Row(NamedTuple):
    """Key, times and vector of one stored row."""

    id: str
    known_at: datetime
    created_at: datetime
    vector: list[float]


def cv_table(contract: FeatureContract, rows: Sequence[Row]) -> pa.Table:
    columns = _common(schema.JOB_SEEKER_ID, contract.encoder.fingerprint, rows)
    columns |= {
        schema.CV_HASH: ["0" * 16 for _ in rows],
        schema.CV_TRUNCATED: [False for _ in rows],
        schema.CV_VECTOR: [row.vector for row in rows],
    }
    return pa.table(columns, schema=schema.CV_VECTORS_SCHEMA)


def jd_table(contract: FeatureContract, rows: Sequence[Row]) -> pa.Table:
    columns = _common(schema.JOB_ID, contract.encoder.fingerprint, rows)
    columns |= {
        schema.JD_HASH: ["0" * 16 for _ in rows],
        schema.JD_VECTOR: [row.vector for row in rows],
    }
    return pa.table(columns, schema=schema.JD_VECTORS_SCHEMA)


def generated_table(contract: FeatureContract, rows: Sequence[Row]) -> pa.Table:
    columns = _common(schema.JOB_SEEKER_ID, contract.fingerprint, rows)
    columns |= {
        schema.UPDATED_AT: [row.known_at for row in rows],
        schema.CV_HASH: ["0" * 16 for _ in rows],
        schema.RUN: ["run" for _ in rows],
        schema.ENGINE: ["template" for _ in rows],
        schema.SEEDS: [[0] for _ in rows],
        schema.FINISH_REASONS: [["stop"] for _ in rows],
        schema.CV_TRUNCATED: [False for _ in rows],
        schema.N_PROMPT_TOKENS: [1 for _ in rows],
        schema.N_NEW_TOKENS: [1 for _ in rows],
        schema.SECONDS: [0.5 for _ in rows],
        schema.N_REDACTED: [0 for _ in rows],
        schema.N_GENERATED: [1 for _ in rows],
        schema.GENERATED_JDS: [[f"a job for {row.id}"] for row in rows],
        schema.GENERATED_JD_VECTOR: [row.vector for row in rows],
        schema.GENERATED_JD_DISPERSION: [0.0 for _ in rows],
    }
    return pa.table(columns, schema=schema.GENERATED_SCHEMA)


def write_rows(
    store: PartsStore,
    contract: FeatureContract,
    cvs: Sequence[Row] = (),
    jds: Sequence[Row] = (),
    generated: Sequence[Row] = (),
) -> None:
    """Write one part for each kind that has rows."""
    encoder = contract.encoder.fingerprint
    if cvs:
        store.write_part("cv_vectors", encoder, cv_table(contract, cvs))
    if jds:
        store.write_part("jd_vectors", encoder, jd_table(contract, jds))
    if generated:
        store.write_part("generated_jds", contract.fingerprint, generated_table(contract, generated))


def _common(key: str, fingerprint: str, rows: Sequence[Row]) -> dict[str, list[object]]:
    return {
        key: [row.id for row in rows],
        schema.EVENT_TIMESTAMP: [row.known_at for row in rows],
        schema.CREATED_TIMESTAMP: [row.created_at for row in rows],
        schema.CONTRACT: [fingerprint for _ in rows],
    }
