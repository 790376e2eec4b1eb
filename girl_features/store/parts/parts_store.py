"""PartsStore: immutable Parquet parts and the contracts that made them.

    <root>/contracts/<fingerprint>.json
    <root>/<view>/<fingerprint>/part-<UTC time>-<random>-<checksum>.parquet
    <root>/<view>/<fingerprint>/schema.parquet    no rows: lets Feast read a view before its first part
    <root>/published/<target>.json                what Feast's online store already holds (store/online.py)
    <root>/.lock                                  held by the one run that writes

The fingerprint of `cv_vectors` and `jd_vectors` is the encoder's, that of `generated_jds` and `failures` the
whole contract's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from girl_features.contract import FINGERPRINT_LENGTH, EncoderContract, FeatureContract
from girl_features.errors import AmbiguousContractError, StoreError, UnknownContractError
from girl_features.schema import JOB_SEEKER_ID
from girl_features.sql import parquet_relation
from girl_features.store.files import LOCK_WAIT_S, TEMPORARY_PREFIX, exclusive_lock, waiting_lock, write_whole
from girl_features.store.parts.compaction import compact, erase_rows
from girl_features.store.parts.part_files import LOCK, commit_part, is_sound, parquet_bytes, part_files, set_aside
from girl_features.store.parts.rows import (
    CV_VECTORS,
    GENERATED_JDS,
    JD_VECTORS,
    VIEWS,
    ViewSpec,
    checked,
    stored_schema,
)
from girl_features.store.parts.tombstones import Tombstones, is_erased, lift_tombstone

_FINGERPRINT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_LENGTH}}}")
_GLOB_CHARACTERS = frozenset("*?[]{}")


class PartsStore:
    """The feature tables on disk. Any number may read; writing goes on under `lock()`."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        if found := _GLOB_CHARACTERS.intersection(str(self.root)):
            raise StoreError(
                f"the store's path {str(self.root)!r} holds {sorted(found)}, which DuckDB would read as a "
                f"pattern; choose another workspace"
            )

    def view_dir(self, view: str, fingerprint: str) -> Path:
        """Folder of one view's parts under one contract; it may not exist yet.

        Raises:
            StoreError: no such view, or `fingerprint` is not twelve hex digits.
        """
        _spec(view)
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise StoreError(f"{fingerprint!r} is not a fingerprint: {FINGERPRINT_LENGTH} hex digits are wanted")
        return self.root / view / fingerprint

    @property
    def erased(self) -> Tombstones:
        """Who was erased from this store, as of now."""
        return Tombstones.of(self.root)

    def is_erased(self, job_seeker_id: str) -> bool:
        """Whether this job seeker was erased; one look at the disk."""
        return is_erased(self.root, JOB_SEEKER_ID, job_seeker_id)

    def write_part(self, view: str, fingerprint: str, table: pa.Table) -> Path | None:
        """Commit `table` as one new part: after return it survives a crash, before it nothing shows.

        Returns:
            The part; None if no row was left to write, as all were of people who were erased.
        Raises:
            UnknownContractError: `save_contract` has not seen this fingerprint.
            StoreError: the table does not fit the view, or the disk does not take it.
            InvalidVectorError: NaN, infinite, all-zero or wrong-dimension vectors; names the ids.
        """
        folder = self.view_dir(view, fingerprint)
        dimension = self._encoder(view, fingerprint).dimension
        table = checked(table, _spec(view), fingerprint, dimension)
        folder.mkdir(parents=True, exist_ok=True)
        with waiting_lock(folder / LOCK, exclusive=False):  # not while an erasure goes on
            table = Tombstones.of(folder).without_erased(table)
            return commit_part(folder, table) if table.num_rows else None

    def part_paths(self, view: str, fingerprint: str) -> list[Path]:
        """Paths of the committed parts, oldest first."""
        return [path for path in part_files(self.view_dir(view, fingerprint)) if path.name.startswith("part-")]

    def sound_parts(self, view: str, fingerprint: str) -> list[Path]:
        """`part_paths` without the damaged, which are set aside and named in the log."""
        return [path for path in self.part_paths(view, fingerprint) if is_sound(path) or not set_aside(path)]

    def scan(self, view: str, fingerprint: str) -> str | None:
        """All sound rows as a DuckDB table expression for a FROM clause, or None where there is no part yet.

        Rows of those who were erased are left out: a part of a backup may hold them.
        """
        paths = self.sound_parts(view, fingerprint)
        if not paths:
            return None
        relation, alive = parquet_relation(paths), self.erased.condition([VIEWS[view].key])
        return relation if alive == "true" else f"(SELECT * FROM {relation} WHERE {alive})"

    def compact(self, view: str, fingerprint: str) -> int:
        """Merge small parts while readers go on, and say how many files fewer there are; only under `lock()`."""
        return compact(self.view_dir(view, fingerprint)) if self.part_paths(view, fingerprint) else 0

    def compact_all(self) -> int:
        """`compact` every view of every contract, those that were removed too."""
        folders = [folder for view in VIEWS for folder in sorted((self.root / view).glob("*")) if folder.is_dir()]
        return sum(self.compact(folder.parent.name, folder.name) for folder in folders)

    def erase(self, job_seeker_id: str) -> int:
        """Remove every row of the job seeker, under every contract, and keep later writes from bringing one back.

        Only under `lock()`. What is online is another matter: `store.erasing.erase` does both.

        Returns:
            The number of rows that were removed.
        """
        views = [view for view, spec in VIEWS.items() if spec.key == JOB_SEEKER_ID]
        folders = [folder for view in views for folder in sorted((self.root / view).glob("*")) if folder.is_dir()]
        return erase_rows(self.root, folders, JOB_SEEKER_ID, job_seeker_id)

    def lift(self, job_seeker_id: str) -> bool:
        """Let rows of an erased job seeker in again, and say whether one was erased. What is gone stays gone."""
        return lift_tombstone(self.root, JOB_SEEKER_ID, job_seeker_id)

    def clean_temporaries(self) -> int:
        """Delete what killed writers left behind, and say how many files; only under `lock()`."""
        stale = [path for path in self.root.rglob(f"{TEMPORARY_PREFIX}*") if path.is_file()]
        for path in stale:
            path.unlink()
        return len(stale)

    def lock(self, wait_s: float = LOCK_WAIT_S) -> AbstractContextManager[None]:
        """Hold the store for writing, for the length of a `with` block, once others have let go of it.

        Raises:
            StoreLockedError: another run held it for `wait_s` seconds; says which process, on which host, since when.
        """
        return exclusive_lock(self.root / ".lock", wait_s=wait_s)

    def save_contract(self, contract: FeatureContract) -> None:
        """Make `contract` known, and its views readable, before its first row. A second time does nothing."""
        path = self._contract_path(contract.fingerprint)
        if path.exists():
            return
        for view, fingerprint in contract_parts(contract):
            empty = self.view_dir(view, fingerprint) / "schema.parquet"
            if not empty.exists():
                write_whole(empty, parquet_bytes(stored_schema(VIEWS[view]).empty_table()))
        envelope = {
            "saved_at": datetime.now(UTC).isoformat(timespec="microseconds"),
            "contract": contract.model_dump(mode="json"),
        }
        write_whole(path, json.dumps(envelope, indent=2).encode())

    def remove_contract(self, fingerprint: str) -> None:
        """Forget a contract: the next `feast apply` drops its views. Its parts stay, for saving it again.

        Raises:
            UnknownContractError: no such contract.
        """
        self._contract_path(self.contract(fingerprint).fingerprint).unlink()

    def contracts(self) -> dict[str, FeatureContract]:
        """Every contract by its fingerprint, in the order they were first saved.

        Raises:
            StoreError: a contract file is unreadable or was altered.
        """
        saved = sorted(self._saved_contracts(), key=lambda pair: pair[0])
        return {contract.fingerprint: contract for _, contract in saved}

    def contract(self, fingerprint: str) -> FeatureContract:
        """The contract with this fingerprint; its first digits will do.

        Raises:
            UnknownContractError: none fits, or several do (AmbiguousContractError).
        """
        contracts = self.contracts()
        matches = [known for known in contracts if fingerprint and known.startswith(fingerprint)]
        if not matches:
            raise UnknownContractError(fingerprint, list(contracts), str(self.root))
        if len(matches) > 1:
            raise AmbiguousContractError(fingerprint, matches)
        return contracts[matches[0]]

    def newest_contract(self) -> FeatureContract:
        """The contract saved last.

        Raises:
            UnknownContractError: the store has none.
        """
        contracts = self.contracts()
        if not contracts:
            raise UnknownContractError("the newest", [], str(self.root))
        return contracts[next(reversed(contracts))]

    def _contract_path(self, fingerprint: str) -> Path:
        return self.root / "contracts" / f"{fingerprint}.json"

    def _saved_contracts(self) -> Iterator[tuple[datetime, FeatureContract]]:
        for path in sorted((self.root / "contracts").glob("*.json")):
            try:
                envelope = json.loads(path.read_text(encoding="utf-8"))
                contract = FeatureContract.model_validate(envelope["contract"])
                saved_at = datetime.fromisoformat(envelope["saved_at"])
            except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
                raise StoreError(
                    f"{path} is not a contract ({error}); restore it from a backup, or delete it and run "
                    f"`girl materialize` to write it again"
                ) from error
            if contract.fingerprint != path.stem:
                raise StoreError(
                    f"{path} holds the contract {contract.fingerprint!r}: the file was renamed or altered; "
                    f"restore it from a backup, or delete it and run `girl materialize` to write it again"
                )
            yield saved_at, contract

    def _encoder(self, view: str, fingerprint: str) -> EncoderContract:
        contracts = self.contracts()
        for contract in contracts.values():
            if (view, fingerprint) in contract_parts(contract):
                return contract.encoder
        raise UnknownContractError(fingerprint, list(contracts), str(self.root))


def contract_parts(contract: FeatureContract) -> list[tuple[str, str]]:
    """The (view, fingerprint) folders that hold what one contract made, failures last."""
    encoder = contract.encoder.fingerprint
    whole = contract.fingerprint
    return [(CV_VECTORS, encoder), (JD_VECTORS, encoder), (GENERATED_JDS, whole), ("failures", whole)]


def _spec(view: str) -> ViewSpec:
    if view not in VIEWS:
        raise StoreError(f"no view {view!r}: the store has {', '.join(VIEWS)}")
    return VIEWS[view]
