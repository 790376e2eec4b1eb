"""The batch job on Ray Data: the local job's plan, chunks, work and ledger, on many workers.

The driver plans in DuckDB and hands what is missing to Ray as a dataset, one row a chunk. Each actor loads generator
and encoder once and finishes chunk after chunk by the functions that the local job uses (`chunks.py`). The driver,
which holds the store's lock, commits them (`batch.py`): a worker that outlives a killed driver can write nothing. See
docs/adr/0018-ray-data.md.
"""

from __future__ import annotations

import itertools
import pickle
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout, suppress
from typing import Any, NamedTuple

import pyarrow as pa

from girl_features.batch.chunk import encode_jds, generate_timed
from girl_features.batch.feature_rows import Origin
from girl_features.batch.plan import JobVersion
from girl_features.batch.run import Batch, MaterializeReport, run_plan
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.errors import ClusterError, ContractMismatchError, require
from girl_features.input.tables import Tables
from girl_features.integrations.ray_cluster import MAX_TRIES, Gate, closing_on_stop, connected, import_ray, on_this_node
from girl_features.pipeline import Models, open_models, run_recorded, settle_contract
from girl_features.progress import Progress
from girl_features.schema import UTC_MICROSECONDS, CVVersion
from girl_features.store.failpoints import failpoint
from girl_features.store.parts import PartsStore

GENERATE, ENCODE_CVS, ENCODE_JOBS = "generate", "encode_cvs", "encode_jobs"
QUEUED = 2  # chunks an actor holds: the one at work, and the next
TELL_TIMEOUT_S = 10
Results = Generator[tuple[str, Any], None, None]  # kind and finished chunk; to be closed, as Ray works for it

_CHUNK = pa.schema(  # one row a chunk; its lists are the fields of CVVersion, of JobVersion the first four
    [
        ("number", pa.int64()),
        ("kind", pa.string()),
        ("ids", pa.list_(pa.string())),
        ("texts", pa.list_(pa.string())),
        ("times", pa.list_(UTC_MICROSECONDS)),
        ("hashes", pa.list_(pa.string())),
        ("n_failures", pa.list_(pa.int64())),
    ]
)


class ModelSource(NamedTuple):
    """Where contract and models come from; travels to the workers, so both are importable by name."""

    contract: Callable[[GirlConfig], FeatureContract]  # on the driver, which may have no room for the generator
    models: Callable[[GirlConfig], Models]  # in every worker


def run_on_ray(
    config: GirlConfig,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    retry_failed: bool = False,
    new_run: bool = False,
    source: ModelSource = ModelSource(settle_contract, open_models),  # noqa: B008  immutable
) -> MaterializeReport:
    """`run_materialize` with the work done by Ray workers.

    Args:
        should_stop: asked several times a second; True ends the run once the chunks being worked on are committed.
        retry_failed: try CVs again that no earlier run found a good JD for.
        new_run: give up unfinished runs of other contracts, which are refused otherwise.
        source: of contract and models.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: there is no such cluster, it has no room, or a worker failed; what was committed stays.
        ConfigError: a run of another contract did not finish.
        StoreLockedError: another run is under way.
    """
    import_ray(config.ray)
    contract = source.contract(config)
    store = PartsStore(config.store_dir)

    def carry_out(tables: Tables, run: str) -> MaterializeReport:
        origin = Origin(contract, run, contract.engine_name)
        batch = Batch(tables, origin, store, config.chunk_size, should_stop=should_stop)
        work = _RayWork(config, source)
        return run_plan(batch, work.execute, retry_failed=retry_failed)

    return run_recorded(config, contract, contract.engine_name, carry_out, new_run=new_run)


class ChunkWorker:
    """Finishes chunks, in an actor of its own. Commits nothing."""

    def __init__(self, config: GirlConfig, contract: FeatureContract, source: ModelSource, gate: Any) -> None:
        self._ray, self._gate = require("ray", "ray"), gate
        with self._telling():
            if not self._ray.get(gate.load.remote()):
                raise ClusterError("worker after worker died while it loaded the models, for want of memory?")
            self._encoder, self._opened = source.models(_settled(config, contract))
            if self._opened.contract != contract:
                raise ContractMismatchError(self._opened.contract.fingerprint, contract.fingerprint)

    def __call__(self, chunk: pa.Table) -> dict[str, list[Any]]:
        """One row: the chunk's number, and the finished chunk or, after a stop, nothing."""
        number, kind = chunk["number"][0].as_py(), chunk["kind"][0].as_py()
        with self._telling():
            n_tries = self._ray.get(self._gate.enter.remote(number))
            if n_tries > MAX_TRIES:
                raise ClusterError(f"{MAX_TRIES} workers died over one chunk, for want of memory?")
            done = pickle.dumps(self._finish(kind, _rows(chunk))) if n_tries else b""  # as Ray does with arguments
        return {"number": [number], "kind": [kind], "done": [done]}

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell the gate what goes wrong in the block: of what Ray hands on, only the type of the error is left."""
        try:
            yield
        except Exception as error:
            self._ray.get(self._gate.tell.remote(f"{type(error).__name__}: {error}"))
            raise

    def _finish(self, kind: str, rows: list[Any]) -> Any:
        if kind == GENERATE:
            timed = generate_timed(self._opened.generator, rows, self._opened.contract, self._opened.reward_model)
            finished = encode_jds(self._encoder, timed)
            return finished._replace(timed=timed._replace(versions=[v._replace(cv="") for v in rows]))
        if kind == ENCODE_CVS:
            return [v._replace(cv="") for v in rows], self._encoder.encode([v.cv for v in rows])
        return [job._replace(jd="") for job in rows], self._encoder.encode([job.jd for job in rows])


class _RayWork:
    """One run on a cluster."""

    def __init__(self, config: GirlConfig, source: ModelSource) -> None:
        self._config, self._source = config, source
        self._ray = require("ray", "ray")

    def execute(self, batch: Batch, generating: Progress, encoding: Progress) -> None:
        if not batch.report.n_planned and not batch.n_inputs:
            return  # a night with nothing to do starts no cluster
        # Ray prints to standard output, which is for results
        with redirect_stdout(sys.stderr), self._errors(), connected(self._config.ray) as n_workers:
            gate = on_this_node(Gate, n_workers)
            with (
                closing_on_stop(gate, batch.should_stop),
                self._errors(gate),
                closing(self._finished(batch, gate, n_workers)) as finished,
            ):
                for kind, done in finished:
                    _commit(batch, kind, done, generating, encoding)

    @contextmanager
    def _errors(self, gate: Any = None) -> Iterator[None]:
        """Ray's errors as ours, with what a worker told the gate."""
        try:
            yield
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            problem = None
            if gate is not None:
                with suppress(self._ray.exceptions.RayError):
                    problem = self._ray.get(gate.problem.remote(), timeout=TELL_TIMEOUT_S)
            raise ClusterError(
                f"a Ray worker or its cluster failed: {problem or type(error).__name__}; what was committed stays: "
                f"mend it, then run the same command again, which resumes"
            ) from error

    def _finished(self, batch: Batch, gate: Any, n_workers: int) -> Results:
        """Chunks as they are finished, each once, until all are or a stop was asked for and those begun are."""
        settings, data = self._config.ray, require("ray.data", "ray")
        chunks = data.from_arrow_refs([self._ray.put(chunk) for chunk in _chunks(batch)])
        finished = chunks.map_batches(
            ChunkWorker,
            fn_constructor_args=(self._config, batch.contract, self._source, gate),
            batch_size=1,  # a row is a chunk, the same as the local job's
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=n_workers, max_tasks_in_flight_per_actor=QUEUED),
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
        )
        seen: set[int] = set()
        # not `iter_batches`: its threads outlive a loop that ends early, and end the process when Ray shuts down
        for bundle in finished.iter_internal_ref_bundles():
            for row in (row for block in self._ray.get(bundle.block_refs) for row in block.to_pylist()):
                if row["done"] and row["number"] not in seen:
                    seen.add(row["number"])
                    yield row["kind"], pickle.loads(row["done"])
            if batch.stop() and len(seen) == self._ray.get(gate.close.remote()):
                return


def _commit(batch: Batch, kind: str, done: Any, generating: Progress, encoding: Progress) -> None:
    failpoint("batch.generated")
    if kind == GENERATE:
        batch.commit_generated(done)
        generating.advance(len(done.timed.versions))
        return
    rows, encoded = done
    if kind == ENCODE_CVS:
        batch.commit_cv_vectors(rows, encoded)
    else:
        batch.commit_jd_vectors(rows, encoded)
    encoding.advance(len(rows))


def _chunks(batch: Batch) -> Iterator[pa.Table]:
    """Every planned chunk; those to generate for first, as they take longest."""
    kinds = ((GENERATE, batch.generation_chunks()), (ENCODE_CVS, batch.cv_chunks()), (ENCODE_JOBS, batch.job_chunks()))
    numbers = itertools.count()
    for kind, chunks in kinds:
        for rows in chunks:
            yield _chunk(next(numbers), kind, rows)


def _chunk(number: int, kind: str, rows: Sequence[CVVersion] | Sequence[JobVersion]) -> pa.Table:
    fields = [list(field) for field in zip(*rows, strict=True)]
    if kind == ENCODE_JOBS:
        fields.append([0] * len(rows))
    return pa.table([[value] for value in (number, kind, *fields)], schema=_CHUNK)


def _rows(chunk: pa.Table) -> list[Any]:
    (row,) = chunk.to_pylist()
    fields = zip(*(row[name] for name in _CHUNK.names[2:]), strict=True)
    return [JobVersion(*each[:-1]) if row["kind"] == ENCODE_JOBS else CVVersion(*each) for each in fields]


def _settled(config: GirlConfig, contract: FeatureContract) -> GirlConfig:
    """`config` with what `auto` stands for in `contract`: on a worker it might stand for something else."""
    generator = config.generator.model_copy(update={"engine": contract.engine_name})
    encoder = config.encoder.model_copy(update={"dtype": contract.encoder.dtype})
    return config.model_copy(update={"generator": generator, "encoder": encoder})
