"""Find the damage that crashes and full or faulty disks leave behind, and repair it where the repair is certain."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

from girl_features.errors import StoreError, StoreLockedError
from girl_features.store.files import TEMPORARY_PREFIX, exclusive_lock, is_running
from girl_features.store.parts import PartsStore
from girl_features.store.parts.compaction import finish_compaction, is_unfinished
from girl_features.store.parts.part_files import is_intact, part_files, quarantine, quarantined
from girl_features.store.parts.rows import VIEWS
from girl_features.store.repo import BACKUP_SUFFIX, apply_repo, open_repo, registry_path, registry_problem

STALE_SECONDS = 3600.0  # age of a temporary file that no running writer can still be writing


class DoctorFinding(NamedTuple):
    """One fault of the store or of the Feast repo."""

    path: str
    problem: str
    remedy: str  # how to repair it, or what is left to do after the repair
    mended: bool
    done: str = ""  # the repair that this run made


def examine(
    repo: Path | None, store: PartsStore, *, mend_all: bool = False, is_new: bool = False
) -> list[DoctorFinding]:
    """List the faults of the store's folder and of the Feast repo, if there is one.

    With `mend_all`, each fault is repaired for which a safe repair is known. In a workspace that `is_new`, the folder
    of the store and the registry may be absent.

    Raises:
        StoreLockedError: `mend_all`, and another run is writing to the store.
        StoreError: feature_store.yaml is missing or wrong.
    """
    findings: list[DoctorFinding] = []
    if not is_new or store.root.is_dir():
        with store.lock() if mend_all and not is_new else nullcontext():
            findings += _examine_store(store, mend_all)
    if repo is not None:
        findings += _examine_repo(repo, mend_all, is_new)
    return findings


def is_new(repo: Path, store: PartsStore, runs_dir: Path) -> bool:
    """True if nothing was ever stored: no run, no contract, and no registry that `girl materialize` has applied."""
    backups = (repo / "data").glob(f"*{BACKUP_SUFFIX}")
    return not any([*runs_dir.glob("*.json"), *(store.root / "contracts").glob("*.json"), *backups])


def _examine_store(store: PartsStore, mending: bool) -> Iterator[DoctorFinding]:
    if not store.root.is_dir():
        remedy = "mount it, or run `girl materialize`"
        yield DoctorFinding(str(store.root), "the store's folder is missing", remedy, False)
        return
    for path in sorted(store.root.rglob(f"{TEMPORARY_PREFIX}*")):
        if path.is_file() and time.time() - path.stat().st_mtime > STALE_SECONDS:
            yield _repaired(path, "left behind by a writer that was killed", "remove it", mending, path.unlink)
    for folder in sorted(store.view_dirs(list(VIEWS))):
        yield from _examine_parts(folder, mending)
    try:
        store.contracts()
    except StoreError as error:
        yield DoctorFinding(str(store.root / "contracts"), "a contract is unreadable", str(error), False)
    yield from _unreadable_ledgers(store, mending)
    store_lock = store.root / ".lock"  # this run holds it while it repairs
    for path in sorted(store.root.rglob("*.lock")):
        if path != store_lock or not mending:
            yield from _dead_lock(path, mending)


def _examine_parts(folder: Path, mending: bool) -> Iterator[DoctorFinding]:
    if is_unfinished(folder):
        problem = "a compaction or erasure was interrupted"
        yield _repaired(folder, problem, "finish it", mending, partial(finish_compaction, folder))
    set_aside = quarantined(folder)
    for path in part_files(folder):
        if not is_intact(path):
            problem = f"damaged: the checksum or footer of its {path.stat().st_size:,} bytes is wrong"
            then = "run `girl materialize` to make its rows again, and remove the damaged file yourself"
            yield _repaired(path, problem, "set it aside", mending, partial(quarantine, path), then)
    for path in set_aside:
        remedy = "it is out of use: run `girl materialize` if you have not since, then remove the file yourself"
        yield DoctorFinding(str(path), "a damaged part that was set aside", remedy, True)


def _unreadable_ledgers(store: PartsStore, mending: bool) -> Iterator[DoctorFinding]:
    for path in sorted((store.root / "published").glob("*.json")):
        try:
            is_readable = isinstance(json.loads(path.read_text(encoding="utf-8"))["views"], dict)
        except (OSError, ValueError, KeyError, TypeError):
            is_readable = False
        if not is_readable:
            remedy = "remove it: every row is then published anew"
            yield _repaired(path, "the list of published parts is unreadable", remedy, mending, path.unlink)


def _dead_lock(path: Path, mending: bool) -> Iterator[DoctorFinding]:
    """Report a lock file whose holder died."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        pid, host, since = int(holder["pid"]), str(holder["host"]), str(holder["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # its last holder released it, and so emptied it
    if host == socket.gethostname() and is_running(pid):
        return

    def release() -> None:
        with exclusive_lock(path):
            pass

    try:
        problem = f"process {pid} on {host} died while it held this lock since {since}"
        yield _repaired(path, problem, "clear it (the next run would take it over)", mending, release)
    except StoreLockedError:
        return  # a process on another host holds it


def _examine_repo(repo: Path, mending: bool, is_new: bool) -> Iterator[DoctorFinding]:
    config = open_repo(repo, check_registry=False).config  # a damaged registry is a finding
    registry = registry_path(config)
    is_expected = registry is not None and (registry.exists() or not is_new)
    if registry is not None and is_expected and (problem := registry_problem(registry)):
        backup = registry.with_name(registry.name + BACKUP_SUFFIX)
        has_backup = backup.is_file() and registry_problem(backup) is None
        remedy = f"restore {backup.name}" if has_backup else "apply the definitions again"
        mend = partial(_mend_registry, repo, registry, backup if has_backup else None)
        yield _repaired(registry, problem, remedy, mending, mend)
    path = getattr(config.online_store, "path", None)
    online = Path(config.repo_path or ".", path) if path else None
    if online is not None and online.is_file() and (fault := _sqlite_fault(online)):
        remedy = "remove the file, run `feast apply`, then `girl materialize` publishes every row anew"
        yield DoctorFinding(str(online), f"SQLite says: {fault}", remedy, False)


def _mend_registry(repo: Path, registry: Path, backup: Path | None) -> None:
    if registry.exists():
        registry.replace(registry.with_name(registry.name + ".damaged"))
    if backup is not None:
        temporary = registry.with_name(f"{TEMPORARY_PREFIX}{registry.name}")
        shutil.copyfile(backup, temporary)
        temporary.replace(registry)
    apply_repo(repo)  # definitions may be newer than the backup


def _sqlite_fault(path: Path) -> str | None:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if answer == "ok" else str(answer)


def _repaired(
    path: Path, problem: str, remedy: str, mending: bool, repair: Callable[[], object], then: str = ""
) -> DoctorFinding:
    """Make the repair if `mending`. `then` is what the user has to do after it."""
    if not mending:
        return DoctorFinding(str(path), problem, f"{remedy}, then {then}" if then else remedy, False)
    repair()
    return DoctorFinding(str(path), problem, then, True, remedy)
