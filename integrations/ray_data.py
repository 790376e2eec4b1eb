"""The batch job on Ray Data: the plan, chunks and rows of the local job, with the work done by many workers.

The driver plans in DuckDB and hands the missing chunks to Ray as a dataset, one row a chunk. Each actor loads generator
and encoder once and finishes chunk after chunk by the functions of `batch/chunk.py`, as the local job does. Only the
driver, which holds the store's lock, commits: a worker that outlives a killed driver can write nothing. See
docs/adr/0018-ray-data.md.
"""

from __future__ import annotations

import itertools
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout, suppress
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from girl_features.batch.chunk import FinishedChunk, draw_jds, encode_cvs, encode_jds, encode_jobs
from girl_features.batch.quality.sample import Answers, GateSample, answer
from girl_features.batch.quality.verdict import (
    Verdict,
    checked,
    gate_sample,
    keep_verdict,
    note_anyway,
    stored_verdict,
)
from girl_features.batch.run import Batch, ChunkIterator, MaterializeReport, run_batch
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.errors import ClusterError, ContractMismatchError, require
from girl_features.generator.opening import LoadedModels, load_models, settle_contract
from girl_features.input.tables import open_tables
from girl_features.integrations.ray_cluster import (
    MAX_TRIES,
    ChunkGate,
    closing_on_stop,
    connected,
    import_ray,
    on_this_node,
)
from girl_features.store.failpoints import failpoint

GENERATE, ENCODE_CVS, ENCODE_JOBS = "generate", "encode_cvs", "encode_jobs"
QUEUED = 2  # chunks that an actor holds: the one it works on, and the next
PROBLEM_TIMEOUT_S = 10


class ModelSource(NamedTuple):
    """Functions that give contract and models. They travel to the workers, so both must be importable by name."""

    contract: Callable[[GirlConfig], FeatureContract]  # called by the driver, which may have no room for the generator
    models: Callable[[GirlConfig], LoadedModels]  # called by every worker


def run_on_ray(
    config: GirlConfig,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    retry_failed: bool = False,
    new_run: bool = False,
    anyway: bool = False,
    source: ModelSource = ModelSource(settle_contract, load_models),  # noqa: B008  immutable
) -> MaterializeReport:
    """Bring the store up to date and publish it, with the work done by Ray workers.

    Arguments as those of `materialize`. `should_stop` is asked several times a second.

    Raises:
        MissingExtraError: Ray is not installed.
        GateError: the generator is below the quality gate, and `anyway` is False.
        ClusterError: the cluster is not found, has no room, or a worker failed; what was committed stays.
        ConfigError: a run of another contract did not finish.
        StoreLockedError: another run is under way.
    """
    import_ray(config.ray)
    contract = source.contract(config)
    return run_batch(
        config,
        contract,
        partial(_finished_chunks, config, source),
        should_stop=should_stop,
        retry_failed=retry_failed,
        new_run=new_run,
        gate=note_anyway(config, contract) if anyway else checked(config, _judge(config, contract, source)),
    )


def _judge(config: GirlConfig, contract: FeatureContract, source: ModelSource) -> Verdict:
    """Return the verdict of the quality gate; a worker writes the JDs of the sample, once for each contract."""
    if (stored := stored_verdict(config, contract)) is not None:
        return stored
    with open_tables(config) as tables:
        sample = gate_sample(config, contract, tables)
    ray = require("ray", "ray")
    with redirect_stdout(sys.stderr), _as_cluster_error(), connected(config.ray):
        task = ray.remote(_answer).options(num_cpus=config.ray.cpus_per_worker, num_gpus=config.ray.gpus_per_worker)
        answers = ray.get(task.remote(_settled(config, contract), source, sample))
    return keep_verdict(config, contract, sample, answers)


def _answer(config: GirlConfig, source: ModelSource, sample: GateSample) -> Answers:
    return answer(source.models(config), sample)


class ChunkWorker:
    """An actor that finishes chunks. It commits nothing."""

    def __init__(self, config: GirlConfig, contract: FeatureContract, source: ModelSource, gate: Any) -> None:
        self._ray, self._gate = require("ray", "ray"), gate
        with self._reporting_problems():
            if not self._ray.get(gate.load.remote()):
                raise ClusterError("worker after worker died while loading the models; perhaps memory ran out")
            self._models = source.models(_settled(config, contract))
            if self._models.contract != contract:
                raise ContractMismatchError(self._models.contract.fingerprint, contract.fingerprint)

    def __call__(self, chunk: pa.Table) -> dict[str, list[Any]]:
        """Return one row: the chunk's number, and the finished chunk, or empty bytes after a stop."""
        number = chunk["number"][0].as_py()
        kind, rows = pickle.loads(chunk["kind_and_rows"][0].as_py())
        with self._reporting_problems():
            n_tries = self._ray.get(self._gate.enter.remote(number))
            if n_tries > MAX_TRIES:
                raise ClusterError(f"{MAX_TRIES} workers died over one chunk; perhaps memory ran out")
            finished = pickle.dumps(self._finish(kind, rows)) if n_tries else b""
        return {"number": [number], "finished": [finished]}

    @contextmanager
    def _reporting_problems(self) -> Iterator[None]:
        """Tell the gate about an error in the block. Ray itself hands on only the error's type."""
        try:
            yield
        except Exception as error:
            self._ray.get(self._gate.tell.remote(f"{type(error).__name__}: {error}"))
            raise

    def _finish(self, kind: str, rows: list[Any]) -> FinishedChunk:
        """Finish a chunk. Its CVs and the jobs' JDs are left out of the result: a commit needs neither."""
        encoder = self._models.encoder
        if kind == ENCODE_JOBS:
            return encode_jobs(encoder, rows)._replace(jobs=[job._replace(jd="") for job in rows])
        versions = [version._replace(cv="") for version in rows]
        if kind == ENCODE_CVS:
            return encode_cvs(encoder, rows)._replace(versions=versions)
        finished = encode_jds(encoder, draw_jds(self._models, rows))
        return finished._replace(drawn=finished.drawn._replace(versions=versions))


def _finished_chunks(config: GirlConfig, source: ModelSource, batch: Batch) -> ChunkIterator:
    if not batch.report.n_planned and not batch.n_inputs:
        return  # with nothing to do, no cluster is started
    # Ray prints to standard output, which is for results
    with redirect_stdout(sys.stderr), _as_cluster_error(), connected(config.ray) as n_workers:
        gate = on_this_node(ChunkGate, n_workers)
        with (
            closing_on_stop(gate, batch.should_stop),
            _as_cluster_error(gate),
            closing(_results(config, source, batch, gate, n_workers)) as results,
        ):
            for finished in results:
                failpoint("batch.generated")
                yield finished


@contextmanager
def _as_cluster_error(gate: Any = None) -> Iterator[None]:
    """Turn Ray's errors into a ClusterError, with the problem that a worker told the gate."""
    ray = require("ray", "ray")
    try:
        yield
    except (ray.exceptions.RayError, ConnectionError) as error:
        problem = None
        if gate is not None:
            with suppress(ray.exceptions.RayError):
                problem = ray.get(gate.problem.remote(), timeout=PROBLEM_TIMEOUT_S)
        raise ClusterError(
            f"a Ray worker or its cluster failed: {problem or type(error).__name__}; what was committed stays; "
            f"mend the fault and run the same command: it resumes"
        ) from error


def _results(config: GirlConfig, source: ModelSource, batch: Batch, gate: Any, n_workers: int) -> ChunkIterator:
    """Yield each finished chunk once: all chunks or, after a stop, only those begun before it."""
    ray, data = require("ray", "ray"), require("ray.data", "ray")
    planned = data.from_arrow_refs([ray.put(chunk) for chunk in _planned_chunks(batch)])
    finished = planned.map_batches(
        ChunkWorker,
        fn_constructor_args=(config, batch.contract, source, gate),
        batch_size=1,  # a row is a chunk, the same as the local job's
        batch_format="pyarrow",
        compute=data.ActorPoolStrategy(size=n_workers, max_tasks_in_flight_per_actor=QUEUED),
        num_cpus=config.ray.cpus_per_worker,
        num_gpus=config.ray.gpus_per_worker,
    )
    seen: set[int] = set()
    # not `iter_batches`: its threads outlive a loop that ends early, and end the process when Ray shuts down
    for bundle in finished.iter_internal_ref_bundles():
        for row in (row for block in ray.get(bundle.block_refs) for row in block.to_pylist()):
            if row["finished"] and row["number"] not in seen:
                seen.add(row["number"])
                yield pickle.loads(row["finished"])
        if batch.stop() and len(seen) == ray.get(gate.close.remote()):
            return


def _planned_chunks(batch: Batch) -> Iterator[pa.Table]:
    """Yield every planned chunk as a table of one row. Generation chunks go first, as they take longest.

    Rows are pickled, as Ray itself does between its processes.
    """
    kinds = ((GENERATE, batch.generation_chunks()), (ENCODE_CVS, batch.cv_chunks()), (ENCODE_JOBS, batch.job_chunks()))
    numbers = itertools.count()
    for kind, chunks in kinds:
        for rows in chunks:
            yield pa.table({"number": [next(numbers)], "kind_and_rows": [pickle.dumps((kind, rows))]})


def _settled(config: GirlConfig, contract: FeatureContract) -> GirlConfig:
    """Return `config` with engine and dtype as in `contract`: on a worker, `auto` might choose others."""
    generator = config.generator.model_copy(update={"engine": contract.engine_name})
    encoder = config.encoder.model_copy(update={"dtype": contract.encoder.dtype})
    return config.model_copy(update={"generator": generator, "encoder": encoder})
