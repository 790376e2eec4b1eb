"""Column names, table shapes and the small records that travel between modules: spelled here, nowhere else."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pyarrow as pa

# keys and texts of the three input tables
JOB_SEEKER_ID = "job_seeker_id"
JOB_ID = "job_id"
CV = "cv"
JD = "jd"
UPDATED_AT = "updated_at"
POSTED_AT = "posted_at"
MATCHED = "matched"
DECIDED_AT = "decided_at"

# Feast's own column names
EVENT_TIMESTAMP = "event_timestamp"
CREATED_TIMESTAMP = "created_timestamp"

# columns of the feature tables
CV_HASH = "cv_hash"
JD_HASH = "jd_hash"
CONTRACT = "contract"
CV_VECTOR = "cv_vector"
JD_VECTOR = "jd_vector"
GENERATED_JD_VECTOR = "generated_jd_vector"
GENERATED_JDS = "generated_jds"
N_GENERATED = "n_generated"
GENERATED_JD_DISPERSION = "generated_jd_dispersion"
RUN = "run"
ENGINE = "engine"
SEEDS = "seeds"
FINISH_REASONS = "finish_reasons"
SECONDS = "seconds"
N_REDACTED = "n_redacted"
N_PROMPT_TOKENS = "n_prompt_tokens"
N_NEW_TOKENS = "n_new_tokens"
CV_TRUNCATED = "cv_truncated"
STATUS = "status"

# when a vector could first have been known: the event timestamp again, as a feature that Feast hands back
CV_KNOWN_AT = "cv_known_at"
JD_KNOWN_AT = "jd_known_at"
GENERATED_JD_KNOWN_AT = "generated_jd_known_at"

INPUT_COLUMNS: dict[str, tuple[str, ...]] = {
    "job_seekers": (JOB_SEEKER_ID, CV, UPDATED_AT),
    "jobs": (JOB_ID, JD, POSTED_AT),
    "interactions": (JOB_SEEKER_ID, JOB_ID, MATCHED, DECIDED_AT),
}

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")
VECTOR = pa.list_(pa.float32())

JOB_SEEKERS_SCHEMA = pa.schema([(JOB_SEEKER_ID, pa.string()), (CV, pa.string()), (UPDATED_AT, UTC_MICROSECONDS)])
JOBS_SCHEMA = pa.schema([(JOB_ID, pa.string()), (JD, pa.string()), (POSTED_AT, UTC_MICROSECONDS)])
INTERACTIONS_SCHEMA = pa.schema(
    [
        (JOB_SEEKER_ID, pa.string()),
        (JOB_ID, pa.string()),
        (MATCHED, pa.bool_()),
        (DECIDED_AT, UTC_MICROSECONDS),
    ]
)

CV_VECTORS_SCHEMA = pa.schema(
    [
        (JOB_SEEKER_ID, pa.string()),
        (EVENT_TIMESTAMP, UTC_MICROSECONDS),
        (CREATED_TIMESTAMP, UTC_MICROSECONDS),
        (CONTRACT, pa.string()),
        (CV_HASH, pa.string()),
        (CV_TRUNCATED, pa.bool_()),
        (CV_VECTOR, VECTOR),
    ]
)
JD_VECTORS_SCHEMA = pa.schema(
    [
        (JOB_ID, pa.string()),
        (EVENT_TIMESTAMP, UTC_MICROSECONDS),
        (CREATED_TIMESTAMP, UTC_MICROSECONDS),
        (CONTRACT, pa.string()),
        (JD_HASH, pa.string()),
        (JD_VECTOR, VECTOR),
    ]
)
# how a row came to be, in both tables that generation fills; see `docs/guide.md`, "The ledger"
_LINEAGE = [
    (CONTRACT, pa.string()),
    (CV_HASH, pa.string()),
    (RUN, pa.string()),
    (ENGINE, pa.string()),
    (SEEDS, pa.list_(pa.int64())),
    (FINISH_REASONS, pa.list_(pa.string())),
    (N_PROMPT_TOKENS, pa.int64()),
    (N_NEW_TOKENS, pa.int64()),
    (SECONDS, pa.float64()),
]
GENERATED_SCHEMA = pa.schema(
    [
        (JOB_SEEKER_ID, pa.string()),
        (EVENT_TIMESTAMP, UTC_MICROSECONDS),
        (CREATED_TIMESTAMP, UTC_MICROSECONDS),
        (UPDATED_AT, UTC_MICROSECONDS),
        *_LINEAGE,
        (CV_TRUNCATED, pa.bool_()),
        (N_REDACTED, pa.int64()),
        (N_GENERATED, pa.int64()),
        (GENERATED_JDS, pa.list_(pa.string())),
        (GENERATED_JD_VECTOR, VECTOR),
        (GENERATED_JD_DISPERSION, pa.float32()),
    ]
)
FAILURES_SCHEMA = pa.schema(
    [
        (JOB_SEEKER_ID, pa.string()),
        (UPDATED_AT, UTC_MICROSECONDS),
        (CREATED_TIMESTAMP, UTC_MICROSECONDS),
        *_LINEAGE,
        (STATUS, pa.string()),
    ]
)


class Tier(IntEnum):
    """Where a seeker's generated-JD vector came from, best first. Offline joins know the first and the last."""

    GENERATED = 0  # in the store, of the seeker's present CV
    STALE = 1  # in the store, but the CV has changed since
    STUDENT = 2  # the student's guess from the CV's vector
    NEIGHBOURS = 3  # mean of the generated vectors of the nearest stored CVs
    PRIOR = 4  # mean of all generated vectors: says nothing of this seeker


class PreferencePair(NamedTuple):
    """One CV, the JD its seeker matched with and one that was turned down."""

    cv: str
    chosen: str
    rejected: str


class CVVersion(NamedTuple):
    """One version of a job seeker's CV."""

    job_seeker_id: str
    cv: str
    updated_at: datetime
    cv_hash: str
    n_failures: int = 0  # times a JD of this version was given up before; each try has seeds of its own


class GeneratedText(NamedTuple):
    """One sampled JD. Counts are tokens of the generator's own tokenizer."""

    text: str
    finish_reason: str  # "stop" (the end token was written) or "length" (cut at max_new_tokens)
    n_prompt_tokens: int
    n_new_tokens: int
    cv_truncated: bool


class Encoded(NamedTuple):
    """What a TextEncoder returns for n texts."""

    vectors: np.ndarray  # (n, d) float32
    truncated: np.ndarray  # (n,) bool: the text was longer than the encoder reads
