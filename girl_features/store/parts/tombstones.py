"""Tombstones: one small file for each erased id, so that neither a late write nor a restored backup brings it back.

    <root>/.tombstones/<column>-<sha256 of the id>.json

A tombstone applies to the parts of the folder that holds it and of its subfolders.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from girl_features.sql import quote_identifier
from girl_features.store.files import fsync_folder, write_whole

FOLDER = ".tombstones"
_FILE_NAME = re.compile(r"(.+)-([0-9a-f]{64})\.json")
_N_FOLDERS = 3  # a part's own folder, the view's and the store's


class Tombstones(NamedTuple):
    """SHA-256 hashes of the erased ids, by id column."""

    hashes: dict[str, frozenset[str]]

    @classmethod
    def of(cls, folder: Path) -> Tombstones:
        """Load the tombstones that apply to the parts in `folder`."""
        hashes: dict[str, set[str]] = {}
        for parent in [folder, *folder.parents][:_N_FOLDERS]:
            for path in (parent / FOLDER).glob("*.json"):
                if matched := _FILE_NAME.fullmatch(path.name):
                    hashes.setdefault(matched[1], set()).add(matched[2])
        return cls({column: frozenset(digests) for column, digests in hashes.items()})

    def condition(self, columns: list[str]) -> str:
        """Return SQL that is true for rows with no erased id in `columns`."""
        terms = []
        for column in columns:
            if hashes := self.hashes.get(column):
                digests = ", ".join(f"'{digest}'" for digest in sorted(hashes))
                terms.append(f"sha256(CAST({quote_identifier(column)} AS VARCHAR)) NOT IN ({digests})")
        return " AND ".join(terms) or "true"

    def without_erased(self, table: pa.Table) -> pa.Table:
        """Return `table` without the rows of erased ids."""
        for column, hashes in self.hashes.items():
            if column in table.column_names:
                keep = [value is None or id_hash(str(value)) not in hashes for value in table[column].to_pylist()]
                table = table.filter(pa.array(keep, pa.bool_()))
        return table


NO_TOMBSTONES = Tombstones({})


def id_hash(name: str) -> str:
    """Return the SHA-256 of an id, which is all that a tombstone keeps of it."""
    return hashlib.sha256(name.encode()).hexdigest()


def tombstone_path(root: Path, column: str, name: str) -> Path:
    """Return the file that exists under `root` if the id `name` of `column` was erased."""
    return root / FOLDER / f"{column}-{id_hash(name)}.json"


def raise_tombstone(root: Path, column: str, name: str) -> None:
    """Mark the id `name` of `column` as erased under `root`. A second call does nothing."""
    path = tombstone_path(root, column, name)
    if not path.exists():
        write_whole(path, json.dumps({"erased_at": datetime.now(UTC).isoformat()}).encode())
        fsync_folder(root)


def copy_tombstones(source: Path, root: Path) -> None:
    """Mark the ids that are erased under `source` as erased under `root` too."""
    for path in (source / FOLDER).glob("*.json"):
        if _FILE_NAME.fullmatch(path.name) and not (root / FOLDER / path.name).exists():
            write_whole(root / FOLDER / path.name, path.read_bytes())


def lift_tombstone(root: Path, column: str, name: str) -> bool:
    """Allow rows of an erased id again. True if the id had a tombstone."""
    path = tombstone_path(root, column, name)
    if not path.exists():
        return False
    path.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True
