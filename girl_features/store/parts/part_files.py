"""A folder of immutable Parquet parts: commit one, read them while others write, find the damaged ones.

    part-<UTC time>-<random>-<checksum>.parquet    the checksum is of the file's own bytes, so one rename commits both
    .parts.lock          shared by readers and writers for moments, exclusive while parts are swapped
    .replaces-<part>     names of the parts that <part> stands for; they no longer count, deleted or not
    .quarantine/         parts whose bytes are not those that were written

Names that begin with a dot, or do not end in .parquet, are no data: Feast's own DuckDB store reads the same folder.
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
_sound: set[tuple[str, int, int, int]] = set()  # path, inode, bytes, nanoseconds: files this process has checked


def commit_part(folder: Path, table: pa.Table) -> Path:
    """Add `table` to `folder` as one new part; after return it survives a crash, before it nothing shows.

    Raises:
        StoreError: the disk does not take it.
    """
    data = parquet_bytes(table)
    failpoint("part.encoded")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    path = folder / f"part-{stamp}-{uuid4().hex[:8]}-{checksum(data)}.parquet"
    write_whole(path, data)
    failpoint("part.committed")
    return path


def parquet_bytes(table: pa.Table) -> memoryview:
    """`table` as a Parquet file in memory; vectors as they are, as packing them costs more time than it saves room."""
    floats = {field.name for field in table.schema if pa.types.is_floating(_item_type(field.type))}
    plain = [name for name in table.column_names if name not in floats]
    packing = dict.fromkeys(_leaves(table.schema), "zstd") | {f"{name}.list.element": "none" for name in floats}
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression=packing, use_dictionary=plain)
    return memoryview(buffer.getvalue())


def part_files(folder: Path) -> list[Path]:
    """The files of `folder` that count as data, oldest first: not hidden, and not replaced by a merged part."""
    found = {path for path in folder.rglob("*.parquet") if not _is_hidden(path, folder)}
    gone: set[str] = set()
    for journal in folder.glob(f"{REPLACES_PREFIX}*"):
        if folder / journal.name.removeprefix(REPLACES_PREFIX) in found:  # the merged part was committed
            gone.update(replaced_names(journal))
    return sorted(path for path in found if path.parent != folder or path.name not in gone)


def replaced_names(journal: Path) -> list[str]:
    """Names of the parts that a merged part stands for; none if another process has just cleared the journal."""
    try:
        return [str(name) for name in json.loads(journal.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []


@contextmanager
def reading(folder: Path) -> Iterator[list[Path]]:
    """The sound parts of `folder`, none of which is removed before the block ends. Damaged ones are set aside.

    Raises:
        StoreError: no such folder, or no Parquet file in it.
    """
    if not folder.is_dir():
        raise StoreError(f"no folder {folder}; check the path of the Feast source, or run `girl materialize`")
    with waiting_lock(folder / LOCK, exclusive=False):
        files = [path for path in part_files(folder) if is_sound(path) or not set_aside(path)]
        if not files:
            raise StoreError(f"no Parquet part in {folder}; run `girl materialize`, or write the view's first rows")
        yield [path for path in files if path.name != "schema.parquet"] or files


def is_sound(path: Path) -> bool:
    """Whether the file is whole: its bytes have the checksum in its name, or, for other names, a Parquet footer.

    A file that was read once by this process and has not been touched since is not read again.
    """
    status = path.stat()
    identity = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    if identity in _sound:
        return True
    named = _CHECKSUM.fullmatch(path.name)
    sound = _file_digest(path) == named[1] if named else _has_footer(path)
    if sound:
        _sound.add(identity)
    return sound


def set_aside(path: Path) -> bool:
    """Move a damaged part of ours out of every reader's way, and say so in the log; True, for it is out.

    Files under other names are left where they are (another program may be writing them), and not read.
    """
    if _CHECKSUM.fullmatch(path.name) is None:
        _log.error("%s is not a whole Parquet file and is left out; remove it or write it again", path)
        return True
    target = path.parent / QUARANTINE / f"{path.name}.damaged"
    try:
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    except OSError as error:
        _log.error("%s is damaged and left out, but cannot be moved to quarantine: %s", path, error)
        return True
    _log.error("%s was damaged and is now %s; run the job that made its rows again", path, target)
    return True


def quarantined(folder: Path) -> list[Path]:
    """Damaged parts that were set aside."""
    return sorted((folder / QUARANTINE).glob("*.damaged"))


def checksum(data: memoryview) -> str:
    """What the name of a part with these bytes says of them."""
    return hashlib.sha256(data).hexdigest()[:_CHECKSUM_LENGTH]


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


def _leaves(schema: pa.Schema) -> list[str]:
    """Paths of the columns as Parquet calls them."""
    return [f"{f.name}.list.element" if pa.types.is_nested(f.type) else f.name for f in schema]


def _item_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
