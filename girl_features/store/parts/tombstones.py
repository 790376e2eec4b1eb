"""Who was erased: a small file for each id, by its SHA-256, so that no late write or restored backup brings it back.

    <root>/.tombstones/<column>-<sha256 of the id>.json

A tombstone in a folder holds for the parts of that folder and of its subfolders.
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
_NAME = re.compile(r"(.+)-([0-9a-f]{64})\.json")
_LEVELS = 3  # a part's own folder, the view's and the store's


class Tombstones(NamedTuple):
    """Hashes of erased ids by the column they stand in."""

    hashes: dict[str, frozenset[str]]

    @classmethod
    def of(cls, folder: Path) -> Tombstones:
        """Those that hold for the parts in `folder`."""
        found: dict[str, set[str]] = {}
        for place in [folder, *folder.parents][:_LEVELS]:
            for path in (place / FOLDER).glob("*.json"):
                if matched := _NAME.fullmatch(path.name):
                    found.setdefault(matched[1], set()).add(matched[2])
        return cls({column: frozenset(own) for column, own in found.items()})

    def condition(self, columns: list[str]) -> str:
        """SQL that is true for rows of nobody who was erased."""
        terms = []
        for column in columns:
            if hashes := self.hashes.get(column):
                listed = ", ".join(f"'{digest}'" for digest in sorted(hashes))
                terms.append(f"sha256(CAST({quote_identifier(column)} AS VARCHAR)) NOT IN ({listed})")
        return " AND ".join(terms) or "true"

    def without_erased(self, table: pa.Table) -> pa.Table:
        """`table` without rows of those who were erased."""
        for column, hashes in self.hashes.items():
            if column in table.column_names:
                keep = [value is None or id_hash(str(value)) not in hashes for value in table[column].to_pylist()]
                table = table.filter(pa.array(keep, pa.bool_()))
        return table


NOBODY = Tombstones({})


def id_hash(name: str) -> str:
    """SHA-256 of an id, which is what a tombstone keeps of it."""
    return hashlib.sha256(name.encode()).hexdigest()


def is_erased(root: Path, column: str, name: str) -> bool:
    """Whether the id `name` in `column` is marked as erased under `root`; one look at the disk."""
    return _path(root, column, name).exists()


def raise_tombstone(root: Path, column: str, name: str) -> Path:
    """Mark the id `name` in `column` as erased under `root`; a second time does nothing."""
    path = _path(root, column, name)
    if not path.exists():
        write_whole(path, json.dumps({"erased_at": datetime.now(UTC).isoformat()}).encode())
        fsync_folder(root)
    return path


def copy_tombstones(source: Path, root: Path) -> None:
    """Make those erased under `source` erased under `root` as well."""
    for path in (source / FOLDER).glob("*.json"):
        if _NAME.fullmatch(path.name) and not (root / FOLDER / path.name).exists():
            write_whole(root / FOLDER / path.name, path.read_bytes())


def lift_tombstone(root: Path, column: str, name: str) -> bool:
    """Let rows of the id in again (somebody came back); whether there was a tombstone."""
    path = _path(root, column, name)
    if not path.exists():
        return False
    path.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


def _path(root: Path, column: str, name: str) -> Path:
    return root / FOLDER / f"{column}-{id_hash(name)}.json"
