"""The worker: generates for the CVs that services missed, by the batch job's own steps, and publishes them.

A cycle looks at the oldest CVs in the queue, generates and commits for those the store does not know, publishes, and
only then takes them off the queue. Killed anywhere, the next cycle finds the same CVs waiting and the committed ones in
the store: nothing is lost and nothing is generated twice.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import duckdb
import pyarrow as pa

from girl_features.batch.chunk import Origin
from girl_features.batch.local import local_chunks
from girl_features.batch.publish import publish_contract
from girl_features.batch.run import Batch, fill_store
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.errors import StoreLockedError
from girl_features.generator.opening import LoadedModels, load_models
from girl_features.input.checks import staging_sql
from girl_features.input.report import CheckReport
from girl_features.input.sources import open_source
from girl_features.input.tables import Tables
from girl_features.lookup.generation_queue import GenerationQueue, QueuedCV
from girl_features.lookup.opening import open_queue
from girl_features.schema import CV_HASH, EVENT_TIMESTAMP, JOB_SEEKER_ID, JOB_SEEKERS_SCHEMA, UPDATED_AT, CVVersion
from girl_features.sql import connected
from girl_features.store.failpoints import failpoint
from girl_features.store.files import LOCK_POLL_S
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import CV_VECTORS, FAILURES, GENERATED_JDS

GAP_S = 4 * LOCK_POLL_S  # between two chunks, so that a run that waits for the store gets it
Held: TypeAlias = dict[str, dict[str, datetime]]  # job seeker -> hash of a CV -> when it was last that
_log = logging.getLogger(__name__)


class CycleReport(NamedTuple):
    """What one cycle did with the CVs it took."""

    n_taken: int = 0
    n_generated: int = 0
    n_failed: int = 0  # no JD was fit to store
    n_known: int = 0  # the store had them
    n_without_cv: int = 0  # no text came with the request, and the tables have none
    n_outdated: int = 0  # a text of the seeker's that a newer one has replaced
    n_erased: int = 0  # of people who were erased since

    def plus(self, other: CycleReport) -> CycleReport:
        """The counts of both."""
        return CycleReport(*(a + b for a, b in zip(self, other, strict=True)))


class Worker:
    """A generator, loaded once, and the queue it works off."""

    def __init__(self, config: GirlConfig, models: LoadedModels, queue: GenerationQueue) -> None:
        self._config, self._models, self._queue = config, models, queue
        self._store = PartsStore(config.store_dir)

    @property
    def contract(self) -> FeatureContract:
        """Of what it generates; offers for other contracts are left to other workers."""
        return self._models.contract

    def cycle(self) -> CycleReport:
        """See to the oldest CVs that wait, at most `chunk_size` of them.

        Raises:
            StoreLockedError: a batch job, or another worker, is writing.
        """
        waiting = self._queue.take(self.contract.fingerprint, self._config.chunk_size)
        if not waiting:
            return CycleReport()
        alive = [one for one in waiting if not self._store.is_erased(one.missed.job_seeker_id)]
        versions, n_without_cv, n_outdated = self._versions(alive)
        with _tables_of(versions) as tables:
            run = f"worker-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            origin = Origin(self.contract, run, self.contract.engine_name)
            batch = Batch(tables, self._store, origin, self._config.chunk_size)
            # No wait for the lock: a worker that is asked to stop while a batch runs then stops at once.
            report = fill_store(batch, local_chunks(self._models), lock_wait_s=0)
        failpoint("worker.before_publish")
        publish_contract(self._config, self._store, self.contract)
        failpoint("worker.published")
        self._queue.done([one.place for one in waiting])
        n_known = report.n_unchanged + report.n_failed_before
        n_erased = len(waiting) - len(alive)
        return CycleReport(
            len(waiting), report.n_generated, report.n_failed, n_known, n_without_cv, n_outdated, n_erased
        )

    def _versions(self, waiting: Sequence[QueuedCV]) -> tuple[list[CVVersion], int, int]:
        """The CVs to see to, how many seekers have none, and how many texts are left out as outdated.

        A text that the store or the tables hold is of the time it has there, so that a CV which is offered twice, or in
        vain, is not generated for again. If it is not its seeker's newest there, it is left out: a request with an old
        text does not undo a newer CV. A new text is of when it was first offered. Where none came with the request,
        it is the newest of the tables.
        """
        offered = [
            CVVersion(one.missed.job_seeker_id, one.missed.cv, one.queued_at, one.missed.cv_hash)
            for one in waiting
            if one.missed.cv
        ]
        nameless = {one.missed.job_seeker_id for one in waiting if not one.missed.cv}
        held = _held(self._store, self.contract, sorted({one.missed.job_seeker_id for one in waiting}))
        unknown = {version.job_seeker_id for version in offered if version.cv_hash not in held[version.job_seeker_id]}
        asked = sorted(nameless | unknown)
        in_tables = table_versions(self._config, asked) if asked else []
        newest = {version.job_seeker_id: version for version in in_tables}
        of_tables = [newest[name] for name in sorted(nameless) if name in newest and newest[name].cv]
        for version in in_tables:
            if version.job_seeker_id in unknown:
                _hold(held, version.job_seeker_id, version.cv_hash, version.updated_at)
        placed = [_placed(version, held) for version in offered]
        found = [*filter(None, placed), *(_placed(version, held) or version for version in of_tables)]
        versions = {(version.job_seeker_id, version.cv_hash): version for version in reversed(found)}
        return list(versions.values()), len(nameless) - len(of_tables), placed.count(None)


def serve(
    worker: Worker,
    *,
    every_seconds: float,
    once: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    told: Callable[[CycleReport], object] = lambda report: None,
) -> CycleReport:
    """Work the queue off, cycle by cycle, until asked to stop; the sum of all cycles.

    Args:
        every_seconds: between two looks at an empty queue.
        once: end when the queue is empty.
        should_stop: asked between cycles.
        told: the report of each cycle that did something.
    """
    total = CycleReport()
    while not should_stop():
        try:
            report = worker.cycle()
        except StoreLockedError as error:
            if once:
                raise
            _log.warning("waiting: %s", error)
            report = CycleReport()
        if report.n_taken:
            total = total.plus(report)
            told(report)
            _sleep(GAP_S, should_stop)
        elif once:
            break
        else:
            _sleep(every_seconds, should_stop)
    return total


def open_worker(config: GirlConfig) -> Worker:
    """The worker of a config, with its generator loaded.

    Raises:
        CheckpointError: no generator has been trained.
    """
    return Worker(config, load_models(config), open_queue(config))


def table_versions(config: GirlConfig, job_seeker_ids: Sequence[str]) -> list[CVVersion]:
    """All CV versions that the input table has of these seekers, by id and time, as `load_tables` would take them."""
    latest = datetime.now(UTC) + timedelta(minutes=config.clock_skew_minutes)
    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("ids", pa.table({"id": list(job_seeker_ids)}))
        connection.execute("CREATE TYPE asked AS ENUM (SELECT DISTINCT id FROM ids)")
        with open_source(connection, "job_seekers", config.tables.job_seekers, home="memory") as source:
            # a filter, not a join: of two rows with one time the last counts, and a join may change their order
            is_asked = f"TRY_CAST({source.columns[JOB_SEEKER_ID]}::VARCHAR AS memory.main.asked) IS NOT NULL"
            some = source._replace(relation=f"(SELECT * FROM {source.relation} WHERE {is_asked})")
            connection.execute(f"CREATE TABLE memory.main.staged AS {staging_sql(some, latest)}")
        rows = connection.execute(
            """SELECT job_seeker_id, cv, updated_at, cv_hash FROM staged WHERE problem IS NULL
            QUALIFY row_number() OVER (PARTITION BY job_seeker_id, updated_at ORDER BY rowid DESC) = 1
            ORDER BY job_seeker_id, updated_at"""
        ).fetchall()
    return [CVVersion(*row) for row in rows]


def _held(store: PartsStore, contract: FeatureContract, job_seeker_ids: Sequence[str]) -> Held:
    """The CV versions of these seekers that the store has a vector, a generated JD or a failure of."""
    held: Held = {name: {} for name in job_seeker_ids}
    views = [(view, contract.fingerprint, UPDATED_AT) for view in (GENERATED_JDS, FAILURES)]
    views.append((CV_VECTORS, contract.encoder.fingerprint, EVENT_TIMESTAMP))
    with connected() as connection:
        connection.register("asked", pa.table({"id": list(job_seeker_ids)}, pa.schema([("id", pa.string())])))
        for view, fingerprint, time_column in views:
            if (relation := store.scan(view, fingerprint)) is None:
                continue
            rows = connection.execute(
                f"""SELECT {JOB_SEEKER_ID}, {CV_HASH}, max({time_column}) FROM {relation}
                WHERE {JOB_SEEKER_ID} IN (SELECT id FROM asked) GROUP BY ALL"""
            ).fetchall()
            for name, cv_hash, updated_at in rows:
                _hold(held, name, cv_hash, updated_at)
    return held


def _hold(held: Held, job_seeker_id: str, cv_hash: str, updated_at: datetime) -> None:
    own = held[job_seeker_id]
    own[cv_hash] = max(updated_at, own.get(cv_hash, updated_at))


def _placed(version: CVVersion, held: Held) -> CVVersion | None:
    """`version` at the time it is held under, if it is; None where a newer one of its seeker is held."""
    own = held[version.job_seeker_id]
    held_at = own.get(version.cv_hash, version.updated_at)
    is_outdated = version.cv_hash in own and held_at < max(own.values())
    return None if is_outdated else version._replace(updated_at=held_at)


def _tables_of(versions: Sequence[CVVersion]) -> Tables:
    """Input tables that hold these CVs and nothing else."""
    folder = tempfile.TemporaryDirectory(prefix="girl-worker-")
    connection = duckdb.connect(str(Path(folder.name) / "girl_tables.duckdb"))
    connection.execute("SET TimeZone = 'UTC'")
    columns: dict[str, list[Any]] = {
        name: [getattr(version, name) for version in versions] for name in JOB_SEEKERS_SCHEMA.names
    }
    rows = pa.table(columns, JOB_SEEKERS_SCHEMA).append_column(
        CV_HASH, pa.array([version.cv_hash for version in versions], pa.string())
    )
    connection.register("versions", rows)
    connection.execute("CREATE TABLE job_seekers AS SELECT * FROM versions")
    connection.unregister("versions")
    connection.execute("CREATE TABLE jobs (job_id VARCHAR, jd VARCHAR, posted_at TIMESTAMPTZ, known_at TIMESTAMPTZ)")
    return Tables(connection, CheckReport({}, [], []), folder)


def _sleep(seconds: float, should_stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not should_stop() and time.monotonic() < until:
        time.sleep(min(0.2, seconds))
