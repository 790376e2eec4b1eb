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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from girl_features.checks import staging_sql
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.data import Tables
from girl_features.encoder import TextEncoder
from girl_features.errors import StoreLockedError
from girl_features.generation_queue import GenerationQueue, Waiting
from girl_features.lookup.opening import open_queue
from girl_features.materialize import materialize
from girl_features.pipeline import OpenGenerator, open_encoder, open_generator, publish_contract
from girl_features.report import CheckReport
from girl_features.schema import CV_HASH, JOB_SEEKER_ID, JOB_SEEKERS_SCHEMA, UPDATED_AT, CVVersion
from girl_features.sources import open_source
from girl_features.store.failpoints import failpoint
from girl_features.store.files import LOCK_POLL_S
from girl_features.store.parts import PartsStore
from girl_features.store.rows import FAILURES, GENERATED_JDS

GAP_S = 4 * LOCK_POLL_S  # between two chunks, so that a run that waits for the store gets it
_log = logging.getLogger(__name__)


class CycleReport(NamedTuple):
    """What one cycle did with the CVs it took."""

    n_taken: int = 0
    n_generated: int = 0
    n_failed: int = 0  # no JD was fit to store
    n_known: int = 0  # the store had them
    n_without_cv: int = 0  # no text came with the request, and the tables have none

    def plus(self, other: CycleReport) -> CycleReport:
        """The counts of both."""
        return CycleReport(*(a + b for a, b in zip(self, other, strict=True)))


class Worker:
    """A generator, loaded once, and the queue it works off."""

    def __init__(self, config: GirlConfig, encoder: TextEncoder, opened: OpenGenerator, queue: GenerationQueue) -> None:
        self._config, self._encoder, self._opened, self._queue = config, encoder, opened, queue
        self._store = PartsStore(config.store_dir)

    @property
    def contract(self) -> FeatureContract:
        """Of what it generates; offers for other contracts are left to other workers."""
        return self._opened.contract

    def cycle(self) -> CycleReport:
        """See to the oldest CVs that wait, at most `chunk_size` of them.

        Raises:
            StoreLockedError: a batch job, or another worker, is writing.
        """
        waiting = self._queue.take(self.contract.fingerprint, self._config.chunk_size)
        if not waiting:
            return CycleReport()
        versions = _as_known(self._store, self.contract, _versions(self._config, waiting))
        with _tables_of(versions) as tables:
            report = materialize(
                tables,
                self._opened.generator,
                self._encoder,
                self.contract,
                self._store,
                chunk_size=self._config.chunk_size,
                run=f"worker-{datetime.now(UTC):%Y%m%dT%H%M%S%f}",
                engine=self._opened.engine,
                reward_model=self._opened.reward_model,
                lock_wait_s=0,  # who stops a worker while a batch runs shall not have to wait for the batch
            )
        failpoint("worker.before_publish")
        publish_contract(self._config, self._store, self.contract)
        failpoint("worker.published")
        self._queue.done([one.place for one in waiting])
        n_known = report.n_unchanged + report.n_failed_before
        n_without_cv = len({one.offer[1:3] for one in waiting}) - len(versions)
        return CycleReport(len(waiting), report.n_generated, report.n_failed, n_known, n_without_cv)


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
    encoder = open_encoder(config)
    return Worker(config, encoder, open_generator(config, encoder), open_queue(config))


def _versions(config: GirlConfig, waiting: Sequence[Waiting]) -> list[CVVersion]:
    """The CVs that wait, one a seeker and text; those that came without one as the tables have them.

    A CV that came with a request counts as written when it was first offered: that is when it was known.
    """
    versions = {}
    for one in waiting:
        if one.offer.cv:
            version = CVVersion(one.offer.job_seeker_id, one.offer.cv, one.offered_at, one.offer.cv_hash)
            versions[version.job_seeker_id, version.cv_hash] = version
    nameless = sorted({one.offer.job_seeker_id for one in waiting if not one.offer.cv})
    for version in newest_cvs(config, nameless) if nameless else ():
        versions.setdefault((version.job_seeker_id, version.cv_hash), version)
    return list(versions.values())


def newest_cvs(config: GirlConfig, job_seeker_ids: Sequence[str]) -> list[CVVersion]:
    """The newest CV of each of the seekers that the input table has one of, cleaned and checked as ever."""
    latest = datetime.now(UTC)
    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("ids", pa.table({"id": list(job_seeker_ids)}))
        connection.execute("CREATE TABLE asked AS SELECT id FROM ids")
        with open_source(connection, "job_seekers", config.tables.job_seekers, home="memory") as source:
            theirs = source.columns[JOB_SEEKER_ID]
            some = f"(SELECT * FROM {source.relation} WHERE {theirs}::VARCHAR IN (SELECT id FROM memory.main.asked))"
            rows = connection.execute(
                f"""SELECT job_seeker_id, cv, updated_at, cv_hash
                FROM ({staging_sql(source._replace(relation=some), latest)})
                WHERE problem IS NULL AND cv <> ''
                QUALIFY row_number() OVER (PARTITION BY job_seeker_id ORDER BY updated_at DESC) = 1"""
            ).fetchall()
    return [CVVersion(*row) for row in rows]


def _as_known(store: PartsStore, contract: FeatureContract, versions: Sequence[CVVersion]) -> list[CVVersion]:
    """The versions, those that are their seekers' newest in the store under the time they have there.

    So the plan finds them: a CV that was offered twice, or in vain, is not generated for again.
    """
    asked = pa.table({"id": [version.job_seeker_id for version in versions]}, pa.schema([("id", pa.string())]))
    newest: dict[str, tuple[str, datetime]] = {}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("asked", asked)
        views = [store.scan(view, contract.fingerprint) for view in (GENERATED_JDS, FAILURES)]
        for relation in filter(None, views):
            rows = connection.execute(
                f"""SELECT {JOB_SEEKER_ID}, arg_max({CV_HASH}, {UPDATED_AT}), max({UPDATED_AT}) FROM {relation}
                WHERE {JOB_SEEKER_ID} IN (SELECT id FROM asked) GROUP BY 1"""
            ).fetchall()
            for name, cv_hash, updated_at in rows:
                if name not in newest or newest[name][1] < updated_at:
                    newest[name] = (cv_hash, updated_at)
    return [
        version._replace(updated_at=newest[version.job_seeker_id][1])
        if newest.get(version.job_seeker_id, ("",))[0] == version.cv_hash
        else version
        for version in versions
    ]


def _tables_of(versions: Sequence[CVVersion]) -> Tables:
    """Input tables that hold these CVs and nothing else."""
    folder = tempfile.TemporaryDirectory(prefix="girl-worker-")
    connection = duckdb.connect(str(Path(folder.name) / "girl_tables.duckdb"))
    connection.execute("SET TimeZone = 'UTC'")
    columns: dict[str, list[Any]] = {
        name: [getattr(version, name) for version in versions] for name in JOB_SEEKERS_SCHEMA.names
    }
    rows = pa.table(columns, JOB_SEEKERS_SCHEMA).append_column(CV_HASH, pa.array([v.cv_hash for v in versions]))
    connection.register("versions", rows)
    connection.execute("CREATE TABLE job_seekers AS SELECT * FROM versions")
    connection.unregister("versions")
    connection.execute("CREATE TABLE jobs (job_id VARCHAR, jd VARCHAR, posted_at TIMESTAMPTZ, known_at TIMESTAMPTZ)")
    return Tables(connection, CheckReport({}, [], []), folder)


def _sleep(seconds: float, should_stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not should_stop() and time.monotonic() < until:
        time.sleep(min(0.2, seconds))
