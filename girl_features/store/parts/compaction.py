"""Rewrite parts while others read them: merge small parts, or remove one person's rows from all of them.

A new part is written together with a journal, `.replaces-<new part>`, that names the parts it replaces. The rename of
the new part commits the change: before it the journal has no effect, after it the old parts no longer count, even
while they still exist. They are deleted once no reader has them open. After a crash the next call finishes the work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from girl_features.store.failpoints import failpoint
from girl_features.store.files import TEMPORARY_PREFIX, exclusive_lock, waiting_lock, write_whole
from girl_features.store.parts.part_files import (
    LOCK,
    REPLACES_PREFIX,
    new_part_path,
    parquet_bytes,
    part_files,
    quarantined,
    replaced_names,
    without_damaged,
)
from girl_features.store.parts.tombstones import raise_tombstone

MAX_MERGED_BYTES = 256 << 20  # of the files that go into one part
_COMPACTION_LOCK = ".compaction.lock"


def compact(folder: Path, *, max_bytes: int = MAX_MERGED_BYTES) -> int:
    """Merge neighbouring parts of `folder` up to `max_bytes` each while others read and write.

    Each reader sees every row exactly once.

    Returns:
        By how many the number of files went down.

    Raises:
        StoreLockedError: another compaction or erasure is running here, or a reader holds the parts for 30 s.
        StoreError: the merged part cannot be written.
    """
    with exclusive_lock(folder / _COMPACTION_LOCK):
        _clear_journals(folder)
        parts = _mergeable_parts(folder)
        for group in _neighbour_groups(parts, max_bytes):
            tables = [pq.read_table(path, partitioning=None) for path in group]
            _replace_parts(folder, group, pa.concat_tables(tables, promote_options="default"))
        return len(parts) - len(_mergeable_parts(folder))


def erase_rows(root: Path, folders: list[Path], column: str, name: str) -> int:
    """Remove every row whose `column` is `name` from the parts in `folders`, and prevent its return by a tombstone.

    The tombstone goes to `root`, which contains the folders. Parts in quarantine and unfinished temporary files
    cannot be searched for the rows, so they are deleted.

    Returns:
        The number of rows that were removed.
    """
    raise_tombstone(root, column, name)
    failpoint("erase.tombstone_raised")
    n_rows = 0
    for folder in folders:
        with exclusive_lock(folder / _COMPACTION_LOCK):
            with waiting_lock(folder / LOCK, exclusive=True):
                # Writers that started before the tombstone have ended, and later ones see it. Nobody writes now.
                for path in folder.rglob(f"{TEMPORARY_PREFIX}*"):
                    path.unlink(missing_ok=True)
            _clear_journals(folder)
            for path in without_damaged(part_files(folder)):
                n_rows += _remove_rows(folder, path, column, name)
            for path in quarantined(folder):
                path.unlink()
    return n_rows


def is_unfinished(folder: Path) -> bool:
    """True if a compaction or erasure in `folder` was interrupted, or is running."""
    return any(folder.glob(f"{REPLACES_PREFIX}*"))


def finish_compaction(folder: Path) -> int:
    """Finish an interrupted compaction or erasure of `folder`, and return the number of its journals.

    Raises:
        StoreLockedError: a compaction or erasure is running here.
    """
    with exclusive_lock(folder / _COMPACTION_LOCK):
        return _clear_journals(folder)


def _clear_journals(folder: Path) -> int:
    """Carry out or drop every journal; the caller holds the compaction lock. Returns the number of journals."""
    journals = list(folder.glob(f"{REPLACES_PREFIX}*"))
    for journal in journals:
        _clear_journal(folder, journal)
    return len(journals)


def _mergeable_parts(folder: Path) -> list[Path]:
    """List the intact parts directly in `folder`, without files that another program wrote."""
    return without_damaged(
        [path for path in part_files(folder) if path.parent == folder and path.name.startswith("part-")]
    )


def _neighbour_groups(parts: list[Path], max_bytes: int) -> Iterator[list[Path]]:
    """Group neighbours, two or more each. Merging neighbours keeps the order in which rows were written."""
    group: list[Path] = []
    group_bytes = 0
    for path in parts:
        n_bytes = path.stat().st_size
        if group and group_bytes + n_bytes > max_bytes:
            if len(group) > 1:
                yield group
            group, group_bytes = [], 0
        group.append(path)
        group_bytes += n_bytes
    if len(group) > 1:
        yield group


def _remove_rows(folder: Path, path: Path, column: str, name: str) -> int:
    """Replace one part by its rows whose `column` is not `name`, and return how many rows went."""
    if column not in pq.read_schema(path).names:
        return 0
    ids = pq.read_table(path, columns=[column], partitioning=None)[column].cast(pa.string())
    keep = pc.fill_null(pc.not_equal(ids, name), True)
    n_rows = len(ids) - pc.sum(keep).as_py() if len(ids) else 0
    if n_rows:
        _replace_parts(folder, [path], pq.read_table(path, partitioning=None).filter(keep))
    return int(n_rows)


def _replace_parts(folder: Path, old: list[Path], table: pa.Table) -> None:
    """Write `table` as a part that replaces `old` and sorts where the last of them did."""
    data = parquet_bytes(table)
    stamp = old[-1].name.split("-")[1] if old[-1].name.startswith("part-") else "0"
    new = new_part_path(folder, stamp, data)
    journal = folder / f"{REPLACES_PREFIX}{new.name}"
    write_whole(journal, json.dumps([path.name for path in old]).encode())
    failpoint("compact.journal_written")
    write_whole(new, data)
    failpoint("compact.merged")
    _clear_journal(folder, journal)


def _clear_journal(folder: Path, journal: Path) -> None:
    """Delete the parts that the journal's part replaces, if that part was committed, and then the journal."""
    with waiting_lock(folder / LOCK, exclusive=True):
        if (folder / journal.name.removeprefix(REPLACES_PREFIX)).exists():
            for name in replaced_names(journal):
                (folder / name).unlink(missing_ok=True)
                failpoint("compact.old_removed")
        journal.unlink(missing_ok=True)
