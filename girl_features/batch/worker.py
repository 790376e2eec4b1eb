"""The worker: generate JDs for the CVs that services asked for and the store lacked, and publish them.

A cycle takes the oldest CVs of the queue, generates for those that the store does not know, commits and publishes, as
the batch does, and only then removes them from the queue. If it is killed, the next cycle finds the same CVs in the
queue and the committed ones in the store: nothing is lost and nothing is generated twice.
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
from girl_features.batch.quality import require_quality
from girl_features.batch.run import Batch, fill_store
from girl_features.config import GirlConfig, TableConfig
from girl_features.contract import FeatureContract
from girl_features.errors import StoreLockedError
from girl_features.generator.opening import LoadedModels, load_models
from girl_features.input.opening import open_sources
from girl_features.input.report import CheckReport
from girl_features.input.sources import Source, copy_rows
from girl_features.input.staging import checked_staging_sql
from girl_features.input.tables import Tables
from girl_features.lookup.generation_queue import GenerationQueue, QueuedCV
from girl_features.lookup.opening import open_queue
from girl_features.schema import CV_HASH, EVENT_TIMESTAMP, JOB_SEEKER_ID, JOB_SEEKERS_SCHEMA, UPDATED_AT, CVVersion
from girl_features.sql import connected
from girl_features.store.failpoints import failpoint
from girl_features.store.files import LOCK_POLL_S
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import CV_VECTORS, FAILURES, GENERATED_JDS

GAP_S = 4 * LOCK_POLL_S  # pause between two cycles, so that a batch that waits for the lock gets it
KnownCVs: TypeAlias = dict[str, dict[str, datetime]]  # job seeker -> hash of a CV -> newest time of that CV
_log = logging.getLogger(__name__)


class CycleReport(NamedTuple):
    """Counts of the CVs that one cycle took from the queue."""

    n_taken: int = 0
    n_generated: int = 0
    n_failed: int = 0  # no JD was fit to store
    n_known: int = 0  # in the store already
    n_without_cv: int = 0  # no text came with the request, and the tables have none
    n_outdated: int = 0  # a newer CV of the seeker is known
    n_erased: int = 0  # of seekers who were erased after the request

    def plus(self, other: CycleReport) -> CycleReport:
        """Add the counts of another report."""
        return CycleReport(*(a + b for a, b in zip(self, other, strict=True)))


class Worker:
    """Works off a queue with a generator that is loaded once."""

    def __init__(self, config: GirlConfig, models: LoadedModels, queue: GenerationQueue) -> None:
        self._config, self._models, self._queue = config, models, queue
        self._store = PartsStore(config.store_dir)

    @property
    def contract(self) -> FeatureContract:
        """Contract of the rows it makes. CVs that wait for another contract are left to other workers."""
        return self._models.contract

    def cycle(self) -> CycleReport:
        """Generate for the oldest CVs in the queue, at most `chunk_size` of them, and publish.

        Raises:
            StoreLockedError: a batch or another worker is writing.
        """
        waiting = self._queue.take(self.contract.fingerprint, self._config.chunk_size)
        if not waiting:
            return CycleReport()
        kept = [entry for entry in waiting if not self._store.is_erased(entry.missed.job_seeker_id)]
        versions, n_without_cv, n_outdated = self._versions(kept)
        with _tables_of(versions) as tables:
            run = f"worker-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            origin = Origin(self.contract, run, self.contract.engine_name)
            batch = Batch(tables, self._store, origin, self._config.chunk_size)
            # No wait for the lock: a worker that is asked to stop while a batch runs then stops at once.
            report = fill_store(batch, local_chunks(self._models), lock_wait_s=0)
        failpoint("worker.before_publish")
        publish_contract(self._config, self._store, self.contract)
        failpoint("worker.published")
        self._queue.done([entry.place for entry in waiting])
        n_known = report.n_unchanged + report.n_failed_before
        n_erased = len(waiting) - len(kept)
        return CycleReport(
            len(waiting), report.n_generated, report.n_failed, n_known, n_without_cv, n_outdated, n_erased
        )

    def _versions(self, waiting: Sequence[QueuedCV]) -> tuple[list[CVVersion], int, int]:
        """Return the CV versions to generate for, the number of seekers without a CV, and that of outdated texts.

        - A text that the store or the tables know keeps the time it has there, so that it is not generated for again.
        - A known text that is not the newest CV of its seeker is left out: a request with an old text must not undo a
          newer CV.
        - A new text gets the time of its first request.
        - If a request came without a text, the newest CV of the tables is taken.
        """
        offered = [
            CVVersion(entry.missed.job_seeker_id, entry.missed.cv, entry.queued_at, entry.missed.cv_hash)
            for entry in waiting
            if entry.missed.cv
        ]
        without_text = {entry.missed.job_seeker_id for entry in waiting if not entry.missed.cv}
        known = _known_cvs(self._store, self.contract, sorted({entry.missed.job_seeker_id for entry in waiting}))
        unknown = {version.job_seeker_id for version in offered if version.cv_hash not in known[version.job_seeker_id]}
        wanted = sorted(without_text | unknown)
        in_tables = (
            table_versions(self._config.tables.job_seekers, self._config.clock_skew_minutes, wanted) if wanted else []
        )
        newest = {version.job_seeker_id: version for version in in_tables}
        from_tables = [newest[name] for name in sorted(without_text) if name in newest and newest[name].cv]
        for version in in_tables:
            if version.job_seeker_id in unknown:
                times = known[version.job_seeker_id]
                times[version.cv_hash] = max(version.updated_at, times.get(version.cv_hash, version.updated_at))
        dated = [_dated(version, known) for version in offered]
        chosen = [*filter(None, dated), *(_dated(version, known) or version for version in from_tables)]
        versions = {(version.job_seeker_id, version.cv_hash): version for version in reversed(chosen)}
        return list(versions.values()), len(without_text) - len(from_tables), dated.count(None)


def serve(
    worker: Worker,
    *,
    every_seconds: float,
    once: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_report: Callable[[CycleReport], object] = lambda report: None,
) -> CycleReport:
    """Work off the queue, cycle by cycle, until a stop is asked for. Return the sum of all cycles.

    Args:
        worker: to work with.
        every_seconds: time between two looks at an empty queue.
        once: end when the queue is empty.
        should_stop: asked between cycles.
        on_report: called with the report of each cycle that took CVs.
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
            on_report(report)
            _sleep(GAP_S, should_stop)
        elif once:
            break
        else:
            _sleep(every_seconds, should_stop)
    return total


def open_worker(config: GirlConfig, *, anyway: bool = False) -> Worker:
    """Load the generator of a config, and return a worker with it.

    Raises:
        CheckpointError: no generator has been trained.
        GateError: the generator is below the quality gate, and `anyway` is False.
    """
    models = load_models(config)
    require_quality(config, models, anyway=anyway)
    return Worker(config, models, open_queue(config))


def table_versions(table: TableConfig, clock_skew_minutes: float, job_seeker_ids: Sequence[str]) -> list[CVVersion]:
    """Return all CV versions of these seekers in the input table, cleaned as `load_tables` does, by id and time."""
    latest = datetime.now(UTC) + timedelta(minutes=clock_skew_minutes)
    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.register("ids", pa.table({"id": list(job_seeker_ids)}))
        connection.execute("CREATE TYPE wanted AS ENUM (SELECT DISTINCT id FROM ids)")
        with open_sources(connection, "job_seekers", table, home="memory") as sources:

            def rows_sql(source: Source) -> str:
                return checked_staging_sql(connection, _only_wanted(source), table, latest)

            copy_rows(connection, sources, "memory.main.staged", rows_sql)
        rows = connection.execute(
            """SELECT job_seeker_id, cv, updated_at, cv_hash FROM staged WHERE problem IS NULL
            QUALIFY row_number() OVER (PARTITION BY job_seeker_id, updated_at ORDER BY rowid DESC) = 1
            ORDER BY job_seeker_id, updated_at"""
        ).fetchall()
    return [CVVersion(*row) for row in rows]


def _only_wanted(source: Source) -> Source:
    """Return the rows of `source` whose id is a value of the type `wanted`."""
    # A filter, not a join: of two rows with the same time the last counts, and a join may change their order.
    is_wanted = f"TRY_CAST({source.columns[JOB_SEEKER_ID]}::VARCHAR AS memory.main.wanted) IS NOT NULL"
    return source._replace(relation=f"(SELECT * FROM {source.relation} WHERE {is_wanted})")


def _known_cvs(store: PartsStore, contract: FeatureContract, job_seeker_ids: Sequence[str]) -> KnownCVs:
    """Return the CV versions of these seekers for which the store has a vector, a generated JD or a failure."""
    known: KnownCVs = {name: {} for name in job_seeker_ids}
    views = [(view, contract.fingerprint, UPDATED_AT) for view in (GENERATED_JDS, FAILURES)]
    views.append((CV_VECTORS, contract.encoder.fingerprint, EVENT_TIMESTAMP))
    with connected() as connection:
        connection.register("wanted", pa.table({"id": list(job_seeker_ids)}, pa.schema([("id", pa.string())])))
        for view, fingerprint, time_column in views:
            if (relation := store.scan(view, fingerprint)) is None:
                continue
            rows = connection.execute(
                f"""SELECT {JOB_SEEKER_ID}, {CV_HASH}, max({time_column}) FROM {relation}
                WHERE {JOB_SEEKER_ID} IN (SELECT id FROM wanted) GROUP BY ALL"""
            ).fetchall()
            for name, cv_hash, updated_at in rows:
                known[name][cv_hash] = max(updated_at, known[name].get(cv_hash, updated_at))
    return known


def _dated(version: CVVersion, known: KnownCVs) -> CVVersion | None:
    """Return `version` with the time it is known under, if it is known; None if a newer CV of its seeker is known."""
    times = known[version.job_seeker_id]
    updated_at = times.get(version.cv_hash, version.updated_at)
    is_outdated = version.cv_hash in times and updated_at < max(times.values())
    return None if is_outdated else version._replace(updated_at=updated_at)


def _tables_of(versions: Sequence[CVVersion]) -> Tables:
    """Make input tables that hold these CVs and nothing else."""
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
