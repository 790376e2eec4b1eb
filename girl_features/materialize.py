"""The batch job: plan what is missing -> generate -> encode -> append to the store, chunk by chunk.

One thread generates, a chunk or two ahead; the caller's thread encodes and commits, and encodes CVs and JDs while it
would wait. A chunk is committed by one rename of one Parquet part that holds texts, vectors and where they came from,
so a run killed anywhere leaves whole chunks or none, and the next run plans only what is still missing. Publishing to
Feast's online store is a step of its own (`store.online.publish`), which converges after a crash.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as GeneratorType
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime

from girl_features.contract import FeatureContract
from girl_features.data import Tables
from girl_features.encoder import TextEncoder
from girl_features.errors import ContractMismatchError
from girl_features.feature_rows import (
    Origin,
    TimedChunk,
    cv_vector_rows,
    failure_rows,
    generated_rows,
    jd_vector_rows,
    pool_samples,
)
from girl_features.generator import Generator, RewardModel
from girl_features.generator.retry import generate_chunk
from girl_features.plans import (
    GenerationPlan,
    plan_cv_vectors,
    plan_generation,
    plan_jd_vectors,
    planned_cvs,
    planned_jobs,
    planning_errors,
    set_aside_damaged,
)
from girl_features.progress import Progress
from girl_features.reuse import reuse_generated
from girl_features.schema import CVVersion, Encoded
from girl_features.store.failpoints import failpoint
from girl_features.store.parts import PartsStore
from girl_features.store.rows import CV_VECTORS, FAILURES, GENERATED_JDS, JD_VECTORS

Steps = GeneratorType[None, None, None]
_NO_MORE = object()
AHEAD = 2  # chunks handed to the generator before the first is committed: it never waits for the next


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
    generate_seconds: float = 0.0  # the generator was at work
    stopped: bool = False  # a stop was asked for before the plan was done


def materialize(
    tables: Tables,
    generator: Generator,
    encoder: TextEncoder,
    contract: FeatureContract,
    store: PartsStore,
    *,
    chunk_size: int,
    run: str,
    engine: str,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    should_stop: Callable[[], bool] = lambda: False,
    reward_model: RewardModel | None = None,
    retry_failed: bool = False,
) -> MaterializeReport:
    """Bring the store up to date for `contract`; a second run generates nothing.

    Args:
        chunk_size: CVs generated, encoded and committed together.
        run: id of this run, kept in every row.
        engine: what generates, kept in every row.
        now: clock of `created_timestamp`.
        should_stop: asked between chunks; True ends the run once the chunk that is being generated is committed.
        reward_model: keeps the best JDs, where the contract's sampling asks for best-of-N.
        retry_failed: try CVs again that no earlier run found a good JD for.

    Raises:
        ContractMismatchError: the encoder is not the one the contract names.
        StoreLockedError: another run is writing.
        StoreError: a part cannot be written, or DuckDB finds no room to plan in.
    """
    if encoder.contract != contract.encoder:
        raise ContractMismatchError(encoder.contract.fingerprint, contract.encoder.fingerprint)
    origin = Origin(contract, run, engine)
    work = _Work(tables, generator, encoder, origin, store, chunk_size, now, should_stop, reward_model)
    with store.lock(), planning_errors():
        store.clean_temporaries()
        store.save_contract(contract)
        work.execute(retry_failed)
    return work.report


@dataclass
class _Work:
    tables: Tables
    generator: Generator
    encoder: TextEncoder
    origin: Origin
    store: PartsStore
    chunk_size: int
    now: Callable[[], datetime]
    should_stop: Callable[[], bool]
    reward_model: RewardModel | None
    report: MaterializeReport = field(init=False)

    def __post_init__(self) -> None:
        self.contract = self.origin.contract
        self.report = MaterializeReport(self.contract.fingerprint, self.origin.run, self.origin.engine)

    def execute(self, retry_failed: bool) -> None:
        started = time.perf_counter()
        self.report.n_damaged_parts = set_aside_damaged(self.contract, self.store)
        plan = plan_generation(self.tables, self.contract, self.store, retry_failed=retry_failed)
        plan = reuse_generated(self.tables, self.contract, self.store, plan, self.now())
        n_cvs = plan_cv_vectors(self.tables, self.contract, self.store)
        n_jds = plan_jd_vectors(self.tables, self.contract, self.store)
        self._count_plan(plan)
        failpoint("batch.planned")
        with (
            Progress("generate", plan.n_planned, "CVs") as generating,
            Progress("encode", n_cvs + n_jds, "CVs and JDs", beside=generating) as encoding,
            closing(self._encode_inputs(encoding)) as inputs,
        ):
            self._generate(inputs, generating)
            for _ in inputs:  # what there was no time for so far
                pass
        self.report.seconds = time.perf_counter() - started

    def _generate(self, inputs: Iterator[None], progress: Progress) -> None:
        """Generate in a thread, and meanwhile commit what it has done and encode the inputs."""
        chunks = planned_cvs(self.tables, "generation_plan", self.chunk_size, self.contract.max_cv_tokens)
        waiting: deque[Future[TimedChunk]] = deque()
        pool = ThreadPoolExecutor(1, "generate")
        try:
            with closing(chunks):
                while True:
                    while len(waiting) < AHEAD and not self._stop() and (versions := next(chunks, None)):
                        waiting.append(pool.submit(self._generate_chunk, versions))
                    if self._stop():  # what has not begun is left to the next run
                        waiting = deque(future for future in waiting if not future.cancel())
                    if not waiting:
                        return
                    while not waiting[0].done() and next(inputs, _NO_MORE) is not _NO_MORE:
                        pass
                    timed = waiting.popleft().result()
                    self._commit(timed)
                    progress.advance(len(timed.versions))
        finally:
            pool.shutdown(cancel_futures=True)

    def _generate_chunk(self, versions: Sequence[CVVersion]) -> TimedChunk:
        started = time.perf_counter()
        chunk = generate_chunk(self.generator, versions, self.contract, self.reward_model)
        return TimedChunk(versions, chunk, time.perf_counter() - started)

    def _encode_inputs(self, progress: Progress) -> Steps:
        """Vectors of CVs, then of JDs: each step encodes and commits one chunk."""
        fingerprint, n_tokens = self.contract.encoder.fingerprint, self.contract.encoder.max_tokens
        for versions in planned_cvs(self.tables, "cv_vector_plan", self.chunk_size, n_tokens):
            if self._stop():
                return
            encoded = self._encode([v.cv for v in versions])
            rows = cv_vector_rows(versions, encoded, self.contract, self.now())
            self.store.write_part(CV_VECTORS, fingerprint, rows)
            failpoint("batch.cv_vectors_committed")
            self.report.n_cv_vectors += len(versions)
            progress.advance(len(versions))
            yield
        for jobs in planned_jobs(self.tables, self.chunk_size, n_tokens):
            if self._stop():
                return
            encoded = self._encode([job.jd for job in jobs])
            self.store.write_part(JD_VECTORS, fingerprint, jd_vector_rows(jobs, encoded, self.contract, self.now()))
            failpoint("batch.jd_vectors_committed")
            self.report.n_jd_vectors += len(jobs)
            progress.advance(len(jobs))
            yield

    def _commit(self, timed: TimedChunk) -> None:
        failpoint("batch.generated")
        failures, fingerprint = timed.chunk.failures, self.contract.fingerprint
        good = [i for i, failure in enumerate(failures) if failure is None]
        bad = [i for i, failure in enumerate(failures) if failure is not None]
        if bad:  # first: a crash in between costs a second generation of the good, never a lost reason
            rows = failure_rows(timed, bad, self.origin, self.now())
            self.store.write_part(FAILURES, fingerprint, rows)
            failpoint("batch.failures_committed")
        if good:
            kept = [timed.chunk.kept[i] for i in good]
            encoded = self._encode([draw.result.text for own in kept for draw in own])
            pooled = pool_samples(encoded.vectors, [len(own) for own in kept])
            failpoint("batch.encoded")
            rows = generated_rows(timed, good, pooled, self.origin, self.now())
            self.store.write_part(GENERATED_JDS, fingerprint, rows)
            failpoint("batch.committed")
        self._count(timed)

    def _encode(self, texts: Sequence[str]) -> Encoded:
        encoded = self.encoder.encode(texts)
        self.report.n_encoder_truncated += int(encoded.truncated.sum())
        return encoded

    def _stop(self) -> bool:
        self.report.stopped = self.report.stopped or self.should_stop()
        return self.report.stopped

    def _count_plan(self, plan: GenerationPlan) -> None:
        report = self.report
        report.n_new, report.n_changed, report.n_unchanged = plan.n_new, plan.n_changed, plan.n_unchanged
        report.n_failed_before, report.n_planned = plan.n_failed_before, plan.n_planned

    def _count(self, timed: TimedChunk) -> None:
        report, chunk = self.report, timed.chunk
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
