"""One chunk of a batch: what is generated and encoded for it, and the rows of the feature tables that come of it.

Threads of one machine (`local.py`) and workers of a cluster (`integrations/ray_data.py`) call the same functions on
the same chunks, so they make the same rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from girl_features import schema
from girl_features.batch.plan import JobVersion
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.generator.draw import Draw, GeneratedChunk, generate_chunk
from girl_features.generator.opening import LoadedModels
from girl_features.schema import CVVersion, Encoded


class Origin(NamedTuple):
    """The contract, run and engine that made a row. Every row names them."""

    contract: FeatureContract
    run: str  # id of the run
    engine: str  # name of the engine that generates


class DrawnChunk(NamedTuple):
    """CV versions and the JDs drawn for them."""

    versions: Sequence[CVVersion]
    chunk: GeneratedChunk
    seconds: float  # that generating took


class PooledVectors(NamedTuple):
    """One vector for each CV, made from the vectors of its JDs."""

    means: np.ndarray  # (m, d) float32
    dispersions: np.ndarray  # (m,) float32: mean squared distance of a CV's vectors from their mean


class FinishedJDs(NamedTuple):
    """CV versions with their generated JDs, encoded and pooled."""

    drawn: DrawnChunk
    pooled: PooledVectors | None  # of the CVs that have a JD, in order; None if no CV of the chunk has one
    n_encoder_truncated: int  # JDs longer than the encoder reads

    @property
    def n_rows(self) -> int:
        """Number of CV versions."""
        return len(self.drawn.versions)


class FinishedCVs(NamedTuple):
    """CV versions with their vectors."""

    versions: Sequence[CVVersion]
    encoded: Encoded

    @property
    def n_rows(self) -> int:
        """Number of CV versions."""
        return len(self.versions)


class FinishedJobs(NamedTuple):
    """Jobs with the vectors of their JDs."""

    jobs: Sequence[JobVersion]
    encoded: Encoded

    @property
    def n_rows(self) -> int:
        """Number of jobs."""
        return len(self.jobs)


FinishedChunk: TypeAlias = FinishedJDs | FinishedCVs | FinishedJobs


def draw_jds(models: LoadedModels, versions: Sequence[CVVersion]) -> DrawnChunk:
    """Generate the JDs of `versions`, and note how long that took."""
    started = time.perf_counter()
    chunk = generate_chunk(models.generator, versions, models.contract, models.reward_model)
    return DrawnChunk(versions, chunk, time.perf_counter() - started)


def encode_jds(encoder: TextEncoder, drawn: DrawnChunk) -> FinishedJDs:
    """Encode the JDs of a chunk, and pool the vectors of each CV."""
    kept = [draws for draws in drawn.chunk.kept if draws]
    if not kept:
        return FinishedJDs(drawn, None, 0)
    encoded = encoder.encode([draw.result.text for draws in kept for draw in draws])
    pooled = pool_samples(encoded.vectors, [len(draws) for draws in kept])
    return FinishedJDs(drawn, pooled, int(encoded.truncated.sum()))


def encode_cvs(encoder: TextEncoder, versions: Sequence[CVVersion]) -> FinishedCVs:
    """Encode the texts of CV versions."""
    return FinishedCVs(versions, encoder.encode([version.cv for version in versions]))


def encode_jobs(encoder: TextEncoder, jobs: Sequence[JobVersion]) -> FinishedJobs:
    """Encode the JDs of jobs."""
    return FinishedJobs(jobs, encoder.encode([job.jd for job in jobs]))


def pool_samples(vectors: np.ndarray, counts: Sequence[int]) -> PooledVectors:
    """Average the vectors of each CV's JDs (GIRL, section VI-E), and measure how far they lie apart.

    Args:
        vectors: (sum(counts), d) float32, those of one CV after those of another.
        counts: number of JDs of each CV.
    """
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
    n = np.asarray(counts, np.float32)
    means = np.asarray(np.add.reduceat(vectors, starts, axis=0) / n[:, None], np.float32)
    distances = ((vectors - np.repeat(means, counts, axis=0)) ** 2).sum(axis=1)
    return PooledVectors(means, np.asarray(np.add.reduceat(distances, starts) / n, np.float32))


def generated_rows(
    drawn: DrawnChunk, places: Sequence[int], pooled: PooledVectors, origin: Origin, created_at: datetime
) -> pa.Table:
    """Make rows of `generated_jds` for the CVs at `places` in the chunk, whose pooled vectors are `pooled`."""
    versions = [drawn.versions[i] for i in places]
    kept = [drawn.chunk.kept[i] for i in places]
    columns = {
        schema.JOB_SEEKER_ID: [version.job_seeker_id for version in versions],
        schema.EVENT_TIMESTAMP: [max(version.updated_at, origin.contract.trained_until) for version in versions],
        schema.CREATED_TIMESTAMP: [created_at] * len(versions),
        schema.UPDATED_AT: [version.updated_at for version in versions],
        **_lineage_columns(drawn, places, kept, origin),
        schema.CV_TRUNCATED: [draws[0].result.cv_truncated for draws in kept],
        schema.N_REDACTED: [sum(draw.n_redacted for draw in draws) for draws in kept],
        schema.N_GENERATED: [len(draws) for draws in kept],
        schema.GENERATED_JDS: [[draw.result.text for draw in draws] for draws in kept],
        schema.GENERATED_JD_VECTOR: list(pooled.means),
        schema.GENERATED_JD_DISPERSION: pooled.dispersions,
    }
    return pa.table(columns, schema=schema.GENERATED_SCHEMA)


def failure_rows(drawn: DrawnChunk, places: Sequence[int], origin: Origin, created_at: datetime) -> pa.Table:
    """Make rows of `failures` for the CVs at `places` in the chunk: the reason, and what was drawn in vain."""
    versions = [drawn.versions[i] for i in places]
    columns = {
        schema.JOB_SEEKER_ID: [version.job_seeker_id for version in versions],
        schema.UPDATED_AT: [version.updated_at for version in versions],
        schema.CREATED_TIMESTAMP: [created_at] * len(versions),
        **_lineage_columns(drawn, places, [drawn.chunk.dropped[i] for i in places], origin),
        schema.STATUS: [drawn.chunk.failures[i] for i in places],
    }
    return pa.table(columns, schema=schema.FAILURES_SCHEMA)


def cv_vector_rows(finished: FinishedCVs, contract: FeatureContract, created_at: datetime) -> pa.Table:
    """Make rows of `cv_vectors`."""
    versions, encoded = finished
    columns = {
        schema.JOB_SEEKER_ID: [version.job_seeker_id for version in versions],
        schema.EVENT_TIMESTAMP: [version.updated_at for version in versions],
        schema.CREATED_TIMESTAMP: [created_at] * len(versions),
        schema.CONTRACT: [contract.encoder.fingerprint] * len(versions),
        schema.CV_HASH: [version.cv_hash for version in versions],
        schema.CV_TRUNCATED: encoded.truncated.tolist(),
        schema.CV_VECTOR: list(encoded.vectors),
    }
    return pa.table(columns, schema=schema.CV_VECTORS_SCHEMA)


def jd_vector_rows(finished: FinishedJobs, contract: FeatureContract, created_at: datetime) -> pa.Table:
    """Make rows of `jd_vectors`."""
    jobs, encoded = finished
    columns = {
        schema.JOB_ID: [job.job_id for job in jobs],
        schema.EVENT_TIMESTAMP: [job.known_at for job in jobs],
        schema.CREATED_TIMESTAMP: [created_at] * len(jobs),
        schema.CONTRACT: [contract.encoder.fingerprint] * len(jobs),
        schema.JD_HASH: [job.jd_hash for job in jobs],
        schema.JD_VECTOR: list(encoded.vectors),
    }
    return pa.table(columns, schema=schema.JD_VECTORS_SCHEMA)


def _lineage_columns(
    drawn: DrawnChunk, places: Sequence[int], listed: Sequence[Sequence[Draw]], origin: Origin
) -> dict[str, list[object]]:
    """Make the columns that say how a row came to be.

    Seeds and finish reasons are those of the `listed` draws. Tokens and seconds count all draws of a CV, dropped ones
    too. The CVs of a chunk are generated together, so each gets a share of the seconds by its new tokens.
    """
    all_draws = [[*kept, *dropped] for kept, dropped in zip(drawn.chunk.kept, drawn.chunk.dropped, strict=True)]
    new_tokens = [sum(draw.result.n_new_tokens for draw in draws) for draws in all_draws]
    seconds_per_token = drawn.seconds / max(sum(new_tokens), 1)
    n = len(places)
    return {
        schema.CONTRACT: [origin.contract.fingerprint] * n,
        schema.CV_HASH: [drawn.versions[i].cv_hash for i in places],
        schema.RUN: [origin.run] * n,
        schema.ENGINE: [origin.engine] * n,
        schema.SEEDS: [[draw.seed for draw in draws] for draws in listed],
        schema.FINISH_REASONS: [[draw.result.finish_reason for draw in draws] for draws in listed],
        schema.N_PROMPT_TOKENS: [sum(draw.result.n_prompt_tokens for draw in all_draws[i]) for i in places],
        schema.N_NEW_TOKENS: [new_tokens[i] for i in places],
        schema.SECONDS: [new_tokens[i] * seconds_per_token for i in places],
    }
