"""Finds what crashes, full disks and bad ones leave behind, and mends what can be mended without a guess."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from girl_features.errors import StoreError, StoreLockedError
from girl_features.store.files import TEMPORARY_PREFIX, exclusive_lock
from girl_features.store.parts import PartsStore
from girl_features.store.parts.compaction import is_unfinished, mend
from girl_features.store.parts.part_files import is_sound, part_files, quarantined, set_aside
from girl_features.store.parts.rows import VIEWS
from girl_features.store.repo import BACKUP_SUFFIX, apply_repo, open_unchecked, registry_path, registry_problem

STALE_SECONDS = 3600.0  # a temporary file this old belongs to nobody who is still writing


class Finding(NamedTuple):
    """One thing that is wrong."""

    path: str
    problem: str
    remedy: str  # what mends it, or what was done
    mended: bool


def examine(repo: Path | None, store: PartsStore, *, mend_all: bool = False) -> list[Finding]:
    """Everything that is wrong with the store's folder and the Feast repo; with `mend_all`, mended where it can be.

    Args:
        repo: the Feast repo; None to look at the store's folder alone.

    Raises:
        StoreLockedError: `mend_all`, and another run is writing to the store.
        StoreError: feature_store.yaml is missing or wrong.
    """
    if not mend_all:
        return [*_examine_store(store, False), *(_examine_repo(repo, False) if repo is not None else ())]
    with store.lock():
        found = list(_examine_store(store, True))
    return found + (list(_examine_repo(repo, True)) if repo is not None else [])


def _examine_store(store: PartsStore, mending: bool) -> Iterator[Finding]:
    if not store.root.is_dir():
        yield Finding(str(store.root), "the store's folder is missing", "mount it, or run `girl materialize`", False)
        return
    yield from _temporaries(store, mending)
    for folder in sorted(folder for view in VIEWS for folder in (store.root / view).glob("*") if folder.is_dir()):
        yield from _parts(folder, mending)
    try:
        store.contracts()
    except StoreError as error:
        yield Finding(str(store.root / "contracts"), "a contract is unreadable", str(error), False)
    yield from _ledgers(store, mending)
    own = store.root / ".lock"  # held by this run while it mends
    for path in sorted(store.root.rglob("*.lock")):
        if path != own or not mending:
            yield from _dead_lock(path, mending)


def _temporaries(store: PartsStore, mending: bool) -> Iterator[Finding]:
    for path in sorted(store.root.rglob(f"{TEMPORARY_PREFIX}*")):
        if path.is_file() and time.time() - path.stat().st_mtime > STALE_SECONDS:
            yield _finding(path, "left behind by a writer that was killed", "remove it", mending, path.unlink)


def _parts(folder: Path, mending: bool) -> Iterator[Finding]:
    if is_unfinished(folder):
        yield _finding(folder, "a compaction or erasure was cut short", "finish it", mending, lambda: mend(folder))
    for path in part_files(folder):
        if not is_sound(path):
            problem = f"damaged: {path.stat().st_size:,} bytes that are not those that were written"
            remedy = "set it aside, then run `girl materialize` to make its rows again"
            yield _finding(path, problem, remedy, mending, lambda own=path: set_aside(own))  # type: ignore[misc]
    for path in quarantined(folder):
        remedy = "is out of use; run `girl materialize` if you have not since, then remove it"
        yield Finding(str(path), "a damaged part that was set aside", remedy, True)


def _ledgers(store: PartsStore, mending: bool) -> Iterator[Finding]:
    for path in sorted((store.root / "published").glob("*.json")):
        try:
            views = json.loads(path.read_text(encoding="utf-8"))["views"]
            sound = isinstance(views, dict)
        except (OSError, ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            remedy = "remove it: every row is then published anew"
            yield _finding(path, "the list of published parts is unreadable", remedy, mending, path.unlink)


def _dead_lock(path: Path, mending: bool) -> Iterator[Finding]:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        pid, host, since = int(holder["pid"]), str(holder["host"]), str(holder["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # let go in good order
    if host == socket.gethostname() and _is_alive(pid):
        return

    def release() -> None:
        with exclusive_lock(path):
            pass

    try:
        problem = f"process {pid} on {host} died while it held this lock since {since}"
        yield _finding(path, problem, "clear it (the next run would take it over)", mending, release)
    except StoreLockedError:
        return  # held on another host


def _examine_repo(repo: Path, mending: bool) -> Iterator[Finding]:
    config = open_unchecked(repo).config
    registry = registry_path(config)
    if registry is not None:
        problem = registry_problem(registry)
        if problem is not None:
            backup = registry.with_name(registry.name + BACKUP_SUFFIX)
            good = backup.is_file() and registry_problem(backup) is None
            remedy = f"restore {backup.name}" if good else "apply the definitions again"
            yield _finding(registry, problem, remedy, mending, lambda: _mend_registry(repo, registry, backup, good))
    path = getattr(config.online_store, "path", None)
    online = Path(config.repo_path or ".", path) if path else None
    if online is not None and online.is_file() and (fault := _sqlite_fault(online)):
        remedy = "remove the file, run `feast apply`, then `girl materialize` publishes every row anew"
        yield Finding(str(online), f"SQLite says: {fault}", remedy, False)


def _mend_registry(repo: Path, registry: Path, backup: Path, good: bool) -> None:
    if registry.exists():
        registry.replace(registry.with_name(registry.name + ".damaged"))
    if good:
        temporary = registry.with_name(f"{TEMPORARY_PREFIX}{registry.name}")
        shutil.copyfile(backup, temporary)
        temporary.replace(registry)
    apply_repo(repo)  # definitions may be newer than the backup


def _sqlite_fault(path: Path) -> str | None:
    try:
        with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5) as connection:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        connection.close()
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if answer == "ok" else str(answer)


def _finding(path: Path, problem: str, remedy: str, mending: bool, cure: Callable[[], object]) -> Finding:
    if mending:
        cure()
    return Finding(str(path), problem, remedy, mending)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
