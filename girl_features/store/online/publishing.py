"""Publish the newest row of each id to Feast's online store.

Feast's own SQLite store keeps the row that was written last, even if it is older. So for each id in the unpublished
parts the newest row over *all* parts is sent. Sending a row twice changes nothing, so after a crash before the ledger
is written the rows are only sent again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import pyarrow as pa

from girl_features.contract import FeatureContract
from girl_features.errors import StoreError
from girl_features.schema import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from girl_features.sql import connected, parquet_relation
from girl_features.store.feast_sources import SourceColumns
from girl_features.store.files import LOCK_WAIT_S, exclusive_lock, write_whole
from girl_features.store.parts import PartsStore
from girl_features.store.parts.latest import RowSelection, read_rows
from girl_features.store.parts.rows import CV_VECTORS, GENERATED_JDS, JD_VECTORS, VIEWS
from girl_features.store.parts.tombstones import Tombstones
from girl_features.store.repo import ViewNames, contract_service, open_repo

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView


class Ledger:
    """Names of the published parts by Feast view, in a small JSON file for each target, beside the parts.

    `record` and `forget` return once their change is on disk.
    """

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


class PublishReport(NamedTuple):
    """Counts of one publication."""

    n_rows: dict[str, int]  # sent to the online store, by Feast view

    @property
    def total(self) -> int:
        """Rows over all views."""
        return sum(self.n_rows.values())


def publish(
    repo: Path,
    store: PartsStore,
    contract: FeatureContract,
    *,
    batch_size: int = 10_000,
    republish: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PublishReport:
    """Bring the online store of the Feast repo up to date with the parts of `contract`.

    One run publishes to a target at a time. Parts that are written meanwhile are published by the next run. One lookup
    for each view detects that its online rows were lost (emptied, or dropped and applied again); then all are sent.
    With `republish`, the newest row of every id is sent, even if it was published before. `progress` is called with the
    number of rows after each batch of `batch_size`.

    Raises:
        UnknownContractError: the contract is not in the registry; `feast apply` first.
        DataError: the entity has integer ids, and a stored id is not the text of one.
        StoreLockedError: another run is publishing to this target.
        StoreError: no Feast repo, or its online store cannot be read or written.
    """
    feast_store = open_repo(repo)
    contract_service(feast_store, contract.fingerprint)
    names, encoder = ViewNames.of(contract), contract.encoder.fingerprint
    sources = {
        names.cv: (CV_VECTORS, encoder),
        names.jd: (JD_VECTORS, encoder),
        names.generated: (GENERATED_JDS, contract.fingerprint),
        names.texts: (GENERATED_JDS, contract.fingerprint),
    }
    n_rows = {}
    with Ledger.of(store.root, repo, feast_store.project) as ledger:
        for name, (view, fingerprint) in sources.items():
            if republish:
                ledger.forget(name)
            feast_view = feast_store.get_feature_view(name)
            publisher = _ViewPublisher(feast_store, feast_view, VIEWS[view].key, ledger, store.erased)
            n_rows[name] = publisher.publish(store.sound_parts(view, fingerprint), batch_size, progress)
    return PublishReport(n_rows)


class _ViewPublisher:
    """Publishes one Feast view."""

    def __init__(self, store: FeatureStore, view: FeatureView, key: str, ledger: Ledger, erased: Tombstones) -> None:
        self._store, self._view, self._key, self._ledger, self._erased = store, view, key, ledger, erased
        self._features = [feature.name for feature in view.features]

    def publish(self, parts: list[Path], batch_size: int, progress: Callable[[int], None] | None) -> int:
        """Send the rows that changed, and return their number."""
        published_names = self._ledger.published(self._view.name)
        published = [path for path in parts if path.name in published_names]
        if published and not self._is_online(published[0]):
            self._ledger.forget(self._view.name)
            published = []
        new = [path for path in parts if path not in published]
        if not new:
            return 0
        n_rows = 0
        columns = SourceColumns([self._key], self._features, EVENT_TIMESTAMP, CREATED_TIMESTAMP)
        newest = RowSelection(columns, where="true", touching="true", latest=True)
        with connected() as connection:
            for batch in read_rows(connection, parts, newest, self._erased, batch_size, touching_files=new):
                self._write(batch)
                n_rows += batch.num_rows
                if progress is not None:
                    progress(batch.num_rows)
        self._ledger.record(self._view.name, [path.name for path in parts])
        return n_rows

    def _is_online(self, part: Path) -> bool:
        """True if the online store has the id of one row of a published part, or if the part has no rows."""
        not_erased = self._erased.condition([self._key])
        row = duckdb.execute(
            f"SELECT {self._key} FROM {parquet_relation([part])} WHERE {not_erased} LIMIT 1"
        ).fetchone()
        if row is None:
            return True
        feature = self._features[0]
        [key] = self._in_entity_type([row[0]])
        with online_errors(self._store):
            online = self._store.get_online_features([f"{self._view.name}:{feature}"], [{self._view.join_keys[0]: key}])
        return online.to_dict()[feature][0] is not None

    def _in_entity_type(self, ids: list[str]) -> list[Any]:
        """Return the text ids of the parts as ids of the view's entity, which may be an entity of the user's own."""
        from girl_features.store.entity_ids import exact_ids

        [field] = self._view.entity_columns
        return exact_ids(f"{self._key!r} of the view {self._view.name!r}", ids, field.dtype.to_value_type())

    def _write(self, batch: pa.RecordBatch) -> None:
        from feast.types import String

        from girl_features.store.online.packed_store import PackedOnlineStore

        online: Any = self._store._get_provider().online_store
        if self._view.entity_columns[0].dtype != String:
            place = batch.schema.names.index(self._key)
            batch = batch.set_column(place, self._key, pa.array(self._in_entity_type(batch[self._key].to_pylist())))
        with online_errors(self._store):
            if isinstance(online, PackedOnlineStore):
                names = [self._view.join_keys[0] if name == self._key else name for name in batch.schema.names]
                batch = batch.rename_columns(names)
                online.write_arrow(self._store.config, self._view, batch, EVENT_TIMESTAMP, CREATED_TIMESTAMP)
            else:
                self._store.write_to_online_store(self._view.name, batch.to_pandas())


@contextmanager
def online_errors(store: FeatureStore) -> Iterator[None]:
    """Turn errors of SQLite, Redis and the network into StoreErrors."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"Feast's online store of project {store.project!r} does not answer: {error}; if its file was removed, "
            f"remove the registry beside it too, run `feast apply`, then publish again"
        ) from error
    except _network_errors() as error:
        raise StoreError(
            f"Feast's online store of project {store.project!r} does not answer: {error}; see that the server "
            f"in `online_store:` of feature_store.yaml is running, then run the same command again: rows that are in "
            f"the parts are not generated again"
        ) from error


def _network_errors() -> tuple[type[Exception], ...]:
    redis = sys.modules.get("redis")  # if it is not imported, it cannot have raised an error
    return (OSError,) if redis is None else (OSError, redis.RedisError)
