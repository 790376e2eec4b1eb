"""The batch job on one machine: plan what is missing -> generate -> encode -> append to the store, chunk by chunk.

One thread generates, a chunk or two ahead; the caller's thread encodes and commits, and encodes CVs and JDs while it
would wait. What a chunk is and how it is committed: `batch.py`. Publishing to Feast's online store is a step of its own
(`store.online.publish`), which converges after a crash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as GeneratorType
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from girl_features.batch.chunk import encode_jds, generate_timed
from girl_features.batch.feature_rows import Origin, TimedChunk
from girl_features.batch.run import Batch, MaterializeReport, run_plan
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.errors import ContractMismatchError
from girl_features.generator import Generator, RewardModel
from girl_features.input.tables import Tables
from girl_features.progress import Progress
from girl_features.schema import CVVersion
from girl_features.store.failpoints import failpoint
from girl_features.store.files import LOCK_WAIT_S
from girl_features.store.parts import PartsStore

__all__ = ["MaterializeReport", "materialize"]

Steps = GeneratorType[None, None, None]
_NO_MORE = object()
AHEAD = 2  # chunks handed to the generator before the first is committed: it never waits for the next


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
    lock_wait_s: float = LOCK_WAIT_S,
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
        lock_wait_s: seconds to wait for another run that is writing.

    Raises:
        ContractMismatchError: the encoder is not the one the contract names.
        StoreLockedError: another run is still writing then.
        StoreError: a part cannot be written, or DuckDB finds no room to plan in.
    """
    if encoder.contract != contract.encoder:
        raise ContractMismatchError(encoder.contract.fingerprint, contract.encoder.fingerprint)
    batch = Batch(tables, Origin(contract, run, engine), store, chunk_size, now, should_stop)

    def carry_out(batch: Batch, generating: Progress, encoding: Progress) -> None:
        _Work(batch, generator, encoder, reward_model).execute(generating, encoding)

    return run_plan(batch, carry_out, retry_failed=retry_failed, lock_wait_s=lock_wait_s)


@dataclass
class _Work:
    batch: Batch
    generator: Generator
    encoder: TextEncoder
    reward_model: RewardModel | None

    def execute(self, generating: Progress, encoding: Progress) -> None:
        with closing(self._encode_inputs(encoding)) as inputs:
            self._generate(inputs, generating)
            for _ in inputs:  # what there was no time for so far
                pass

    def _generate(self, inputs: Iterator[None], progress: Progress) -> None:
        """Generate in a thread, and meanwhile commit what it has done and encode the inputs."""
        batch = self.batch
        waiting: deque[Future[TimedChunk]] = deque()
        pool = ThreadPoolExecutor(1, "generate")
        try:
            with closing(batch.generation_chunks()) as chunks:
                while True:
                    while len(waiting) < AHEAD and not batch.stop() and (versions := next(chunks, None)):
                        waiting.append(pool.submit(self._generate_chunk, versions))
                    if batch.stop():  # what has not begun is left to the next run
                        waiting = deque(future for future in waiting if not future.cancel())
                    if not waiting:
                        return
                    while not waiting[0].done() and next(inputs, _NO_MORE) is not _NO_MORE:
                        pass
                    self._commit(waiting.popleft().result(), progress)
        finally:
            pool.shutdown(cancel_futures=True)

    def _generate_chunk(self, versions: Sequence[CVVersion]) -> TimedChunk:
        return generate_timed(self.generator, versions, self.batch.contract, self.reward_model)

    def _commit(self, timed: TimedChunk, progress: Progress) -> None:
        failpoint("batch.generated")
        finished = encode_jds(self.encoder, timed)
        failpoint("batch.encoded")
        self.batch.commit_generated(finished)
        progress.advance(len(timed.versions))

    def _encode_inputs(self, progress: Progress) -> Steps:
        """Vectors of CVs, then of JDs: each step encodes and commits one chunk."""
        for versions in self.batch.cv_chunks():
            if self.batch.stop():
                return
            self.batch.commit_cv_vectors(versions, self.encoder.encode([v.cv for v in versions]))
            progress.advance(len(versions))
            yield
        for jobs in self.batch.job_chunks():
            if self.batch.stop():
                return
            self.batch.commit_jd_vectors(jobs, self.encoder.encode([job.jd for job in jobs]))
            progress.advance(len(jobs))
            yield
