"""Care for the user's files: nothing of the user's is overwritten, and personal data stays out of git."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from itertools import count
from pathlib import Path

from girl_features.errors import StoreError

GITIGNORE = ".gitignore"
# all that is written into a workspace
WORKSPACE_NAMES = (
    *("bases", "encoders", "experiments", "exports", "feature_repo", "gates", "generators", "grounding", "judge"),
    *("maps", "queue.db*", "rankers", "reductions", "rewards", "runs", "store", "students"),
)
_WHOLE_FOLDER = "# Written by girl: CVs, JDs and what is made of them stay out of git.\n*\n"
_DEVICES = ("/dev/", "/proc/")  # as /dev/stdout, which may lead to a file
_log = logging.getLogger(__name__)


def set_aside(path: Path) -> Path:
    """Rename a file, link or folder to `NAME.bak-TIME` beside it, log that, and return the new path.

    Raises:
        StoreError: it cannot be renamed.
    """
    backup = free_backup_path(path)
    try:
        path.rename(backup)
    except OSError as error:
        raise StoreError(
            f"{path} is not ours and cannot be kept as {backup.name} ({error.strerror or error}), so it was left as it "
            f"is; move it away, or name another place"
        ) from error
    _log.warning("%s was there before: it is kept as %s", path, backup.name)
    return backup


def free_backup_path(path: Path) -> Path:
    """Return a path beside `path` that nothing has, with the present time in it."""
    stem = f"{path.name}.bak-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(backup for name in names if not os.path.lexists(backup := path.with_name(name)))


def make_way(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Set aside the file at `path`, unless it is empty or an earlier output that may be replaced.

    A folder at `path` is left alone: whoever writes the file then fails.

    Args:
        path: of a file that is about to be written.
        is_ours: tells an earlier output from a user's file. If it cannot read the file, that is the user's.
    """
    if not path.is_file() or str(path.absolute()).startswith(_DEVICES):
        return
    try:
        if not path.stat().st_size or is_ours(path):
            return
    except (OSError, ValueError, EOFError, zlib.error):
        pass  # not to be read, so not ours
    set_aside(path)


def begins_with(path: Path, *beginnings: str) -> bool:
    """True if the text of a file begins with one of these."""
    with path.open("rb") as file:
        return file.read(200).startswith(tuple(text.encode() for text in beginnings))


def keep_out_of_git(folder: Path, names: Sequence[str] = WORKSPACE_NAMES) -> None:
    """Make the workspace, or another folder for files of ours, with a .gitignore that covers them.

    It covers the whole folder, or if the user has files of other `names` there, those names.

    Raises:
        StoreError: the folder or the file cannot be written.
    """
    path = folder / GITIGNORE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file() and begins_with(path, _WHOLE_FOLDER):
            return
        entries = [entry.name for entry in folder.iterdir()]
        if all(any(fnmatch(entry, name) for name in names) for entry in entries):
            path.write_text(_WHOLE_FOLDER, encoding="utf-8")
        else:
            append_patterns(path, [f"/{name}" for name in names])
    except OSError as error:
        raise StoreError(f"cannot write {error.filename or path}: {error.strerror or error}") from error


def append_patterns(path: Path, patterns: Iterable[str]) -> list[str]:
    """Add the patterns that a .gitignore lacks to its end, and return them; make the file if it is absent."""
    text = path.read_bytes() if path.is_file() else b""
    lacking = lacking_patterns(text, patterns)
    if lacking:
        new = "\n".join(["# Added by girl: personal data, and what is made of it", *lacking, ""])
        path.write_bytes(text + (b"\n" if text and not text.endswith(b"\n") else b"") + new.encode())
    return lacking


def lacking_patterns(text: bytes, patterns: Iterable[str]) -> list[str]:
    """Return the patterns that the text of a .gitignore does not have, or takes back with `!`."""
    lines = text.decode("utf-8", "replace").splitlines()
    last_exception = max((i for i, line in enumerate(lines) if line.startswith("!")), default=-1)
    present = {line.strip().strip("/") for line in lines[last_exception + 1 :]}  # `!` takes back what stands above it
    return [pattern for pattern in patterns if pattern.strip("/") not in present]
