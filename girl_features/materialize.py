"""The batch job: plan what is missing -> generate -> encode -> append to the store, chunk by chunk.

A chunk is committed by one rename of one Parquet part that holds both texts and vectors, so a run killed
anywhere leaves whole chunks or none, and the next run plans only what is still missing. Publishing to
Feast's online store is a step of its own (`store.online.publish`), which converges after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from girl_features import schema
from girl_features.contract import FeatureContract, sampling_seed
from girl_features.data import Tables
from girl_features.encoder import TextEncoder
from girl_features.errors import ContractMismatchError
from girl_features.generator import Generator, RewardModel
from girl_features.generator.retry import GeneratedChunk, generate_chunk
from girl_features.plans import (
    JobVersion,
    plan_cv_vectors,
    plan_generation,
    plan_jd_vectors,
    planned_cvs,
    planned_jobs,
)
from girl_features.progress import Progress
from girl_features.schema import CVVersion
from girl_features.store.parts import PartsStore


@dataclass
class MaterializeReport:
    """What one run did. Counts are CV versions unless the name says otherwise."""

    contract: str
    n_planned: int = 0
    n_generated: int = 0
    n_no_cv: int = 0  # blank: not tried
    n_failed: int = 0  # tried twice, and no JD was fit to store
    n_retried: int = 0  # JDs drawn a second time
    n_cv_truncated: int = 0  # CVs longer than the generator reads
    n_unfinished: int = 0  # JDs cut at max_new_tokens
    n_new_tokens: int = 0
    n_cv_vectors: int = 0
    n_jd_vectors: int = 0
    n_encoder_truncated: int = 0  # CVs, JDs and generated JDs longer than the encoder reads
    stopped: bool = False  # a stop was asked for before the plan was done


def materialize(
    tables: Tables,
    generator: Generator,
    encoder: TextEncoder,
    contract: FeatureContract,
    store: PartsStore,
    *,
    chunk_size: int,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    should_stop: Callable[[], bool] = lambda: False,
    reward_model: RewardModel | None = None,
) -> MaterializeReport:
    """Bring the store up to date for `contract`; a second run generates nothing.

    Args:
        chunk_size: CVs generated, encoded and committed together.
        now: clock of `created_timestamp`.
        should_stop: asked between chunks; True ends the run with what is committed.
        reward_model: keeps the best JDs, where the contract's sampling asks for best-of-N.

    Raises:
        ContractMismatchError: the encoder is not the one the contract names.
        StoreLockedError: another run is writing.
        StoreError: a part cannot be written.
    """
    if encoder.contract != contract.encoder:
        raise ContractMismatchError(encoder.contract.fingerprint, contract.encoder.fingerprint)
    with store.lock():
        store.clean_temporaries()
        store.save_contract(contract)
        run = _Run(tables, generator, encoder, contract, store, chunk_size, now, should_stop, reward_model)
        run.encode_cvs()
        run.encode_jds()
        run.generate()
    return run.report


def mean_of_samples(vectors: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """(sum(counts), d) float32 -> (len(counts), d): the mean of each CV's vectors (GIRL, section VI-E)."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    sums = np.add.reduceat(vectors, starts, axis=0)
    return np.asarray(sums / np.asarray(counts, np.float32)[:, None], np.float32)


@dataclass
class _Run:
    tables: Tables
    generator: Generator
    encoder: TextEncoder
    contract: FeatureContract
    store: PartsStore
    chunk_size: int
    now: Callable[[], datetime]
    should_stop: Callable[[], bool]
    reward_model: RewardModel | None
    report: MaterializeReport = field(init=False)

    def __post_init__(self) -> None:
        self.report = MaterializeReport(self.contract.fingerprint)

    def generate(self) -> None:
        self.report.n_planned = plan_generation(self.tables, self.contract, self.store)
        with Progress("generate", self.report.n_planned, "CVs") as progress:
            for versions in planned_cvs(self.tables, "generation_plan", self.chunk_size):
                if self._stop():
                    return
                self._commit(versions, generate_chunk(self.generator, versions, self.contract, self.reward_model))
                progress.advance(len(versions))

    def encode_cvs(self) -> None:
        fingerprint = self.contract.encoder.fingerprint
        n_planned = plan_cv_vectors(self.tables, self.contract, self.store)
        with Progress("encode CVs", n_planned, "CVs") as progress:
            for versions in planned_cvs(self.tables, "cv_vector_plan", self.chunk_size):
                if self._stop():
                    return
                self.store.write_part("cv_vectors", fingerprint, self._cv_vector_rows(versions))
                self.report.n_cv_vectors += len(versions)
                progress.advance(len(versions))

    def encode_jds(self) -> None:
        fingerprint = self.contract.encoder.fingerprint
        n_planned = plan_jd_vectors(self.tables, self.contract, self.store)
        with Progress("encode JDs", n_planned, "JDs") as progress:
            for jobs in planned_jobs(self.tables, self.chunk_size):
                if self._stop():
                    return
                self.store.write_part("jd_vectors", fingerprint, self._jd_vector_rows(jobs))
                self.report.n_jd_vectors += len(jobs)
                progress.advance(len(jobs))

    def _stop(self) -> bool:
        self.report.stopped = self.report.stopped or self.should_stop()
        return self.report.stopped

    def _commit(self, versions: Sequence[CVVersion], chunk: GeneratedChunk) -> None:
        good = [i for i, failure in enumerate(chunk.failures) if failure is None]
        bad = [i for i, failure in enumerate(chunk.failures) if failure is not None]
        if bad:  # first: a crash in between costs a second generation of the good, never a lost reason
            self.store.write_part("failures", self.contract.fingerprint, self._failure_rows(versions, chunk, bad))
        if good:
            self.store.write_part("generated_jds", self.contract.fingerprint, self._rows(versions, chunk, good))
        texts = [text for i in good for text in chunk.texts[i]]
        self.report.n_generated += len(good)
        n_no_cv = sum(chunk.failures[i] == "no_cv" for i in bad)
        self.report.n_no_cv += n_no_cv
        self.report.n_failed += len(bad) - n_no_cv
        self.report.n_retried += chunk.n_retried
        self.report.n_cv_truncated += sum(chunk.texts[i][0].cv_truncated for i in good)
        self.report.n_unfinished += sum(text.finish_reason == "length" for text in texts)
        self.report.n_new_tokens += sum(text.n_new_tokens for text in texts)

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        encoded = self.encoder.encode(texts)
        self.report.n_encoder_truncated += int(encoded.truncated.sum())
        return encoded.vectors

    def _rows(self, versions: Sequence[CVVersion], chunk: GeneratedChunk, good: Sequence[int]) -> pa.Table:
        texts = [[text.text for text in chunk.texts[i]] for i in good]
        vectors = mean_of_samples(self._encode([t for own in texts for t in own]), [len(own) for own in texts])
        firsts = [chunk.texts[i][0] for i in good]
        rows = [versions[i] for i in good]
        columns = {
            schema.JOB_SEEKER_ID: [v.job_seeker_id for v in rows],
            schema.EVENT_TIMESTAMP: [max(v.updated_at, self.contract.trained_until) for v in rows],
            schema.CREATED_TIMESTAMP: [self.now()] * len(rows),
            schema.UPDATED_AT: [v.updated_at for v in rows],
            schema.CONTRACT: [self.contract.fingerprint] * len(rows),
            schema.CV_HASH: [v.cv_hash for v in rows],
            schema.SEED: [sampling_seed(v.cv_hash, self.contract.fingerprint, 0) for v in rows],
            schema.CV_TRUNCATED: [text.cv_truncated for text in firsts],
            schema.N_PROMPT_TOKENS: [text.n_prompt_tokens for text in firsts],
            schema.N_NEW_TOKENS: [sum(t.n_new_tokens for t in chunk.texts[i]) for i in good],
            schema.N_GENERATED: [len(own) for own in texts],
            schema.GENERATED_JDS: texts,
            schema.GENERATED_JD_VECTOR: list(vectors),
        }
        return pa.table(columns, schema=schema.GENERATED_SCHEMA)

    def _failure_rows(self, versions: Sequence[CVVersion], chunk: GeneratedChunk, bad: Sequence[int]) -> pa.Table:
        rows = [versions[i] for i in bad]
        columns = {
            schema.JOB_SEEKER_ID: [v.job_seeker_id for v in rows],
            schema.UPDATED_AT: [v.updated_at for v in rows],
            schema.CREATED_TIMESTAMP: [self.now()] * len(rows),
            schema.CONTRACT: [self.contract.fingerprint] * len(rows),
            schema.CV_HASH: [v.cv_hash for v in rows],
            schema.STATUS: [chunk.failures[i] for i in bad],
        }
        return pa.table(columns, schema=schema.FAILURES_SCHEMA)

    def _cv_vector_rows(self, versions: Sequence[CVVersion]) -> pa.Table:
        encoded = self.encoder.encode([v.cv for v in versions])
        self.report.n_encoder_truncated += int(encoded.truncated.sum())
        columns = {
            schema.JOB_SEEKER_ID: [v.job_seeker_id for v in versions],
            schema.EVENT_TIMESTAMP: [v.updated_at for v in versions],
            schema.CREATED_TIMESTAMP: [self.now()] * len(versions),
            schema.CONTRACT: [self.contract.encoder.fingerprint] * len(versions),
            schema.CV_HASH: [v.cv_hash for v in versions],
            schema.CV_TRUNCATED: encoded.truncated.tolist(),
            schema.CV_VECTOR: list(encoded.vectors),
        }
        return pa.table(columns, schema=schema.CV_VECTORS_SCHEMA)

    def _jd_vector_rows(self, jobs: Sequence[JobVersion]) -> pa.Table:
        columns = {
            schema.JOB_ID: [job.job_id for job in jobs],
            schema.EVENT_TIMESTAMP: [job.known_at for job in jobs],
            schema.CREATED_TIMESTAMP: [self.now()] * len(jobs),
            schema.CONTRACT: [self.contract.encoder.fingerprint] * len(jobs),
            schema.JD_HASH: [job.jd_hash for job in jobs],
            schema.JD_VECTOR: list(self._encode([job.jd for job in jobs])),
        }
        return pa.table(columns, schema=schema.JD_VECTORS_SCHEMA)
