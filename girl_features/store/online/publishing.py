"""Publish the newest row of each id to Feast's online store.

Stock SQLite keeps whatever was written last, so an old row must never be sent over a newer one: for each id
that unpublished parts touch, the newest row over *all* parts goes out. Sending it twice changes nothing, so a
crash before the ledger is written costs time, not truth.
"""

from __future__ import annotations

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
from girl_features.store.names import ViewNames
from girl_features.store.online.ledger import Ledger
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import CV_VECTORS, GENERATED_JDS, JD_VECTORS, VIEWS
from girl_features.store.repo import contract_service, open_repo

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView


class PublishReport(NamedTuple):
    """Rows sent to the online store, by Feast view; zeros where it was up to date."""

    n_rows: dict[str, int]

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

    One run at a time for a target; parts may be written meanwhile, and go out the next time. A view whose online
    rows were lost (emptied, or dropped and applied again) is noticed by one look-up and sent whole.

    Args:
        batch_size: rows converted and written at a time.
        republish: send every id's newest row, whatever was published before.
        progress: told the number of rows of each batch once it is written.

    Raises:
        UnknownContractError: the contract is not in the registry; `feast apply` first.
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
            key = VIEWS[view].key
            alive = store.erased.condition([key])
            target = _Target(feast_store, feast_store.get_feature_view(name), key, ledger, alive)
            n_rows[name] = target.publish(store.sound_parts(view, fingerprint), batch_size, progress)
    return PublishReport(n_rows)


class _Target:
    """One Feast view and what it already holds online."""

    def __init__(self, store: FeatureStore, view: FeatureView, key: str, ledger: Ledger, alive: str) -> None:
        self._store = store
        self._view = view
        self._key = key
        self._ledger = ledger
        self._alive = alive  # SQL: true for rows of nobody who was erased
        self._features = [feature.name for feature in view.features]

    def publish(self, parts: list[Path], batch_size: int, progress: Callable[[int], None] | None) -> int:
        published = self._ledger.published(self._view.name)
        old = [path for path in parts if path.name in published]
        if old and not self._still_holds(old[0]):
            self._ledger.forget(self._view.name)
            old = []
        new = [path for path in parts if path not in old]
        n_rows = 0
        for batch in newest_rows(parts, new, self._key, self._features, batch_size, self._alive) if new else ():
            self._write(batch)
            n_rows += batch.num_rows
            if progress is not None:
                progress(batch.num_rows)
        if new:
            self._ledger.record(self._view.name, [path.name for path in parts])
        return n_rows

    def _still_holds(self, part: Path) -> bool:
        query = f"SELECT {self._key} FROM {parquet_relation([part])} WHERE {self._alive} LIMIT 1"
        row = duckdb.execute(query).fetchone()
        if row is None:
            return True
        feature = self._features[0]
        with online_errors(self._store):
            online = self._store.get_online_features(
                [f"{self._view.name}:{feature}"], [{self._view.join_keys[0]: row[0]}]
            )
        return online.to_dict()[feature][0] is not None

    def _write(self, batch: pa.RecordBatch) -> None:
        from girl_features.store.online.packed_store import PackedOnlineStore

        online: Any = self._store._get_provider().online_store
        with online_errors(self._store):
            if isinstance(online, PackedOnlineStore):
                names = [self._view.join_keys[0] if name == self._key else name for name in batch.schema.names]
                batch = batch.rename_columns(names)
                online.write_arrow(self._store.config, self._view, batch, EVENT_TIMESTAMP, CREATED_TIMESTAMP)
            else:
                self._store.write_to_online_store(self._view.name, batch.to_pandas())


def newest_rows(
    parts: list[Path], touching: list[Path], key: str, features: list[str], batch_size: int, alive: str = "true"
) -> Iterator[pa.RecordBatch]:
    """The newest row over `parts` of each id that occurs in `touching`, at most `batch_size` at a time.

    Newest is by event, then created timestamp, then part name and place in it. The choice is made on keys and
    times alone and the wide columns are read afterwards, so that memory follows the ids, not the vectors. Rows for
    which the SQL `alive` is not true are left out: a part of a backup may hold people who were erased.
    """
    columns = ", ".join([key, EVENT_TIMESTAMP, CREATED_TIMESTAMP, *features])
    rows = parquet_relation(parts, filename=True, file_row_number=True)
    query = f"""
        WITH newest AS (
            SELECT max(({EVENT_TIMESTAMP}, {CREATED_TIMESTAMP}, filename, file_row_number)) AS pick
            FROM {rows}
            WHERE {key} IN (SELECT {key} FROM {parquet_relation(touching)}) AND {alive}
            GROUP BY {key}
        )
        SELECT {columns}
        FROM {rows} AS part
        JOIN newest ON part.filename = pick[3] AND part.file_row_number = pick[4]
    """
    with connected() as connection:
        yield from connection.execute(query).to_arrow_reader(batch_size)


@contextmanager
def online_errors(store: FeatureStore) -> Iterator[None]:
    """What SQLite, Redis and the network raise, as StoreErrors."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"Feast's online store of project {store.project!r} does not answer: {error}; if its file was removed, "
            f"remove the registry beside it too, run `feast apply`, then publish again"
        ) from error
    except _network_errors() as error:
        raise StoreError(
            f"Feast's online store of project {store.project!r} does not answer: {error}; see that the server which "
            f"`online_store:` of feature_store.yaml names is up, then run the same command again: what is in the "
            f"parts is not generated again"
        ) from error


def _network_errors() -> tuple[type[Exception], ...]:
    redis = sys.modules.get("redis")  # not imported: then none of its errors is about
    return (OSError,) if redis is None else (OSError, redis.RedisError)
