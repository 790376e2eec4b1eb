"""Keep a record of each run of the batch: a JSON file in `workspace/runs`, written when the run begins and ends.

A record holds the config, the totals and how the run ended. Which rows a run made is in the store's parts
(docs/adr/0012). No record holds an id or a text of a job seeker, so erasing a seeker changes no record.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from girl_features.errors import ConfigError, StoreError
from girl_features.sql import was_interrupted
from girl_features.store.failpoints import failpoint
from girl_features.store.files import exclusive_lock, is_running, write_whole

N_CHANGES_NAMED = 5
_UNFINISHED = ("stopped", "failed", "killed")  # the run ended before its plan was done
_log = logging.getLogger(__name__)


class RunRecord(BaseModel):
    """One run: its config, its totals and how it ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    status: Literal["running", "finished", "stopped", "failed", "killed", "abandoned"]
    contract: str
    engine: str
    started_at: datetime
    ended_at: datetime | None = None
    pid: int
    host: str
    config: dict[str, Any]  # with every default filled in
    gate: str | None = None  # how the generator stood to the quality gate; None in records of earlier versions
    totals: dict[str, Any] = {}  # empty if the run was killed
    error: str | None = None  # class of the error that ended the run; not its message, which may hold ids

    @property
    def seconds(self) -> float | None:
        """Duration of the run; None if it was killed or is still running."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()


class Run:
    """A run in progress."""

    def __init__(self, record: RunRecord) -> None:
        self.id = record.id
        self.totals: dict[str, Any] = {}
        self.stopped = False  # True if the run ends before its plan is done


class RunLog:
    """The records in one folder. One run at a time writes; any number of processes can read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def records(self) -> list[RunRecord]:
        """Return all records, oldest first. A run whose process is gone counts as killed.

        Raises:
            StoreError: a record cannot be read.
        """
        records = [self._read(path) for path in sorted(self._folder.glob("*.json"))]
        return [_killed(record) if _is_dead(record) else record for record in records]

    def find(self, run_id: str) -> RunRecord:
        """Return the run with this id, or with an id that begins so. `last` is the newest run.

        Raises:
            ConfigError: no run fits, or several do.
        """
        records = self.records()
        matches = records[-1:] if run_id == "last" else [r for r in records if run_id and r.id.startswith(run_id)]
        if not records:
            raise ConfigError(f"no run yet in {self._folder}; `girl materialize` starts the first")
        if len(matches) != 1:
            problem = f"fits {len(matches)} runs" if matches else f"is none of {len(records)} runs"
            raise ConfigError(f"{run_id!r} {problem} in {self._folder}; `girl runs` lists them")
        return matches[0]

    @contextmanager
    def begin(
        self,
        contract: str,
        engine: str,
        config: dict[str, Any],
        *,
        new_run: bool = False,
        gate: str | None = None,
    ) -> Iterator[Run]:
        """Keep a record of the block: written when the block begins, and again with how it ended.

        Args:
            contract: fingerprint of the contract whose rows the run makes.
            engine: name of the engine that generates.
            config: the resolved config.
            new_run: give up runs of other contracts that did not finish.
            gate: how the generator stood to the quality gate.

        Raises:
            ConfigError: a run of another contract did not finish, and `new_run` is False.
            StoreLockedError: another run is in progress. The message names its process and host, and its start.
            StoreError: the record cannot be written.
        """
        with exclusive_lock(self._folder / ".lock"):
            self._settle_others(contract, config, new_run)
            record = _begun(contract, engine, config, gate)
            self._write(record)
            failpoint("run.begun")
            run = Run(record)
            try:
                yield run
            except BaseException as error:
                is_asked = was_interrupted(error)
                self._end(record, run, "stopped" if is_asked else "failed", type(error).__name__)
                raise
            failpoint("run.before_end")
            self._end(record, run, "stopped" if run.stopped else "finished", None)

    def _settle_others(self, contract: str, config: dict[str, Any], new_run: bool) -> None:
        newest: dict[str, RunRecord] = {}
        for record in map(self._read, sorted(self._folder.glob("*.json"))):
            if record.status == "running":  # its process is gone, as this process holds the lock
                record = _killed(record)
                self._write(record)
            newest[record.contract] = record
        for record in newest.values():
            if record.contract == contract or record.status not in _UNFINISHED:
                continue
            if not new_run:
                raise ConfigError(_refusal(record, contract, config))
            self._write(record.model_copy(update={"status": "abandoned"}))

    def _end(self, record: RunRecord, run: Run, status: str, error: str | None) -> None:
        update = {"status": status, "ended_at": datetime.now(UTC), "totals": run.totals, "error": error}
        try:
            self._write(record.model_copy(update=update))
        except StoreError as failure:
            if error is None:
                raise
            _log.error("the end of run %s could not be recorded: %s", record.id, failure)

    def _read(self, path: Path) -> RunRecord:
        try:
            return RunRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StoreError(
                f"{path} is damaged, so it is not a run's record; restore it from a backup, or delete it"
            ) from error

    def _write(self, record: RunRecord) -> None:
        write_whole(self._folder / f"{record.id}.json", record.model_dump_json(indent=1).encode())


def _begun(contract: str, engine: str, config: dict[str, Any], gate: str | None) -> RunRecord:
    now = datetime.now(UTC)
    return RunRecord(
        id=f"{now:%Y%m%dT%H%M%S%f}-{uuid4().hex[:4]}",
        status="running",
        contract=contract,
        engine=engine,
        started_at=now,
        pid=os.getpid(),
        host=socket.gethostname(),
        config=config,
        gate=gate,
    )


def _killed(record: RunRecord) -> RunRecord:
    return record.model_copy(update={"status": "killed"})


def _is_dead(record: RunRecord) -> bool:
    return record.status == "running" and record.host == socket.gethostname() and not is_running(record.pid)


def _refusal(record: RunRecord, contract: str, config: dict[str, Any]) -> str:
    changes = _config_changes(record.config, config)
    more = f" and {len(changes) - N_CHANGES_NAMED} more" if len(changes) > N_CHANGES_NAMED else ""
    named = (
        "; ".join(changes[:N_CHANGES_NAMED]) + more or "the files of the generator or of the encoder, or the release"
    )
    return (
        f"run {record.id} of contract {record.contract!r} was {record.status} before it was done, and since then "
        f"the contract has become {contract!r} (changed: {named}); change that back to resume it, or give it up and "
        f"begin another with `girl materialize --new-run`. What it stored stays either way"
    )


def _config_changes(old: Any, new: Any, place: str = "") -> list[str]:
    """List `a.b: old -> new` for each value that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        changes = []
        for key in sorted({*old, *new}):
            changes += _config_changes(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
        return changes
    return [] if old == new else [f"{place}: {old!r} -> {new!r}"]
