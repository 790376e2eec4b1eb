"""Tables for the parts store out of what was generated and encoded: one function for each view."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from girl_features import schema
from girl_features.batch.plan import JobVersion
from girl_features.contract import FeatureContract
from girl_features.generator.draw import Draw, GeneratedChunk
from girl_features.schema import CVVersion, Encoded


class Origin(NamedTuple):
    """Who makes the rows of a run, and under which contract."""

    contract: FeatureContract
    run: str
    engine: str


class TimedChunk(NamedTuple):
    """CV versions, what was generated for them, and how long that took."""

    versions: Sequence[CVVersion]
    chunk: GeneratedChunk
    seconds: float


class Pooled(NamedTuple):
    """One vector a CV out of those of its JDs."""

    means: np.ndarray  # (m, d) float32
    dispersions: np.ndarray  # (m,) float32: mean squared distance of a CV's vectors from their mean


def pool_samples(vectors: np.ndarray, counts: Sequence[int]) -> Pooled:
    """(sum(counts), d) float32 -> the mean of each CV's vectors (GIRL, section VI-E) and how far they lie apart."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
    n = np.asarray(counts, np.float32)
    means = np.asarray(np.add.reduceat(vectors, starts, axis=0) / n[:, None], np.float32)
    distances = ((vectors - np.repeat(means, counts, axis=0)) ** 2).sum(axis=1)
    return Pooled(means, np.asarray(np.add.reduceat(distances, starts) / n, np.float32))


def generated_rows(
    timed: TimedChunk, good: Sequence[int], pooled: Pooled, origin: Origin, created_at: datetime
) -> pa.Table:
    """Rows of `generated_jds` for the CVs at the places `good`, whose JDs' vectors are `pooled`."""
    rows = [timed.versions[i] for i in good]
    kept = [timed.chunk.kept[i] for i in good]
    columns = {
        schema.JOB_SEEKER_ID: [v.job_seeker_id for v in rows],
        schema.EVENT_TIMESTAMP: [max(v.updated_at, origin.contract.trained_until) for v in rows],
        schema.CREATED_TIMESTAMP: [created_at] * len(rows),
        schema.UPDATED_AT: [v.updated_at for v in rows],
        **_lineage(timed, good, kept, origin),
        schema.CV_TRUNCATED: [own[0].result.cv_truncated for own in kept],
        schema.N_REDACTED: [sum(draw.n_redacted for draw in own) for own in kept],
        schema.N_GENERATED: [len(own) for own in kept],
        schema.GENERATED_JDS: [[draw.result.text for draw in own] for own in kept],
        schema.GENERATED_JD_VECTOR: list(pooled.means),
        schema.GENERATED_JD_DISPERSION: pooled.dispersions,
    }
    return pa.table(columns, schema=schema.GENERATED_SCHEMA)


def failure_rows(timed: TimedChunk, bad: Sequence[int], origin: Origin, created_at: datetime) -> pa.Table:
    """Rows of `failures` for the CVs at the places `bad`: the reason, and what its tries were."""
    rows = [timed.versions[i] for i in bad]
    columns = {
        schema.JOB_SEEKER_ID: [v.job_seeker_id for v in rows],
        schema.UPDATED_AT: [v.updated_at for v in rows],
        schema.CREATED_TIMESTAMP: [created_at] * len(rows),
        **_lineage(timed, bad, [timed.chunk.dropped[i] for i in bad], origin),
        schema.STATUS: [timed.chunk.failures[i] for i in bad],
    }
    return pa.table(columns, schema=schema.FAILURES_SCHEMA)


def cv_vector_rows(
    versions: Sequence[CVVersion], encoded: Encoded, contract: FeatureContract, created_at: datetime
) -> pa.Table:
    """Rows of `cv_vectors`."""
    columns = {
        schema.JOB_SEEKER_ID: [v.job_seeker_id for v in versions],
        schema.EVENT_TIMESTAMP: [v.updated_at for v in versions],
        schema.CREATED_TIMESTAMP: [created_at] * len(versions),
        schema.CONTRACT: [contract.encoder.fingerprint] * len(versions),
        schema.CV_HASH: [v.cv_hash for v in versions],
        schema.CV_TRUNCATED: encoded.truncated.tolist(),
        schema.CV_VECTOR: list(encoded.vectors),
    }
    return pa.table(columns, schema=schema.CV_VECTORS_SCHEMA)


def jd_vector_rows(
    jobs: Sequence[JobVersion], encoded: Encoded, contract: FeatureContract, created_at: datetime
) -> pa.Table:
    """Rows of `jd_vectors`."""
    columns = {
        schema.JOB_ID: [job.job_id for job in jobs],
        schema.EVENT_TIMESTAMP: [job.known_at for job in jobs],
        schema.CREATED_TIMESTAMP: [created_at] * len(jobs),
        schema.CONTRACT: [contract.encoder.fingerprint] * len(jobs),
        schema.JD_HASH: [job.jd_hash for job in jobs],
        schema.JD_VECTOR: list(encoded.vectors),
    }
    return pa.table(columns, schema=schema.JD_VECTORS_SCHEMA)


def _lineage(
    timed: TimedChunk, places: Sequence[int], shown: Sequence[Sequence[Draw]], origin: Origin
) -> dict[str, list[object]]:
    """Seeds and finish reasons of the draws in `shown`; tokens and seconds of all draws, dropped ones too.

    CVs of a chunk are generated together, so a CV's seconds are its share of the chunk's by new tokens.
    """
    drawn = [[*kept, *dropped] for kept, dropped in zip(timed.chunk.kept, timed.chunk.dropped, strict=True)]
    new_tokens = [sum(draw.result.n_new_tokens for draw in own) for own in drawn]
    a_token = timed.seconds / max(sum(new_tokens), 1)
    n = len(places)
    return {
        schema.CONTRACT: [origin.contract.fingerprint] * n,
        schema.CV_HASH: [timed.versions[i].cv_hash for i in places],
        schema.RUN: [origin.run] * n,
        schema.ENGINE: [origin.engine] * n,
        schema.SEEDS: [[draw.seed for draw in own] for own in shown],
        schema.FINISH_REASONS: [[draw.result.finish_reason for draw in own] for own in shown],
        schema.N_PROMPT_TOKENS: [sum(draw.result.n_prompt_tokens for draw in drawn[i]) for i in places],
        schema.N_NEW_TOKENS: [new_tokens[i] for i in places],
        schema.SECONDS: [new_tokens[i] * a_token for i in places],
    }
