"""Forget one job seeker: rows of every contract, offline and online, with a tombstone against their return."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from girl_features.errors import StoreError
from girl_features.schema import JOB_SEEKER_ID
from girl_features.store.online.ledger import Ledger
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import VIEWS
from girl_features.store.repo import open_repo


class EraseReport(NamedTuple):
    """What was removed."""

    n_rows: int  # from the parts
    n_online: int  # from the online store


def erase(repo: Path, store: PartsStore, job_seeker_id: str) -> EraseReport:
    """Remove the job seeker from the parts and from the online store of the Feast repo.

    The CV itself stands in the tables that this project only reads; it is generated for no more.

    Raises:
        StoreLockedError: another run is writing or publishing.
        StoreError: no Feast repo, or an online store that cannot delete one entity.
    """
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from girl_features.store.online.packed_store import PackedOnlineStore

    feast_store = open_repo(repo)
    online: Any = feast_store._get_provider().online_store
    folders = [store.root / name for name, spec in VIEWS.items() if spec.key == JOB_SEEKER_ID]
    with store.lock(), Ledger.of(store.root, repo, feast_store.project):
        n_rows = store.erase(job_seeker_id)
        if not isinstance(online, PackedOnlineStore):
            raise StoreError(
                f"{job_seeker_id!r} is gone from the parts ({n_rows} rows), but {type(online).__name__} cannot delete "
                f"one entity: set `online_store: type: girl_features.store.online_sqlite.PackedSqliteOnlineStore` in "
                f"feature_store.yaml, remove the old online file, and run `girl materialize`"
            )
        n_online = 0
        for view in feast_store.list_feature_views():
            path = Path(getattr(view.batch_source, "path", "/"))
            if path.parent in folders:
                key = EntityKey(join_keys=view.join_keys[:1], entity_values=[Value(string_val=job_seeker_id)])
                n_online += online.delete_entities(feast_store.config, view, [key])
    return EraseReport(n_rows, n_online)
