"""The nightly batch, from `girl materialize` to rows in the store.

A run plans what the store lacks, gets finished chunks from whoever does the work, and commits each. The work is done by
threads of this machine (`local.py`) or by workers of a cluster (`integrations/ray_data.py`). Only the process that
holds the store's lock plans and commits. A chunk is committed by renaming one Parquet file that holds texts, vectors
and where they came from. So a run that is killed leaves whole chunks only, and the next run plans what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

from girl_features.batch.chunk import (
    DrawnChunk,
    FinishedChunk,
    FinishedCVs,
    FinishedJDs,
    Origin,
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
from girl_features.batch.publish import publish_contract
from girl_features.batch.reuse import reuse_generated
from girl_features.batch.run_log import RunLog
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.input.tables import Tables, open_tables
from girl_features.progress import Progress, announce
from girl_features.schema import CVVersion
from girl_features.store.failpoints import failpoint
from girl_features.store.files import LOCK_WAIT_S
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import CV_VECTORS, FAILURES, GENERATED_JDS, JD_VECTORS
from girl_features.store.user_files import keep_out_of_git


@dataclass
class MaterializeReport:
    """Counts of one run, in CV versions unless the name says otherwise."""

    contract: str
    run: str
    engine: str
    gate: str = ""  # how the generator stood to the quality gate
    n_new: int = 0  # of seekers without a row under the contract
    n_changed: int = 0  # of seekers who have a row of another version
    n_unchanged: int = 0
    n_failed_before: int = 0  # in earlier runs
    n_planned: int = 0
    n_generated: int = 0
    n_no_cv: int = 0  # blank CVs, which are not tried
    n_failed: int = 0  # tried twice without a JD that is fit to store
    failures: dict[str, int] = field(default_factory=dict)  # reason -> number, of n_failed
    n_retried: int = 0  # JDs drawn a second time
    n_cv_truncated: int = 0  # CVs longer than the generator reads
    n_unfinished: int = 0  # JDs that are not stored because they were cut at max_new_tokens in both draws
    n_redacted: int = 0  # CVs whose JDs repeated an e-mail address, phone number or link, which was blacked out
    n_prompt_tokens: int = 0
    n_new_tokens: int = 0
    n_cv_vectors: int = 0
    n_jd_vectors: int = 0
    n_encoder_truncated: int = 0  # CVs, JDs and generated JDs longer than the encoder reads
    n_damaged_parts: int = 0  # set aside; their rows were made again
    seconds: float = 0.0
    generate_seconds: float = 0.0  # time spent generating, summed over workers
    stopped: bool = False  # a stop was asked for before the plan was done

    def count_drawn(self, drawn: DrawnChunk) -> None:
        """Add the JDs and the failures of one chunk."""
        chunk = drawn.chunk
        for failure in chunk.failures:
            if failure is None:
                self.n_generated += 1
            elif failure == "no_cv":
                self.n_no_cv += 1
            else:
                self.n_failed += 1
                self.failures[failure] = self.failures.get(failure, 0) + 1
        draws_by_cv = [[*kept, *dropped] for kept, dropped in zip(chunk.kept, chunk.dropped, strict=True)]
        all_draws = [draw for draws in draws_by_cv for draw in draws]
        self.n_retried += chunk.n_retried
        self.n_cv_truncated += sum(any(draw.result.cv_truncated for draw in draws) for draws in draws_by_cv)
        self.n_redacted += sum(any(draw.n_redacted for draw in draws) for draws in chunk.kept)
        self.n_unfinished += chunk.n_unfinished
        self.n_prompt_tokens += sum(draw.result.n_prompt_tokens for draw in all_draws)
        self.n_new_tokens += sum(draw.result.n_new_tokens for draw in all_draws)
        self.generate_seconds += drawn.seconds


@dataclass
class Batch:
    """The plan of one run, chunk by chunk, and its report. Use it under the store's lock only."""

    tables: Tables
    store: PartsStore
    origin: Origin
    chunk_size: int  # CVs that are generated, encoded and committed together
    now: Callable[[], datetime] = lambda: datetime.now(UTC)  # clock of `created_timestamp`
    should_stop: Callable[[], bool] = lambda: False
    n_inputs: int = field(init=False, default=0)  # CVs and jobs that have no vector
    report: MaterializeReport = field(init=False)

    def __post_init__(self) -> None:
        self.contract = self.origin.contract
        self.report = MaterializeReport(self.contract.fingerprint, self.origin.run, self.origin.engine)

    def plan(self, retry_failed: bool) -> None:
        """Work out what the store lacks."""
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
        """Yield the CVs to generate for."""
        return planned_cvs(self.tables, "generation_plan", self.chunk_size, self.contract.max_cv_tokens)

    def cv_chunks(self) -> Chunks[CVVersion]:
        """Yield the CVs to encode."""
        return planned_cvs(self.tables, "cv_vector_plan", self.chunk_size, self.contract.encoder.max_tokens)

    def job_chunks(self) -> Chunks[JobVersion]:
        """Yield the jobs to encode."""
        return planned_jobs(self.tables, self.chunk_size, self.contract.encoder.max_tokens)

    def stop(self) -> bool:
        """True if no further chunk may begin."""
        self.report.stopped = self.report.stopped or self.should_stop()
        return self.report.stopped

    def commit(self, chunk: FinishedChunk) -> None:
        """Write a finished chunk to the store, and count it. Its CV and JD texts are not needed any more."""
        if isinstance(chunk, FinishedJDs):
            self._commit_jds(chunk)
            return
        self.report.n_encoder_truncated += int(chunk.encoded.truncated.sum())
        fingerprint = self.contract.encoder.fingerprint
        if isinstance(chunk, FinishedCVs):
            self.store.write_part(CV_VECTORS, fingerprint, cv_vector_rows(chunk, self.contract, self.now()))
            failpoint("batch.cv_vectors_committed")
            self.report.n_cv_vectors += len(chunk.versions)
        else:
            self.store.write_part(JD_VECTORS, fingerprint, jd_vector_rows(chunk, self.contract, self.now()))
            failpoint("batch.jd_vectors_committed")
            self.report.n_jd_vectors += len(chunk.jobs)

    def _commit_jds(self, chunk: FinishedJDs) -> None:
        failures = chunk.drawn.chunk.failures
        good = [i for i, failure in enumerate(failures) if failure is None]
        failed = [i for i, failure in enumerate(failures) if failure is not None]
        # Failures first: a crash between the two parts then costs a second generation, but never loses a reason.
        if failed:
            rows = failure_rows(chunk.drawn, failed, self.origin, self.now())
            self.store.write_part(FAILURES, self.contract.fingerprint, rows)
            failpoint("batch.failures_committed")
        if chunk.pooled is not None:
            rows = generated_rows(chunk.drawn, good, chunk.pooled, self.origin, self.now())
            self.store.write_part(GENERATED_JDS, self.contract.fingerprint, rows)
            failpoint("batch.committed")
        self.report.n_encoder_truncated += chunk.n_encoder_truncated
        self.report.count_drawn(chunk.drawn)


ChunkIterator: TypeAlias = Generator[FinishedChunk, None, None]  # closed after use, as it may hold threads
ChunkSupply: TypeAlias = Callable[[Batch], ChunkIterator]  # finishes every chunk of a planned batch, until a stop


def run_batch(
    config: GirlConfig,
    contract: FeatureContract,
    finished_chunks: ChunkSupply,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    retry_failed: bool = False,
    new_run: bool = False,
    narrow: Callable[[Tables], None] = lambda tables: None,
    gate: str = "not asked",
) -> MaterializeReport:
    """Make the features of `contract` under a record of the run, and publish them.

    Args:
        config: of the tables and the store.
        contract: of the features.
        finished_chunks: does the work.
        should_stop: asked between chunks. True ends the run after the chunks at work; another call resumes it.
        retry_failed: try CVs again that no earlier run found a good JD for.
        new_run: give up unfinished runs of other contracts, which are refused otherwise.
        narrow: takes rows out of the tables, so that nothing is made for them.
        gate: note of `require_quality` for the run log. The gate itself is asked by the caller.

    Raises:
        ConfigError: a run of another contract did not finish.
        StoreLockedError: another run is under way.
    """
    keep_out_of_git(config.workspace)
    store = PartsStore(config.store_dir)
    resolved = config.model_dump(mode="json")
    log = RunLog(config.runs_dir)
    with log.begin(contract.fingerprint, contract.engine_name, resolved, new_run=new_run, gate=gate) as run:
        with open_tables(config) as tables:
            narrow(tables)
            origin = Origin(contract, run.id, contract.engine_name)
            batch = Batch(tables, store, origin, config.chunk_size, should_stop=should_stop)
            batch.report.gate = gate
            announce("planning: looking for what the store lacks")
            report = fill_store(batch, finished_chunks, retry_failed=retry_failed)
        run.totals, run.stopped = vars(report), report.stopped
        if not report.stopped:
            failpoint("batch.before_publish")
            publish_contract(config, store, contract)
    return report


def fill_store(
    batch: Batch, finished_chunks: ChunkSupply, *, retry_failed: bool = False, lock_wait_s: float = LOCK_WAIT_S
) -> MaterializeReport:
    """Plan under the store's lock, and commit each chunk as it is finished. A second call generates nothing.

    Args:
        batch: not planned yet.
        finished_chunks: does the work.
        retry_failed: try CVs again that failed in earlier runs.
        lock_wait_s: seconds to wait for another run that is writing.

    Raises:
        StoreLockedError: another run was still writing after that time.
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
            closing(finished_chunks(batch)) as chunks,
        ):
            for chunk in chunks:
                batch.commit(chunk)
                (generating if isinstance(chunk, FinishedJDs) else encoding).advance(chunk.n_rows)
        report.seconds = time.perf_counter() - started
    return report
