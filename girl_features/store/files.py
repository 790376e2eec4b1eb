"""Files that appear whole or not at all, and the lock that keeps writers apart."""

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

TEMPORARY_PREFIX = ".tmp-"  # hidden and without .parquet, so that no reader's glob takes one for data
LOCK_WAIT_S = 600.0  # for a lock that a worker holds for the length of a chunk, or a publisher for that of a view
LOCK_POLL_S = 0.05  # between two looks at a lock
TOLD_AFTER_S = 3.0
_log = logging.getLogger(__name__)


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` so that a crash at any moment leaves the old file or the new one.

    Temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises:
        StoreError: disk full or any other I/O error; names the path and the bytes wanted. Nothing is left.
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
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path} ({len(data):,} bytes wanted): {error.strerror or error}; "
            f"free some space or mend the disk, then run the same command again: it resumes"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold `path` for the length of the block; the kernel lets go when the holder dies, however it dies.

    Args:
        path: the lock file.
        wait_s: seconds to wait for another holder; whoever waits for more than a moment is told for whom.

    Raises:
        StoreLockedError: another process, or another block of this one, holds it; says who and since when.
        StoreError: the lock file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot open the lock {path}: {error.strerror or error}") from error
    with file:
        _take_alone(file, path, wait_s)
        file.truncate(0)
        json.dump(
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            file,
        )
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # a name that is left here is that of a holder who died


def _take_alone(file: IO[str], path: Path, wait_s: float) -> None:
    started, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            waited = time.monotonic() - started
            if waited >= wait_s:
                raise StoreLockedError(
                    f"{path.parent} is being written by {_holder(path)}; "
                    f"wait for that run to end, or stop it, and run the same command again"
                ) from error
            if waited >= TOLD_AFTER_S and not told:
                told = True
                _log.warning(
                    "waiting, for %g s at most, until %s is free: %s holds it", wait_s, path.parent, _holder(path)
                )
            time.sleep(LOCK_POLL_S)


@contextmanager
def waiting_lock(path: Path, *, exclusive: bool, timeout: float = 30.0) -> Iterator[None]:
    """Hold `path` for the block, shared or alone, waiting up to `timeout` seconds for others to let go.

    On a file system that cannot be written, where nothing is swapped either, reading goes on without a lock.

    Raises:
        StoreLockedError: others held it for all that time.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
    except OSError as error:
        if exclusive:
            raise StoreError(f"cannot open the lock {path}: {error.strerror or error}") from error
        yield
        return
    try:
        _flock(descriptor, path, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, timeout)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, path: Path, kind: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise StoreLockedError(
                    f"{path} was held by others for {timeout:g} s; wait for the readers and writers of "
                    f"{path.parent} to end, then run the same command again"
                ) from error
            time.sleep(0.01)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "a process that has not yet written its name"  # it holds the lock but is still starting
