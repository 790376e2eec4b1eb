"""PartsStore: immutable Parquet parts, and the contracts that made them.

    <root>/contracts/<fingerprint>.json
    <root>/<view>/<fingerprint>/part-<UTC time>-<random>-<checksum>.parquet
    <root>/<view>/<fingerprint>/schema.parquet    no rows: lets Feast read a view before its first part
    <root>/published/<target>.json                parts that an online store already has (store/online/publishing.py)
    <root>/.lock                                  held by the one run that writes

The fingerprint of `cv_vectors` and `jd_vectors` is that of the encoder. The fingerprint of `generated_jds` and
`failures` is that of the whole contract.
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
from girl_features.store.parts.part_files import LOCK, commit_part, parquet_bytes, part_files, without_damaged
from girl_features.store.parts.rows import CV_VECTORS, FAILURES, GENERATED_JDS, JD_VECTORS, VIEWS, validated_rows
from girl_features.store.parts.tombstones import Tombstones, lift_tombstone, tombstone_path

_FINGERPRINT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_LENGTH}}}")
_GLOB_CHARACTERS = frozenset("*?[]{}")


class PartsStore:
    """The feature tables on disk. Any number of processes may read; a writer holds `lock()`."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        if characters := _GLOB_CHARACTERS.intersection(str(self.root)):
            raise StoreError(
                f"the store's path {str(self.root)!r} holds {sorted(characters)}, which DuckDB would read as a "
                f"pattern; choose another workspace"
            )

    def view_dir(self, view: str, fingerprint: str) -> Path:
        """Return the folder of one view's parts under one contract; it may not exist yet.

        Raises:
            StoreError: no such view, or `fingerprint` is not twelve hex digits.
        """
        if view not in VIEWS:
            raise StoreError(f"no view {view!r}: the store has {', '.join(VIEWS)}")
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise StoreError(f"{fingerprint!r} is not a fingerprint: {FINGERPRINT_LENGTH} hex digits are wanted")
        return self.root / view / fingerprint

    def view_dirs(self, views: list[str]) -> list[Path]:
        """List the existing folders of `views` under every contract, including removed contracts."""
        return [folder for view in views for folder in sorted((self.root / view).glob("*")) if folder.is_dir()]

    @property
    def erased(self) -> Tombstones:
        """The present tombstones of this store."""
        return Tombstones.of(self.root)

    def is_erased(self, job_seeker_id: str) -> bool:
        """True if this job seeker was erased. Looks at the disk once."""
        return tombstone_path(self.root, JOB_SEEKER_ID, job_seeker_id).exists()

    def write_part(self, view: str, fingerprint: str, table: pa.Table) -> Path | None:
        """Write `table` as one new part.

        Readers see no row of it before this method returns, and all rows survive a crash afterwards.

        Returns:
            The part; None if every row is of an erased job seeker, so that there was nothing to write.

        Raises:
            UnknownContractError: no contract with this fingerprint was saved.
            StoreError: the table does not fit the view, or the part cannot be written.
            InvalidVectorError: NaN, infinite, all-zero or wrong-dimension vectors; names the ids.
        """
        folder = self.view_dir(view, fingerprint)
        dimension = self._encoder(view, fingerprint).dimension
        table = validated_rows(table, VIEWS[view], fingerprint, dimension)
        folder.mkdir(parents=True, exist_ok=True)
        with waiting_lock(folder / LOCK, exclusive=False):  # an erasure holds it exclusive
            table = Tombstones.of(folder).without_erased(table)
            return commit_part(folder, table) if table.num_rows else None

    def part_paths(self, view: str, fingerprint: str) -> list[Path]:
        """List the committed parts, oldest first."""
        return [path for path in part_files(self.view_dir(view, fingerprint)) if path.name.startswith("part-")]

    def sound_parts(self, view: str, fingerprint: str) -> list[Path]:
        """List the intact parts, oldest first. Damaged parts are moved to quarantine and logged."""
        return without_damaged(self.part_paths(view, fingerprint))

    def scan(self, view: str, fingerprint: str) -> str | None:
        """Return the rows of all intact parts as SQL for a FROM clause, or None if there is no part yet.

        Rows of erased job seekers are left out, because a part from a backup may still have them.
        """
        paths = self.sound_parts(view, fingerprint)
        if not paths:
            return None
        relation, not_erased = parquet_relation(paths), self.erased.condition([VIEWS[view].key])
        return relation if not_erased == "true" else f"(SELECT * FROM {relation} WHERE {not_erased})"

    def compact_all(self) -> int:
        """Merge small parts under every contract while others read. The caller holds `lock()`.

        Returns:
            By how many the number of files went down.
        """
        folders = self.view_dirs(list(VIEWS))
        return sum(compact(folder) for folder in folders if self.part_paths(folder.parent.name, folder.name))

    def erase(self, job_seeker_id: str) -> int:
        """Remove every row of the job seeker under every contract, and prevent later writes of such rows.

        The caller holds `lock()`. The online store is not changed; `store.erasing.erase` does both.

        Returns:
            The number of rows that were removed.
        """
        views = [view for view, spec in VIEWS.items() if spec.key == JOB_SEEKER_ID]
        return erase_rows(self.root, self.view_dirs(views), JOB_SEEKER_ID, job_seeker_id)

    def lift(self, job_seeker_id: str) -> bool:
        """Allow new rows of an erased job seeker; removed rows do not come back. True if there was a tombstone."""
        return lift_tombstone(self.root, JOB_SEEKER_ID, job_seeker_id)

    def clean_temporaries(self) -> int:
        """Delete the temporary files of killed writers, and return their number. The caller holds `lock()`."""
        stale = [path for path in self.root.rglob(f"{TEMPORARY_PREFIX}*") if path.is_file()]
        for path in stale:
            path.unlink()
        return len(stale)

    def lock(self, wait_s: float = LOCK_WAIT_S) -> AbstractContextManager[None]:
        """Hold the store for writing for the length of a `with` block, after waiting for other holders.

        Raises:
            StoreLockedError: another run held it for `wait_s` seconds; names process, host and since when.
        """
        return exclusive_lock(self.root / ".lock", wait_s=wait_s)

    def save_contract(self, contract: FeatureContract) -> None:
        """Save `contract` and make its views readable before their first row. A second call does nothing."""
        path = self._contract_path(contract.fingerprint)
        if path.exists():
            return
        for view, fingerprint in contract_parts(contract):
            empty = self.view_dir(view, fingerprint) / "schema.parquet"
            if not empty.exists():
                write_whole(empty, parquet_bytes(VIEWS[view].stored_schema.empty_table()))
        saved_at = datetime.now(UTC).isoformat(timespec="microseconds")
        envelope = {"saved_at": saved_at, "contract": contract.model_dump(mode="json")}
        write_whole(path, json.dumps(envelope, indent=2).encode())

    def remove_contract(self, fingerprint: str) -> None:
        """Delete a contract, so that the next `feast apply` drops its views.

        Its parts stay on disk; saving the contract again makes them readable again.

        Raises:
            UnknownContractError: no such contract.
        """
        self._contract_path(self.contract(fingerprint).fingerprint).unlink()

    def contracts(self) -> dict[str, FeatureContract]:
        """Return every contract by its fingerprint, in the order in which they were first saved.

        Raises:
            StoreError: a contract file is unreadable or was altered.
        """
        saved = sorted(self._saved_contracts(), key=lambda pair: pair[0])
        return {contract.fingerprint: contract for _, contract in saved}

    def contract(self, fingerprint: str) -> FeatureContract:
        """Return the contract whose fingerprint begins with `fingerprint`.

        Raises:
            UnknownContractError: no fingerprint begins so, or several do (AmbiguousContractError).
        """
        contracts = self.contracts()
        matches = [known for known in contracts if fingerprint and known.startswith(fingerprint)]
        if not matches:
            raise UnknownContractError(fingerprint, list(contracts), str(self.root))
        if len(matches) > 1:
            raise AmbiguousContractError(fingerprint, matches)
        return contracts[matches[0]]

    def newest_contract(self) -> FeatureContract:
        """Return the contract that was saved last.

        Raises:
            UnknownContractError: the store has no contract.
        """
        contracts = list(self.contracts().values())
        if not contracts:
            raise UnknownContractError("the newest", [], str(self.root))
        return contracts[-1]

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
                    f"{path} is damaged, so it is not a contract; restore it from a backup, or delete it and run "
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
    """Return view and fingerprint of each folder with rows of one contract, failures last."""
    encoder, whole = contract.encoder.fingerprint, contract.fingerprint
    return [(CV_VECTORS, encoder), (JD_VECTORS, encoder), (GENERATED_JDS, whole), (FAILURES, whole)]
