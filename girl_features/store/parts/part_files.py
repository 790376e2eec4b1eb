"""A folder of immutable Parquet parts: write one, read them while others write, and find damaged ones.

    part-<UTC time>-<random>-<checksum>.parquet    the checksum is of the file's own bytes, so one rename commits both
    .parts.lock          held shared by readers and writers, exclusive while parts are replaced
    .replaces-<part>     journal: names of the parts that <part> replaces; they no longer count, deleted or not
    .quarantine/         damaged parts: their bytes do not have the checksum of their name

Feast's own DuckDB store reads the same folder. It ignores names that begin with a dot or do not end in .parquet.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.errors import StoreError
from girl_features.store.failpoints import failpoint
from girl_features.store.files import waiting_lock, write_whole

LOCK = ".parts.lock"
QUARANTINE = ".quarantine"
REPLACES_PREFIX = ".replaces-"
_CHECKSUM_LENGTH = 16
_CHECKSUM = re.compile(rf"part-[^/]+-([0-9a-f]{{{_CHECKSUM_LENGTH}}})\.parquet")

_log = logging.getLogger(__name__)
_checked: set[tuple[str, int, int, int]] = set()  # intact files: path, inode, bytes, time of change in nanoseconds


def commit_part(folder: Path, table: pa.Table) -> Path:
    """Write `table` to `folder` as one new part.

    Readers see no row of it before this function returns, and all rows survive a crash afterwards.

    Raises:
        StoreError: the disk is full, or another I/O error.
    """
    data = parquet_bytes(table)
    failpoint("part.encoded")
    path = new_part_path(folder, datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f"), data)
    write_whole(path, data)
    failpoint("part.committed")
    return path


def new_part_path(folder: Path, stamp: str, data: memoryview) -> Path:
    """Return the path of a new part with these bytes, which sorts by the time in `stamp`."""
    checksum = hashlib.sha256(data).hexdigest()[:_CHECKSUM_LENGTH]
    return folder / f"part-{stamp}-{uuid4().hex[:8]}-{checksum}.parquet"


def parquet_bytes(table: pa.Table) -> memoryview:
    """Encode `table` as a Parquet file in memory.

    Vectors are not compressed, because that costs more time than the space is worth.
    """
    compression, others = {}, []
    for field in table.schema:
        is_list = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
        is_float = pa.types.is_floating(field.type.value_type if is_list else field.type)
        name_in_file = f"{field.name}.list.element" if pa.types.is_nested(field.type) else field.name
        compression[name_in_file] = "none" if is_list and is_float else "zstd"
        if not is_float:
            others.append(field.name)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression=compression, use_dictionary=others)
    return memoryview(buffer.getvalue())


def part_files(folder: Path) -> list[Path]:
    """List the data files of `folder`, oldest first, without hidden files and parts that a merged part replaces."""
    visible = {path for path in folder.rglob("*.parquet") if not _is_hidden(path, folder)}
    replaced: set[str] = set()
    for journal in folder.glob(f"{REPLACES_PREFIX}*"):
        if folder / journal.name.removeprefix(REPLACES_PREFIX) in visible:  # the merged part was committed
            replaced.update(replaced_names(journal))
    return sorted(path for path in visible if path.parent != folder or path.name not in replaced)


def replaced_names(journal: Path) -> list[str]:
    """Read a journal: names of the parts that a merged part replaces; none if another process has just removed it."""
    try:
        return [str(name) for name in json.loads(journal.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []


@contextmanager
def reading(folder: Path) -> Iterator[list[Path]]:
    """List the intact parts of `folder` and keep them from being removed for the block. Quarantines damaged ones.

    Raises:
        StoreError: no such folder, or no Parquet file in it.
    """
    if not folder.is_dir():
        raise StoreError(f"no folder {folder}; check the path of the Feast source, or run `girl materialize`")
    with waiting_lock(folder / LOCK, exclusive=False):
        files = without_damaged(part_files(folder))
        if not files:
            raise StoreError(f"no Parquet part in {folder}; run `girl materialize`, or write the view's first rows")
        yield [path for path in files if path.name != "schema.parquet"] or files


def without_damaged(paths: list[Path]) -> list[Path]:
    """Return the intact files of `paths`, and quarantine the damaged parts among them."""
    intact = []
    for path in paths:
        if is_intact(path):
            intact.append(path)
        else:
            quarantine(path)
    return intact


def is_intact(path: Path) -> bool:
    """True if the bytes of a part have the checksum in its name, or, for other names, if it has a Parquet footer.

    Each process checks a file once, and again only if the file has changed.
    """
    status = path.stat()
    identity = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    if identity in _checked:
        return True
    name_match = _CHECKSUM.fullmatch(path.name)
    is_whole = _file_digest(path) == name_match[1] if name_match else _has_footer(path)
    if is_whole:
        _checked.add(identity)
    return is_whole


def quarantine(path: Path) -> None:
    """Move a damaged part where no reader looks, and log an error.

    A damaged file with another name stays where it is, because another program may still be writing it.
    """
    if _CHECKSUM.fullmatch(path.name) is None:
        _log.error("%s is not a whole Parquet file and is left out; remove it or write it again", path)
        return
    target = path.parent / QUARANTINE / f"{path.name}.damaged"
    try:
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    except OSError as error:
        _log.error("%s is damaged and left out, but cannot be moved to quarantine: %s", path, error)
        return
    _log.error("%s was damaged and is now %s; run the job that made its rows again", path, target)


def quarantined(folder: Path) -> list[Path]:
    """List the damaged parts in quarantine."""
    return sorted((folder / QUARANTINE).glob("*.damaged"))


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_CHECKSUM_LENGTH]


def _has_footer(path: Path) -> bool:
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(name.startswith((".", "_")) for name in path.relative_to(folder).parts)
