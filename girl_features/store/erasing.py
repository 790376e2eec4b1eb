"""Erase one job seeker: remove the rows of every contract, offline and online, and keep them out by a tombstone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from girl_features.errors import DataError, StoreError
from girl_features.schema import JOB_SEEKER_ID
from girl_features.store.online.publishing import Ledger
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import VIEWS
from girl_features.store.repo import open_repo


class EraseReport(NamedTuple):
    """Numbers of removed rows."""

    n_rows: int  # in the parts
    n_online: int  # in the online store


def erase(repo: Path, store: PartsStore, job_seeker_id: str) -> EraseReport:
    """Remove the job seeker from the parts and from the online store of the Feast repo.

    The CV stays in the input tables, which this project only reads, but no JD is generated from it any more.

    Raises:
        DataError: `job_seeker_id` is not a string.
        StoreLockedError: another run is writing or publishing.
        StoreError: no Feast repo, or the online store cannot delete a single entity.
    """
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.type_map import python_values_to_proto_values

    from girl_features.store.entity_ids import possible_ids
    from girl_features.store.online.packed_store import PackedOnlineStore

    if not isinstance(job_seeker_id, str):
        raise DataError(f"ids are strings, found {job_seeker_id!r} of type {type(job_seeker_id).__name__}; convert it")
    feast_store = open_repo(repo)
    online: Any = feast_store._get_provider().online_store
    folders = [store.root / name for name, spec in VIEWS.items() if spec.key == JOB_SEEKER_ID]
    with store.lock(), Ledger.of(store.root, repo, feast_store.project):
        n_rows = store.erase(job_seeker_id)
        if not isinstance(online, PackedOnlineStore):
            raise StoreError(_left_online(job_seeker_id, n_rows, type(online).__name__))
        n_online = 0
        for view in feast_store.list_feature_views():
            path = Path(getattr(view.batch_source, "path", "/"))
            if path.parent in folders:
                value_type = view.entity_columns[0].dtype.to_value_type()
                ids = [name for name in possible_ids([job_seeker_id], value_type) if name is not None]
                values = python_values_to_proto_values(ids, value_type)
                keys = [EntityKey(join_keys=view.join_keys[:1], entity_values=[value]) for value in values]
                n_online += online.delete_entities(feast_store.config, view, keys)
    return EraseReport(n_rows, n_online)


def _left_online(job_seeker_id: str, n_rows: int, store: str) -> str:
    found = f"{job_seeker_id!r} was removed from the parts ({n_rows} rows)"
    if not n_rows:
        found = f"the parts hold no row of {job_seeker_id!r}, so check the id for typing errors"
    return (
        f"{found}, but {store} cannot delete one entity, so rows of this id may still be in the online store. Delete "
        f"them there; or change to a store that can: set `online_store: {{type: "
        f"girl_features.store.online_sqlite.PackedSqliteOnlineStore, path: data/packed.db}}` in feature_store.yaml, "
        f"run `girl materialize`, and `feast materialize-incremental` for views of your own, and then delete the old "
        f"store"
    )
