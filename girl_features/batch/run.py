"""A batch run: what is missing, chunk by chunk, and how a finished chunk is committed and counted.

Whoever does the work takes chunks from a `Batch` and hands back what came of them: threads of this machine
(`materialize.py`) or workers of a cluster (`integrations/ray_data.py`). Only the process that holds the store's lock
plans and commits. A chunk is committed by one rename of one Parquet part that holds texts, vectors and where they came
from, so a run killed anywhere leaves whole chunks or none, and the next run plans only what is still missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from girl_features.batch.chunk import FinishedChunk
from girl_features.batch.feature_rows import (
    Origin,
    TimedChunk,
    cv_vector_rows,
    failure_rows,
    generated_rows,
    jd_vector_rows,
)
from girl_features.batch.plan import (
    Chunks,
    JobVersion,
    plan_cv_vectors,
    plan_generation,
    plan_jd_vectors,
    planned_cvs,
    planned_jobs,
    planning_errors,
    set_aside_damaged,
)
from girl_features.batch.reuse import reuse_generated
from girl_features.input.tables import Tables
from girl_features.progress import Progress
from girl_features.schema import CVVersion, Encoded
from girl_features.store.failpoints import failpoint
from girl_features.store.files import LOCK_WAIT_S
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import CV_VECTORS, FAILURES, GENERATED_JDS, JD_VECTORS


@dataclass
class MaterializeReport:
    """What one run did. Counts are CV versions unless the name says otherwise."""

    contract: str
    run: str
    engine: str
    n_new: int = 0  # of seekers without a row under the contract
    n_changed: int = 0  # of seekers who had a row of another version
    n_unchanged: int = 0
    n_failed_before: int = 0  # in earlier runs
    n_planned: int = 0
    n_generated: int = 0
    n_no_cv: int = 0  # blank: not tried
    n_failed: int = 0  # tried twice, and no JD was fit to store
    failures: dict[str, int] = field(default_factory=dict)  # of n_failed, by reason
    n_retried: int = 0  # JDs drawn a second time
    n_cv_truncated: int = 0  # CVs longer than the generator reads
    n_unfinished: int = 0  # JDs cut at max_new_tokens, and so not stored
    n_redacted: int = 0  # CVs whose JDs repeated an e-mail address, phone number or link, which was blacked out
    n_prompt_tokens: int = 0
    n_new_tokens: int = 0
    n_cv_vectors: int = 0
    n_jd_vectors: int = 0
    n_encoder_truncated: int = 0  # CVs, JDs and generated JDs longer than the encoder reads
    n_damaged_parts: int = 0  # set aside; their rows were made again
    seconds: float = 0.0
    generate_seconds: float = 0.0  # generators were at work, summed over workers
    stopped: bool = False  # a stop was asked for before the plan was done


@dataclass
class Batch:
    """The plan of one run, taken chunk by chunk, and its ledger. Only under the store's lock."""

    tables: Tables
    origin: Origin
    store: PartsStore
    chunk_size: int  # CVs generated, encoded and committed together
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    should_stop: Callable[[], bool] = lambda: False
    n_inputs: int = field(init=False, default=0)  # CVs and jobs that have no vector
    report: MaterializeReport = field(init=False)

    def __post_init__(self) -> None:
        self.contract = self.origin.contract
        self.report = MaterializeReport(self.contract.fingerprint, self.origin.run, self.origin.engine)

    def plan(self, retry_failed: bool) -> None:
        """Work out what is missing."""
        self.report.n_damaged_parts = set_aside_damaged(self.contract, self.store)
        plan = plan_generation(self.tables, self.contract, self.store, retry_failed=retry_failed)
        plan = reuse_generated(self.tables, self.contract, self.store, plan, self.now())
        n_cvs = plan_cv_vectors(self.tables, self.contract, self.store)
        self.n_inputs = n_cvs + plan_jd_vectors(self.tables, self.contract, self.store)
        report = self.report
        report.n_new, report.n_changed, report.n_unchanged = plan.n_new, plan.n_changed, plan.n_unchanged
        report.n_failed_before, report.n_planned = plan.n_failed_before, plan.n_planned
        failpoint("batch.planned")

    def generation_chunks(self) -> Chunks[CVVersion]:
        """CVs to generate for."""
        return planned_cvs(self.tables, "generation_plan", self.chunk_size, self.contract.max_cv_tokens)

    def cv_chunks(self) -> Chunks[CVVersion]:
        """CVs to encode."""
        return planned_cvs(self.tables, "cv_vector_plan", self.chunk_size, self.contract.encoder.max_tokens)

    def job_chunks(self) -> Chunks[JobVersion]:
        """Jobs to encode."""
        return planned_jobs(self.tables, self.chunk_size, self.contract.encoder.max_tokens)

    def stop(self) -> bool:
        """Whether no further chunk is to be begun."""
        self.report.stopped = self.report.stopped or self.should_stop()
        return self.report.stopped

    def commit_generated(self, finished: FinishedChunk) -> None:
        """Write and count a chunk of `generation_chunks`. Reads no CV text of it."""
        timed, pooled = finished.timed, finished.pooled
        failures, fingerprint = timed.chunk.failures, self.contract.fingerprint
        good = [i for i, failure in enumerate(failures) if failure is None]
        bad = [i for i, failure in enumerate(failures) if failure is not None]
        if bad:  # first: a crash in between costs a second generation of the good, never a lost reason
            rows = failure_rows(timed, bad, self.origin, self.now())
            self.store.write_part(FAILURES, fingerprint, rows)
            failpoint("batch.failures_committed")
        if pooled is not None:
            rows = generated_rows(timed, good, pooled, self.origin, self.now())
            self.store.write_part(GENERATED_JDS, fingerprint, rows)
            failpoint("batch.committed")
        self.report.n_encoder_truncated += finished.n_encoder_truncated
        _count(self.report, timed)

    def commit_cv_vectors(self, versions: Sequence[CVVersion], encoded: Encoded) -> None:
        """Write and count a chunk of `cv_chunks`. Reads no text of it."""
        rows = cv_vector_rows(versions, encoded, self.contract, self.now())
        self.store.write_part(CV_VECTORS, self.contract.encoder.fingerprint, rows)
        failpoint("batch.cv_vectors_committed")
        self.report.n_cv_vectors += len(versions)
        self.report.n_encoder_truncated += int(encoded.truncated.sum())

    def commit_jd_vectors(self, jobs: Sequence[JobVersion], encoded: Encoded) -> None:
        """Write and count a chunk of `job_chunks`. Reads no text of it."""
        rows = jd_vector_rows(jobs, encoded, self.contract, self.now())
        self.store.write_part(JD_VECTORS, self.contract.encoder.fingerprint, rows)
        failpoint("batch.jd_vectors_committed")
        self.report.n_jd_vectors += len(jobs)
        self.report.n_encoder_truncated += int(encoded.truncated.sum())


CarryOut = Callable[[Batch, Progress, Progress], None]  # with the progress of generating and that of encoding


def run_plan(
    batch: Batch, carry_out: CarryOut, *, retry_failed: bool = False, lock_wait_s: float = LOCK_WAIT_S
) -> MaterializeReport:
    """Plan under the store's lock, have the plan carried out, and report.

    Raises:
        StoreLockedError: another run was writing for all of `lock_wait_s` seconds.
        StoreError: a part cannot be written, or DuckDB finds no room to plan in.
    """
    report, store = batch.report, batch.store
    with store.lock(lock_wait_s), planning_errors():
        started = time.perf_counter()
        store.clean_temporaries()
        store.save_contract(batch.contract)
        batch.plan(retry_failed)
        with (
            Progress("generate", report.n_planned, "CVs") as generating,
            Progress("encode", batch.n_inputs, "CVs and JDs", beside=generating) as encoding,
        ):
            carry_out(batch, generating, encoding)
        report.seconds = time.perf_counter() - started
    return report


def _count(report: MaterializeReport, timed: TimedChunk) -> None:
    chunk = timed.chunk
    for failure in chunk.failures:
        if failure is None:
            report.n_generated += 1
        elif failure == "no_cv":
            report.n_no_cv += 1
        else:
            report.n_failed += 1
            report.failures[failure] = report.failures.get(failure, 0) + 1
    draws = [[*kept, *dropped] for kept, dropped in zip(chunk.kept, chunk.dropped, strict=True)]
    report.n_retried += chunk.n_retried
    report.n_cv_truncated += sum(any(draw.result.cv_truncated for draw in own) for own in draws)
    report.n_redacted += sum(any(draw.n_redacted for draw in own) for own in chunk.kept)
    flat = [draw for own in draws for draw in own]
    report.n_unfinished += sum(draw.defect == "unfinished" for draw in flat)
    report.n_prompt_tokens += sum(draw.result.n_prompt_tokens for draw in flat)
    report.n_new_tokens += sum(draw.result.n_new_tokens for draw in flat)
    report.generate_seconds += timed.seconds
