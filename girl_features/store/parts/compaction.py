"""Rewrite parts behind the readers' backs: merge small ones, or take one person's rows out of all of them.

A new part is written with a journal, `.replaces-<new part>`, that names the parts it stands for. The rename of the
new part is the moment of truth: before it the journal means nothing, after it the old parts no longer count,
whether or not they are still there. They go once no reader has them open. A crash anywhere is mended by the next call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from girl_features.store.failpoints import failpoint
from girl_features.store.files import TEMPORARY_PREFIX, exclusive_lock, waiting_lock, write_whole
from girl_features.store.parts.part_files import (
    LOCK,
    REPLACES_PREFIX,
    checksum,
    is_sound,
    parquet_bytes,
    part_files,
    quarantined,
    replaced_names,
    set_aside,
)
from girl_features.store.parts.tombstones import raise_tombstone

MAX_MERGED_BYTES = 256 << 20  # of the files that go into one part
_COMPACTION_LOCK = ".compaction.lock"


def compact(folder: Path, *, max_bytes: int = MAX_MERGED_BYTES) -> int:
    """Merge neighbouring parts of `folder` up to `max_bytes` each, and say how many files fewer there are.

    Readers and writers go on; each reader sees every row once.

    Raises:
        StoreLockedError: another compaction or erasure is at work here, or readers do not let go for 30 s.
        StoreError: the disk does not take the merged part.
    """
    with exclusive_lock(folder / _COMPACTION_LOCK):
        finish(folder)
        n_before = len(_own_parts(folder))
        for group in _groups(_own_parts(folder), max_bytes):
            tables = [pq.read_table(path, partitioning=None) for path in group]
            _replace(folder, group, pa.concat_tables(tables, promote_options="default"))
        return n_before - len(_own_parts(folder))


def erase_rows(root: Path, folders: list[Path], column: str, name: str) -> int:
    """Take every row whose `column` is `name` out of the parts in `folders`, and keep it from coming back.

    The tombstone goes to `root`, which holds the folders. Quarantined parts, and files that killed writers left
    half-written, cannot be searched and are deleted.

    Returns:
        The number of rows that were removed.
    """
    raise_tombstone(root, column, name)
    failpoint("erase.tombstone_raised")
    n_rows = 0
    for folder in folders:
        with exclusive_lock(folder / _COMPACTION_LOCK):
            with waiting_lock(folder / LOCK, exclusive=True):
                # writers that had not seen the tombstone are through, and later ones see it; so nobody is writing
                for path in folder.rglob(f"{TEMPORARY_PREFIX}*"):
                    path.unlink(missing_ok=True)
            finish(folder)
            for path in _sound(part_files(folder)):
                n_rows += _without(folder, path, column, name)
            for path in quarantined(folder):
                path.unlink()
    return n_rows


def is_unfinished(folder: Path) -> bool:
    """Whether a compaction or erasure was cut short here."""
    return any(folder.glob(f"{REPLACES_PREFIX}*"))


def finish(folder: Path) -> int:
    """Clear up after a compaction that was cut short; the number of journals. Only under the compaction lock."""
    journals = list(folder.glob(f"{REPLACES_PREFIX}*"))
    for journal in journals:
        _clear(folder, journal)
    return len(journals)


def mend(folder: Path) -> int:
    """`finish`, for callers who do not hold the compaction lock."""
    with exclusive_lock(folder / _COMPACTION_LOCK):
        return finish(folder)


def _own_parts(folder: Path) -> list[Path]:
    return _sound([path for path in part_files(folder) if path.parent == folder and path.name.startswith("part-")])


def _sound(parts: list[Path]) -> list[Path]:
    return [path for path in parts if is_sound(path) or not set_aside(path)]


def _groups(parts: list[Path], max_bytes: int) -> Iterator[list[Path]]:
    """Runs of two or more neighbours, so that the order in which rows were written is kept."""
    group: list[Path] = []
    size = 0
    for path in parts:
        bytes_of = path.stat().st_size
        if group and size + bytes_of > max_bytes:
            if len(group) > 1:
                yield group
            group, size = [], 0
        group.append(path)
        size += bytes_of
    if len(group) > 1:
        yield group


def _without(folder: Path, path: Path, column: str, name: str) -> int:
    if column not in pq.read_schema(path).names:
        return 0
    ids = pq.read_table(path, columns=[column], partitioning=None)[column].cast(pa.string())
    keep = pc.fill_null(pc.not_equal(ids, name), True)
    n_rows = len(ids) - pc.sum(keep).as_py() if len(ids) else 0
    if n_rows:
        _replace(folder, [path], pq.read_table(path, partitioning=None).filter(keep))
    return int(n_rows)


def _replace(folder: Path, old: list[Path], table: pa.Table) -> None:
    data = parquet_bytes(table)
    stamp = old[-1].name.split("-")[1] if old[-1].name.startswith("part-") else "0"
    new = folder / f"part-{stamp}-{uuid4().hex[:8]}-{checksum(data)}.parquet"  # sorts where the last of the old did
    journal = folder / f"{REPLACES_PREFIX}{new.name}"
    write_whole(journal, json.dumps([path.name for path in old]).encode())
    failpoint("compact.journal_written")
    write_whole(new, data)
    failpoint("compact.merged")
    _clear(folder, journal)


def _clear(folder: Path, journal: Path) -> None:
    """Remove what the journal's part replaced, if that part was committed, then the journal."""
    with waiting_lock(folder / LOCK, exclusive=True):
        if (folder / journal.name.removeprefix(REPLACES_PREFIX)).exists():
            for name in replaced_names(journal):
                (folder / name).unlink(missing_ok=True)
                failpoint("compact.old_removed")
        journal.unlink(missing_ok=True)
