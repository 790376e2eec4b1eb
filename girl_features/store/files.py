"""Atomic writes of files, and file locks between processes."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from uuid import uuid4

from girl_features.errors import StoreError, StoreLockedError
from girl_features.store.failpoints import failpoint

TEMPORARY_PREFIX = ".tmp-"  # hidden and without .parquet, so that no reader's glob takes such a file for data
LOCK_WAIT_S = 600.0  # longer than a worker holds the store for one chunk, or a publisher the ledger for one view
LOCK_POLL_S = 0.05  # between two tries to take an exclusive lock
WARN_AFTER_S = 3.0  # of waiting for an exclusive lock
_SHARED_POLL_S = 0.01  # between two tries to take a lock that others hold for moments
_log = logging.getLogger(__name__)


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` atomically: a crash at any moment leaves the old file or the new one.

    Writes a temporary file in the same folder, syncs it, renames it, and syncs the folder.

    Raises:
        StoreError: the disk is full, or any other I/O error. Names the path and the size; leaves no temporary file.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            half = len(data) // 2
            file.write(data[:half])
            failpoint("file.half_written")
            file.write(data[half:])
            file.flush()
            os.fsync(file.fileno())
        failpoint("file.before_rename")
        temporary.rename(path)
        failpoint("file.renamed")
        fsync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"cannot write {path} ({len(data):,} bytes wanted): {error.strerror or error}; "
            f"free disk space or repair the disk, then run the same command again: it resumes"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Sync the file names in `folder` to disk, so that they survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` alone for the block. The kernel releases it when the process dies.

    The file names its holder while the lock is held. A name that remains is that of a process that died. Another holder
    is waited for up to `wait_s` seconds, and after `WARN_AFTER_S` a warning names it.

    Raises:
        StoreLockedError: another process, or another block of this process, holds it; says which and since when.
        StoreError: the lock file cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot open the lock {path}: {error.strerror or error}") from error
    with file:
        _take_exclusive(file, path, wait_s)
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _take_exclusive(file: IO[str], path: Path, wait_s: float) -> None:
    silent_s = min(wait_s, WARN_AFTER_S)
    if _try_lock(file.fileno(), fcntl.LOCK_EX, silent_s, LOCK_POLL_S):
        return
    if wait_s > silent_s:
        _log.warning("waiting up to %g s for %s: %s holds it", wait_s, path.parent, _holder(path))
        if _try_lock(file.fileno(), fcntl.LOCK_EX, wait_s - silent_s, LOCK_POLL_S):
            return
    raise StoreLockedError(
        f"{path.parent} is being written by {_holder(path)}; "
        f"wait for that run to end, or stop it, and run the same command again"
    )


@contextmanager
def waiting_lock(path: Path, *, exclusive: bool, timeout: float = 30.0) -> Iterator[None]:
    """Hold the lock file `path` for the block, shared or exclusive, after waiting up to `timeout` seconds for it.

    A shared lock is skipped on a file system that cannot be written, because no part is replaced there.

    Raises:
        StoreLockedError: other processes held it for all that time.
        StoreError: the lock file cannot be opened for an exclusive lock.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
    except OSError as error:
        if exclusive:
            raise StoreError(f"cannot open the lock {path}: {error.strerror or error}") from error
        yield
        return
    try:
        if not _try_lock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, timeout, _SHARED_POLL_S):
            raise StoreLockedError(
                f"{path} was held by others for {timeout:g} s; wait for the readers and writers of "
                f"{path.parent} to end, then run the same command again"
            )
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int, timeout: float, poll_s: float) -> bool:
    """Try to take a lock until `timeout` seconds have passed. True if it was taken."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(poll_s)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "a process that has not yet written its name"  # it took the lock a moment ago


def is_running(pid: int) -> bool:
    """True if a process of this machine has this number, whoever owns it."""
    try:
        os.kill(pid, 0)
    except OSError as error:  # a process of another user may not be signalled
        return not isinstance(error, ProcessLookupError)
    return True
