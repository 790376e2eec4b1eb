"""One local batch over tables that are open already, with models and a store that a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from girl_features.batch.chunk import Origin
from girl_features.batch.local import local_chunks
from girl_features.batch.run import Batch, MaterializeReport, fill_store
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.generator import Generator
from girl_features.generator.opening import LoadedModels
from girl_features.input.tables import Tables
from girl_features.store.files import LOCK_WAIT_S
from girl_features.store.parts import PartsStore


def materialize(
    tables: Tables,
    generator: Generator,
    encoder: TextEncoder,
    contract: FeatureContract,
    store: PartsStore,
    *,
    chunk_size: int,
    run: str,
    engine: str,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    should_stop: Callable[[], bool] = lambda: False,
    retry_failed: bool = False,
    lock_wait_s: float = LOCK_WAIT_S,
) -> MaterializeReport:
    """Bring the store up to date for `contract`, without publishing."""
    models = LoadedModels(encoder, generator, contract)
    batch = Batch(tables, store, Origin(contract, run, engine), chunk_size, now, should_stop)
    return fill_store(batch, local_chunks(models), retry_failed=retry_failed, lock_wait_s=lock_wait_s)
