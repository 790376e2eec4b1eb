"""Ledger of the parts that an online store already has: a small JSON file for each target, beside the parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from girl_features.errors import StoreError
from girl_features.store.files import LOCK_WAIT_S, exclusive_lock, write_whole


class Ledger:
    """Names of the published parts by Feast view. `record` and `forget` return once their change is on disk."""

    def __init__(self, path: Path, target: dict[str, str]) -> None:
        self._path = path
        self._target = target
        self._views = self._read()

    @classmethod
    @contextmanager
    def of(cls, store_root: Path, repo: Path, project: str) -> Iterator[Ledger]:
        """Open the ledger of one Feast repo and project, and keep other runs out for the length of the block.

        Raises:
            StoreLockedError: another run held it for LOCK_WAIT_S seconds.
            StoreError: the ledger cannot be read.
        """
        target = {"repo": str(repo.expanduser().resolve()), "project": project}
        name = hashlib.sha256(json.dumps(target).encode()).hexdigest()[:16]
        path = store_root / "published" / f"{name}.json"
        with exclusive_lock(path.with_suffix(".lock"), wait_s=LOCK_WAIT_S):
            yield cls(path, target)

    def published(self, view: str) -> frozenset[str]:
        """Return the file names of the parts whose rows were published."""
        return frozenset(self._views.get(view, []))

    def record(self, view: str, parts: list[str]) -> None:
        """Record that the online store has the newest rows of exactly these parts."""
        self._views[view] = sorted(parts)
        self._write()

    def forget(self, view: str) -> None:
        """Record that no part of `view` is known to be online."""
        if self._views.pop(view, None) is not None:
            self._write()

    def _read(self) -> dict[str, list[str]]:
        if not self._path.exists():
            return {}
        try:
            views = json.loads(self._path.read_text(encoding="utf-8"))["views"]
            return {str(view): [str(part) for part in parts] for view, parts in views.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(
                f"cannot read {self._path} ({error}); delete it and run the same command again: "
                f"every row is then published anew, which is slow but safe"
            ) from error

    def _write(self) -> None:
        write_whole(self._path, json.dumps({**self._target, "views": self._views}, indent=1).encode())
