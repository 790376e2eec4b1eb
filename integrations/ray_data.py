"""The batch job on Ray Data: the local job's plan, chunks, work and ledger, on many workers.

The driver plans in DuckDB and hands what is missing to Ray as a dataset, one block a chunk. Each actor loads generator
and encoder once and finishes chunk after chunk by the functions that the local job uses (`chunks.py`). The driver,
which holds the store's lock, commits them (`batch.py`): a worker that outlives a killed driver can write nothing. See
docs/adr/0018-ray-data.md.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, NamedTuple

import pyarrow as pa

from girl_features.batch import Batch, MaterializeReport, run_plan
from girl_features.chunks import encode_jds, generate_timed
from girl_features.config import GirlConfig, RayConfig
from girl_features.contract import FeatureContract
from girl_features.data import Tables
from girl_features.errors import ClusterError, ContractMismatchError, require
from girl_features.feature_rows import Origin
from girl_features.pipeline import Models, open_models, run_recorded, settle_contract
from girl_features.plans import JobVersion
from girl_features.progress import Progress
from girl_features.schema import UTC_MICROSECONDS, CVVersion
from girl_features.store.failpoints import failpoint
from girl_features.store.parts import PartsStore

GENERATE, ENCODE_CVS, ENCODE_JOBS = "generate", "encode_cvs", "encode_jobs"
MAX_TRIES = 4  # of one chunk, whose worker died each time; and of loading the models, a worker
QUEUED = 2  # chunks an actor holds: the one at work, and the next
STOP_INTERVAL_S = 0.2
TELL_TIMEOUT_S = 10

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
    _import_ray(config.ray)
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


class Gate:
    """Lets chunks begin until it is closed, and knows which have; an actor that the driver owns.

    Ray starts a worker that died again, and its chunk with it, for ever; here is where that ends.
    """

    def __init__(self, n_workers: int) -> None:
        self._max_loads = MAX_TRIES * n_workers
        self._n_loads = 0  # since a chunk began
        self._n_tries: dict[int, int] = {}
        self._closed = False
        self._problem: str | None = None

    def load(self) -> bool:
        """Whether a worker is to load its models: not if too many did, and died of it."""
        self._n_loads += 1
        return self._n_loads <= self._max_loads

    def enter(self, number: int) -> int:
        """Which try at this chunk is about to begin; 0 if none may. One whose worker died may begin again."""
        self._n_loads = 0
        if self._closed and number not in self._n_tries:
            return 0
        self._n_tries[number] = self._n_tries.get(number, 0) + 1
        return self._n_tries[number]

    def close(self) -> int:
        """Let no other chunk begin; the number of those that have."""
        self._closed = True
        return len(self._n_tries)

    def tell(self, problem: str) -> None:
        """Keep the first problem that a worker met."""
        self._problem = self._problem or problem

    def problem(self) -> str | None:
        """What a worker met, if one did."""
        return self._problem


class _RayWork:
    """One run on a cluster."""

    def __init__(self, config: GirlConfig, source: ModelSource) -> None:
        self._config, self._source = config, source
        self._ray = require("ray", "ray")

    def execute(self, batch: Batch, generating: Progress, encoding: Progress) -> None:
        if not batch.report.n_planned and not batch.n_inputs:
            return  # a night with nothing to do starts no cluster
        # Ray prints to standard output, which is for results
        with redirect_stdout(sys.stderr), self._errors(), _cluster(self._config.ray) as n_workers:
            gate = _on_this_node(Gate, n_workers)
            with _closing_on_stop(gate, batch.should_stop), self._errors(gate):
                for kind, done in self._finished(batch, gate, n_workers):
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

    def _finished(self, batch: Batch, gate: Any, n_workers: int) -> Iterator[tuple[str, Any]]:
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


def _import_ray(settings: RayConfig) -> None:
    """Ray reads these when it is imported; what the environment says already goes before."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if _address(settings) is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # all its ports on the loopback interface
    require("ray", "ray")


def _address(settings: RayConfig) -> str | None:
    return settings.address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def _cluster(settings: RayConfig) -> Iterator[int]:
    """A connection to Ray for the block, with the number of workers to start; one that is there already is kept."""
    ray, address = require("ray", "ray"), _address(settings)
    is_ours = not ray.is_initialized()
    if is_ours:
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(**_where(settings, address), log_to_driver=False, logging_level="warning")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own exits at once
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of defaults that Ray sets itself
        require("ray.data", "ray").DataContext.get_current().enable_progress_bars = False
    try:
        yield _n_workers(settings, ray.cluster_resources(), can_grow=address is not None)
    finally:
        if is_ours:
            ray.shutdown()


def _where(settings: RayConfig, address: str | None) -> dict[str, Any]:
    if address is not None:
        return {"address": address}
    wanted = None if settings.workers is None else math.ceil(settings.workers * settings.cpus_per_worker)
    return {"address": "local", "num_cpus": wanted, "include_dashboard": False}


def _n_workers(settings: RayConfig, resources: dict[str, float], *, can_grow: bool) -> int:
    n_cpus, n_gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    room = int(n_cpus // settings.cpus_per_worker)
    if settings.gpus_per_worker:
        room = min(room, int(n_gpus // settings.gpus_per_worker))
    n_workers = settings.workers or room
    if not n_workers or (n_workers > room and not can_grow):
        raise ClusterError(
            f"{settings.workers or 1} workers of {settings.cpus_per_worker:g} CPUs and {settings.gpus_per_worker:g} "
            f"GPUs each find no room: Ray has {n_cpus:g} CPUs and {n_gpus:g} GPUs; set `ray.workers`, "
            f"`ray.cpus_per_worker` or `ray.gpus_per_worker` lower"
        )
    return n_workers


def _on_this_node(kind: type, *arguments: Any) -> Any:
    """An actor of class `kind` beside the driver, with which it lives and dies."""
    ray = require("ray", "ray")
    strategies = require("ray.util.scheduling_strategies", "ray")
    node = ray.get_runtime_context().get_node_id()
    here = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=here).remote(*arguments)


@contextmanager
def _closing_on_stop(gate: Any, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Close the gate as soon as a stop is asked for, though the driver waits for a chunk."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(STOP_INTERVAL_S):
            if should_stop():
                gate.close.remote()
                return

    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
