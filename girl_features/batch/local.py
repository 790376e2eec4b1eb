"""The batch on this machine: one thread generates, this one encodes and commits.

The generator gets its next chunks ahead of time, so that it never waits. While it works, this thread encodes its
results, and the CVs and jobs that have no vector yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial

from girl_features.batch.chunk import DrawnChunk, FinishedChunk, draw_jds, encode_cvs, encode_jds, encode_jobs
from girl_features.batch.quality import require_quality
from girl_features.batch.run import Batch, ChunkIterator, ChunkSupply, MaterializeReport, run_batch
from girl_features.config import GirlConfig
from girl_features.errors import ContractMismatchError
from girl_features.generator.opening import LoadedModels, load_models
from girl_features.input.tables import Tables
from girl_features.store.failpoints import failpoint

N_AHEAD = 2  # chunks given to the generator before the first of them is committed


def materialize(
    config: GirlConfig,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    retry_failed: bool = False,
    new_run: bool = False,
    narrow: Callable[[Tables], None] = lambda tables: None,
    anyway: bool = False,
) -> MaterializeReport:
    """Bring the store up to date, apply the Feast repo and publish to the online store, all on this machine.

    With `anyway` a generator below the quality gate is used too. The other arguments are those of `run_batch`.

    Raises:
        GateError: the generator is below the quality gate, and `anyway` is False. Nothing was generated but the sample.
        ConfigError: a run of another contract did not finish.
        StoreLockedError: another run is under way.
    """
    models = load_models(config)
    gate = require_quality(config, models, anyway=anyway)
    return run_batch(
        config,
        models.contract,
        local_chunks(models),
        should_stop=should_stop,
        retry_failed=retry_failed,
        new_run=new_run,
        narrow=narrow,
        gate=gate,
    )


def local_chunks(models: LoadedModels) -> ChunkSupply:
    """Return the function that finishes the chunks of a batch with these models, on this machine.

    Raises:
        ContractMismatchError: the encoder is not the one that the contract names.
    """
    if models.encoder.contract != models.contract.encoder:
        raise ContractMismatchError(models.encoder.contract.fingerprint, models.contract.encoder.fingerprint)
    return partial(_finished_chunks, models)


def _finished_chunks(models: LoadedModels, batch: Batch) -> ChunkIterator:
    with closing(_encoded_inputs(models, batch)) as inputs:
        yield from _generated_jds(models, batch, inputs)
        yield from inputs  # the rest


def _generated_jds(models: LoadedModels, batch: Batch, inputs: Iterator[FinishedChunk]) -> ChunkIterator:
    """Yield the chunks with generated JDs, and chunks of `inputs` while the generator is at work."""
    drawing: deque[Future[DrawnChunk]] = deque()
    pool = ThreadPoolExecutor(1, "generate")
    try:
        with closing(batch.generation_chunks()) as planned:
            while True:
                while len(drawing) < N_AHEAD and not batch.stop() and (versions := next(planned, None)):
                    drawing.append(pool.submit(draw_jds, models, versions))
                if batch.stop():  # chunks that were not begun are left to the next run
                    drawing = deque(future for future in drawing if not future.cancel())
                if not drawing:
                    return
                while not drawing[0].done() and (encoded := next(inputs, None)) is not None:
                    yield encoded
                drawn = drawing.popleft().result()
                failpoint("batch.generated")
                finished = encode_jds(models.encoder, drawn)
                failpoint("batch.encoded")
                yield finished
    finally:
        pool.shutdown(cancel_futures=True)


def _encoded_inputs(models: LoadedModels, batch: Batch) -> ChunkIterator:
    """Yield the chunks with vectors of CVs, then those with vectors of jobs, until a stop is asked for."""
    for versions in batch.cv_chunks():
        if batch.stop():
            return
        yield encode_cvs(models.encoder, versions)
    for jobs in batch.job_chunks():
        if batch.stop():
            return
        yield encode_jobs(models.encoder, jobs)
