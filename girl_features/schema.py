"""Column names, table schemas and the small records that modules exchange. Column names are spelled only here."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pyarrow as pa

# columns of the three input tables
JOB_SEEKER_ID = "job_seeker_id"
JOB_ID = "job_id"
CV = "cv"
JD = "jd"
UPDATED_AT = "updated_at"
POSTED_AT = "posted_at"
MATCHED = "matched"
DECIDED_AT = "decided_at"

# columns that the checked tables and the training data have beside those of the input
KNOWN_AT = "known_at"  # of a job: the time from which its text counts as known
SOURCE_FILE = "girl_source_file"  # the file that a row comes from, NULL for a query
CHOSEN = "chosen"
REJECTED = "rejected"
IS_COLD_START = "is_cold_start"
PROBABILITY = "probability"  # of a match, in the simulated market

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

# Time at which a vector was first known: a copy of the event timestamp as a feature, since Feast returns features only.
CV_KNOWN_AT = "cv_known_at"
JD_KNOWN_AT = "jd_known_at"
GENERATED_JD_KNOWN_AT = "generated_jd_known_at"

# columns added to a user's own tables, with a prefix against name clashes
GIRL_ROW = "girl_row"  # position of a row, while the order may change
GIRL_VECTOR = "girl_vector"
GIRL_TIER = "girl_tier"
GIRL_HAS_GENERATED_JD = "girl_has_generated_jd"
GIRL_COS_CV_JD = "girl_cos_cv_jd"
GIRL_COS_GENERATED_JD_JD = "girl_cos_generated_jd_jd"
GIRL_COS_CV_GENERATED_JD = "girl_cos_cv_generated_jd"

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
    [(JOB_SEEKER_ID, pa.string()), (JOB_ID, pa.string()), (MATCHED, pa.bool_()), (DECIDED_AT, UTC_MICROSECONDS)]
)

_FEAST_TIMES = [(EVENT_TIMESTAMP, UTC_MICROSECONDS), (CREATED_TIMESTAMP, UTC_MICROSECONDS)]
CV_VECTORS_SCHEMA = pa.schema(
    [
        (JOB_SEEKER_ID, pa.string()),
        *_FEAST_TIMES,
        (CONTRACT, pa.string()),
        (CV_HASH, pa.string()),
        (CV_TRUNCATED, pa.bool_()),
        (CV_VECTOR, VECTOR),
    ]
)
JD_VECTORS_SCHEMA = pa.schema(
    [(JOB_ID, pa.string()), *_FEAST_TIMES, (CONTRACT, pa.string()), (JD_HASH, pa.string()), (JD_VECTOR, VECTOR)]
)
# The origin of a row, in both tables that generation writes; see `docs/guide.md`, "The ledger".
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
        *_FEAST_TIMES,
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
    """Source of a seeker's generated-JD vector, best first. Offline joins return only the first and the last."""

    GENERATED = 0  # in the store, generated from the seeker's current CV
    STALE = 1  # in the store, generated from an earlier CV of the seeker
    STUDENT = 2  # predicted by the student from the CV vector
    NEIGHBOURS = 3  # mean of the generated vectors of the nearest stored CVs
    PRIOR = 4  # mean of all generated vectors: the same for every seeker


class CVVersion(NamedTuple):
    """One version of a job seeker's CV."""

    job_seeker_id: str
    cv: str
    updated_at: datetime
    cv_hash: str
    n_failures: int = 0  # earlier attempts at this version that failed; each attempt uses other seeds


class GeneratedText(NamedTuple):
    """One sampled JD. Tokens are counted by the tokenizer of the generator."""

    text: str
    finish_reason: str  # "stop" (the model generated its end token) or "length" (cut at max_new_tokens)
    n_prompt_tokens: int
    n_new_tokens: int
    cv_truncated: bool


class Encoded(NamedTuple):
    """Result of a TextEncoder for n texts."""

    vectors: np.ndarray  # (n, d) float32
    truncated: np.ndarray  # (n,) bool: the text was longer than the encoder reads


# fit of a CV and a JD (generator/fit.py); d(t) is the gain in log p of token t by the CV. The last three say how likely
# and how long the JD is
FIT_COLUMNS = (
    "fit_sum",  # of d(t), nats
    "fit_mean",
    "fit_top",  # mean d(t) of the fifth of the tokens that the CV helps most
    "fit_bottom",  # mean d(t) of the fifth that it helps least
    "fit_first",  # sum of d(t) over the first eight tokens: the title
    "fit_helped",  # share of the tokens with d(t) above one nat
    "fit_logp_given_cv",  # mean log p(t) behind the CV, nats
    "fit_logp",  # mean log p(t) without it
    "fit_tokens",  # of the JD, with its end token
)
